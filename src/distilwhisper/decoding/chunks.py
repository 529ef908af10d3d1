"""Chunks of a long recording: where to cut, and how to join their texts.

Numbers and words alone; reading audio and running the model is ``transcription.py``'s.

Neighbours meet in a pause, where there is one; then each word is in one of them alone. Elsewhere
they share some seconds. Their words there are lined up at the longest common run, and the text
passes from the earlier chunk to the later one in the middle of it: far from both edges, where a
word may be cut in two. What only one of the two has stays. Where they differ about the same stretch
of time, or agree on nothing, one reading of that time is kept.

Source: arXiv:2311.00430, section 5 ("chunked"); all chunks of the published pipeline overlap. It
aligns token ids at the best sliding offset, this one words by longest common run, which a slipped
word cannot break.
"""

import heapq
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import itemgetter

from distilwhisper.decoding.segments import NumberedWord, TimedWord, word_key
from distilwhisper.speech.units import Span, merged_spans

WHOLE = Span(0, sys.maxsize)  # all of a recording, however long it is

# How far an estimated word time may be off: words this far outside an overlap still take part.
TIME_SLACK_S = 2.0

# A segment that lasts longer than its words need, spoken fast or slowly, may hold silence, and an
# estimate does not know where. Runs of so many words are found wherever that leaves them.
FAST_WORD_S, SLOW_WORD_S = 0.25, 0.5
SURE_RUN = 4

# Words of two readings this near to each other are readings of the same sound; between words that
# both have, a reading with so many words less than the other has left some out.
COVER_S = 0.5
MUCH_LESS = 3


@dataclass(frozen=True)
class Cut:
    """How long the chunks of a recording are, and what they share.

    Raises:
        ValueError: no plan can have these lengths.
    """

    chunk_samples: int  # of a chunk at most
    # What neighbours share at least where they do not meet in a pause, unless the last chunk makes
    # it less. (The published pipeline's "stride" is per side: half of that.)
    overlap_samples: int
    # Of the last chunk, or the most of one that begins in a pause. Models transcribe a short piece
    # at the end badly, and drop the last sentence where no silence follows it in the window.
    last_samples: int
    # Given a stretch and the earliest place in it, returns one in a pause, where a chunk ends and
    # the next one begins, or None. Without it all neighbours share.
    find_pause: Callable[[Span, int], int | None] | None = None

    def __post_init__(self) -> None:
        chunk, last = self.chunk_samples, self.last_samples
        most = min(chunk - 1, 2 * last - chunk)
        if not (1 <= last <= chunk and 0 <= self.overlap_samples <= most):
            raise ValueError(
                "1 <= last <= chunk and 0 <= overlap <= min(chunk - 1, 2 * last - chunk) must "
                f"hold, found {self}"
            )


@dataclass(frozen=True)
class ChunkSpan(Span):
    """Where a chunk lies, in samples."""

    shared: int = 0  # of its end, what is at least in the next chunk as well


def plan_chunks(reach: Callable[[int], int], cut: Cut, within: Span = WHOLE) -> Iterator[ChunkSpan]:
    """Cut a recording into chunks that cover it, reading it no further than they must.

    What fits into one chunk is one; without a sample it is none.

    Args:
        reach: given a place, returns how many of the samples before it the recording has: the
            place itself, or less where the recording ends. Asked in order.
        cut: how it is cut.
        within: the part that is cut; it begins in the recording, and may end behind it.
    """
    chunk, find_pause, start = cut.chunk_samples, cut.find_pause, within.start
    step = chunk - cut.overlap_samples
    least = 1 if find_pause is None else -(-chunk // 4)  # what a cut leaves behind it
    met = start  # where two chunks last met in a pause
    while True:
        stop = reach(min(start + chunk + least, within.stop))
        left = stop - start
        if left <= (chunk if start == within.start or not find_pause else cut.last_samples):
            break
        end = start + min(chunk, left - least)
        pause = find_pause(Span(start, end), end - chunk // 3) if find_pause else None
        if pause is not None:
            yield ChunkSpan(start, pause)
            start = met = pause
        elif left > chunk:
            yield ChunkSpan(start, start + chunk, cut.overlap_samples)
            start += step
        else:
            met = start
            break
    if start == within.start:
        if stop > start:
            yield ChunkSpan(start, stop)
        return
    last = max(stop - cut.last_samples, met)
    if last > start:  # the one before would be too far off: one more between the two
        middle = max((start - step + last) // 2, met)
        end = min(middle + chunk, stop)
        yield ChunkSpan(middle, end, end - last)
    yield ChunkSpan(last, stop)


def plan_speech(spans: Iterable[Span], cut: Cut) -> Iterator[ChunkSpan]:
    """Cut spans of speech into chunks: neighbours share one while it has room for them.

    A span that is longer than a chunk is cut as by :func:`plan_chunks`; other chunks share nothing,
    as they end in silence.
    """
    for span in merged_spans(spans, cut.chunk_samples):
        yield from plan_chunks(lambda stop: stop, cut, span)


class JoinedText:
    """The text of overlapping chunks, joined as they come, in order of time."""

    def __init__(self) -> None:
        self._placed: list[_Placed] = []
        self._n_parts = 0
        self._stop_s = 0.0

    def add(self, words: Sequence[TimedWord], *, start_s: float, stop_s: float) -> None:
        """Join the words of one more chunk, or of a part of it, to the text."""
        new = _place(self._n_parts, words)
        if start_s < self._stop_s:
            first, n_shared, run = _shared(self._placed, new, start_s, self._stop_s)
            middle_s = (start_s + self._stop_s) / 2
            new = [*_merge(self._placed[first:], new[:n_shared], run, middle_s), *new[n_shared:]]
            del self._placed[first:]
        self._placed += new
        self._n_parts += 1
        self._stop_s = max(self._stop_s, stop_s)

    def words(self, first: int = 0) -> list[NumberedWord]:
        """Return the words from one on, each with the number of its chunk."""
        return [(one.number, one.word) for one in self._placed[first:]]

    def n_settled(self, start_s: float) -> int:
        """Return how many of the words no chunk can change that begins there or later."""
        for n, one in enumerate(self._placed):
            if one.word.end_s + one.room_s > start_s - TIME_SLACK_S:
                return n
        return len(self._placed)


@dataclass(frozen=True)
class _Placed:
    """A word, and the earliest and latest place that its segment leaves it, spoken slowly."""

    number: int
    word: TimedWord
    key: str  # what makes two words equal; empty for punctuation
    early: tuple[float, float]
    late: tuple[float, float]
    room_s: float  # by how much the estimate may be off, if it was spoken fast


def _place(number: int, words: Sequence[TimedWord]) -> list[_Placed]:
    placed: list[_Placed] = []
    for _, group in groupby(words, key=lambda word: word.segment):
        segment = list(group)
        start_s, end_s = segment[0].start_s, segment[-1].end_s
        is_shared_out = all(a.end_s == b.start_s for a, b in pairwise(segment))
        length_s = (end_s - start_s) if is_shared_out else 0.0
        share = min(SLOW_WORD_S * len(segment) / length_s, 1.0) if length_s else 1.0
        room_s = max(length_s - FAST_WORD_S * len(segment), 0.0)
        for word in segment:
            early = [start_s + share * (t - start_s) for t in (word.start_s, word.end_s)]
            late = [end_s - share * (end_s - t) for t in (word.start_s, word.end_s)]
            spans = (early[0], early[1]), (late[0], late[1])
            placed.append(_Placed(number, word, word_key(word.text), *spans, room_s))
    return placed


Words = Sequence[_Placed]
Stretch = tuple[Words, Words]  # two readings of one time: the earlier chunk's, the later one's
Run = tuple[int, int, int]  # place in one text, place in the other, length; of no words: zeros


def _shared(joined: Words, new: Words, start_s: float, stop_s: float) -> tuple[int, int, Run]:
    """Return which words two chunks may share, and the longest run of words that they do.

    They are given as the first word of the text, and how many of the new ones. Where the estimates
    bring no run of a few words together, one is looked for as far away as the segments leave room.
    """
    middle_s = (start_s + stop_s) / 2
    bounds = []
    for share in (0.0, 1.0):  # of the room
        from_s, to_s = start_s - TIME_SLACK_S, stop_s + TIME_SLACK_S
        late = (i for i, w in enumerate(joined) if w.word.end_s + share * w.room_s > from_s)
        n_new = sum(w.word.start_s - share * w.room_s < to_s for w in new)
        bounds.append((next(late, len(joined)), n_new))
    (near, n_near), (first, n_shared) = bounds
    run = _longest_run(joined[near:], new[:n_near], middle_s)
    if run[2] >= SURE_RUN:
        return first, n_shared, (run[0] + near - first, run[1], run[2])
    far = _longest_run(joined[first:], new[:n_shared], middle_s, room_share=1.0)
    return (first, n_shared, far) if far[2] >= SURE_RUN else (near, n_near, run)


def _merge(tail: Words, head: Words, anchor: Run, middle_s: float) -> list[_Placed]:
    """Merge the end of a text with the beginning of the next chunk's.

    The text passes from one to the other in the middle of the longest run of words that both
    have. If they differ in more words than they share, they are not about the same sound.
    """
    i, j, length = anchor
    before = _align(tail[:i], head[:j], middle_s)
    after = _align(tail[i + length :], head[j + length :], middle_s)
    n_common = length + sum(len(same) for same, _ in (*before[1::2], *after[1::2]))
    n_differing = sum(min(map(len, stretch)) for stretch in (*before[::2], *after[::2]))
    if not length or n_common < n_differing:
        return _keep_apart(tail, head, middle_s)
    half = (length + 1) // 2
    return [
        *_chosen(before, outermost=0, tail_wins=True),
        *tail[i : i + half],
        *head[j + half : j + length],
        *_chosen(after, outermost=len(after) - 1, tail_wins=False),
    ]


def _align(tail: Words, head: Words, middle_s: float) -> list[Stretch]:
    """Line two readings up at the longest run that they share, and again on both sides of it.

    Of the stretches, each second one has the same words in both.
    """
    i, j, length = _longest_run(tail, head, middle_s, room_share=1.0)
    if not length:
        return [(tail, head)]
    return [
        *_align(tail[:i], head[:j], middle_s),
        (tail[i : i + length], head[j : j + length]),
        *_align(tail[i + length :], head[j + length :], middle_s),
    ]


def _chosen(stretches: Sequence[Stretch], *, outermost: int, tail_wins: bool) -> Iterator[_Placed]:
    """Yield one reading of each stretch: that of the winner, unless it has much less of it.

    The outermost stretch has common words on one side only: there the loser's words stay that the
    winner has nothing for.
    """
    for number, stretch in enumerate(stretches):
        wins, loses = stretch if tail_wins else stretch[::-1]
        if number == outermost:
            spans = [(w.word.start_s, w.word.end_s) for w in wins]
            extra = [w for w in loses if not _is_covered((w.word.start_s, w.word.end_s), spans)]
            yield from heapq.merge(wins, extra, key=lambda w: w.word.start_s)
        else:
            yield from wins if wins and len(loses) <= len(wins) + MUCH_LESS else loses


def _keep_apart(tail: Words, head: Words, seam_s: float) -> list[_Placed]:
    """Merge readings that share nothing: both, in order, as far as time leaves room for both.

    Where it does not, the text passes over in the middle of the time.
    """
    tail_s = [w.early for w in tail if sum(w.early) / 2 < seam_s]
    head_s = [w.late for w in head if sum(w.late) / 2 >= seam_s]
    timed = (
        [(w.early, w) for w in tail if w.early in tail_s or not _is_covered(w.early, head_s)],
        [(w.late, w) for w in head if w.late in head_s or not _is_covered(w.late, tail_s)],
    )
    return [w for _, w in heapq.merge(*timed, key=itemgetter(0))]


def _is_covered(span_s: tuple[float, float], by_s: Iterable[tuple[float, float]]) -> bool:
    return any(
        start_s - COVER_S < span_s[1] and span_s[0] < stop_s + COVER_S for start_s, stop_s in by_s
    )


def _longest_run(tail: Words, head: Words, middle_s: float, room_share: float = 0.0) -> Run:
    """Return the longest run of equal words that are no further apart in time than the slack.

    Of runs that are equally long, the one whose two times agree best, then the one nearest the
    middle of the overlap.
    """
    best: tuple[tuple[float, float, float], Run] = (0, 0, 0), (0, 0, 0)
    runs = [[0] * (len(head) + 1) for _ in range(len(tail) + 1)]
    for i in range(len(tail) - 1, -1, -1):
        for j in range(len(head) - 1, -1, -1):
            if tail[i].key != head[j].key or not tail[i].key:
                continue
            apart_s = abs(_middle(tail[i].word) - _middle(head[j].word))
            apart_s = max(apart_s - room_share * (tail[i].room_s + head[j].room_s), 0.0)
            if apart_s > 2 * TIME_SLACK_S:
                continue
            length = runs[i][j] = runs[i + 1][j + 1] + 1
            from_middle_s = abs(_middle(tail[i + length // 2].word) - middle_s)
            rank = (length, -round(apart_s), -from_middle_s)
            if rank > best[0]:
                best = rank, (i, j, length)
    return best[1]


def _middle(word: TimedWord) -> float:
    return (word.start_s + word.end_s) / 2
