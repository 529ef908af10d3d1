"""Token ids of one window to timed segments and words."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from distilwhisper.speech.units import HOP_SAMPLES, SAMPLE_RATE_HZ, WINDOW_S
from distilwhisper.text.tokens import TIMESTAMPS_PER_SECOND, Tokenizer

FRAMES_PER_SECOND = SAMPLE_RATE_HZ // HOP_SAMPLES  # what "seek" is counted in
FRAMES_PER_TIMESTAMP = FRAMES_PER_SECOND // TIMESTAMPS_PER_SECOND

SENTENCE_ENDS = ".。!！?？"
_LONGEST_PAUSE_S = 2.0  # inside a segment that two windows share

Place = tuple[int, int]  # a window, and a segment in it


@dataclass(frozen=True)
class TimedSegment:
    """A run of text tokens between two timestamps."""

    start_s: float  # on the recording's clock
    end_s: float
    token_ids: tuple[int, ...]  # text only
    places: tuple[int, ...] = field(default=(), compare=False)  # theirs in the window's tokens


@dataclass(frozen=True)
class TimedWord:
    """A word with the space before it, and when it was spoken."""

    text: str
    token_ids: tuple[int, ...]
    start_s: float
    end_s: float
    segment: int  # which segment of its window it stood in
    probability: float | None = None  # None where the times are estimates
    logprobs: tuple[float, ...] = ()  # of its tokens; empty where they are not known


class TextRun(NamedTuple):
    """Text tokens that follow each other, and the timestamps around them, in steps of 20 ms."""

    opened: int  # 0 where the window begins with this text
    closed: int | None  # None: nothing stands behind it
    text: slice  # its places


def runs_of_text(token_ids: Sequence[int], tokenizer: Tokenizer) -> Iterator[TextRun]:
    """Cut a window's tokens at its timestamps; every token of text is in one run."""
    opened = first = 0
    for place, token_id in enumerate(token_ids):
        if not tokenizer.is_timestamp(token_id):
            continue
        step = token_id - tokenizer.timestamp_begin
        if first < place:
            yield TextRun(opened, step, slice(first, place))
        opened, first = step, place + 1
    if first < len(token_ids):
        yield TextRun(opened, None, slice(first, len(token_ids)))


def text_segment(
    token_ids: Sequence[int], part: slice, tokenizer: Tokenizer, *, start_s: float, end_s: float
) -> TimedSegment:
    """Return the text of a part of a window's tokens as a segment."""
    # A weak model writes, say, a language into a text.
    places = tuple(p for p in range(len(token_ids))[part] if not tokenizer.is_special(token_ids[p]))
    return TimedSegment(start_s, end_s, tuple(token_ids[place] for place in places), places)


def split_segments(
    token_ids: Sequence[int], tokenizer: Tokenizer, *, start_s: float, end_s: float
) -> list[TimedSegment]:
    """Cut the tokens of a window, which lasts from ``start_s`` to ``end_s``, at its timestamps.

    Text before the first timestamp begins with the window, and text behind the last one ends with
    it. Timestamps beyond the window's end are moved back to it: the padding holds no speech.
    """
    segments: list[TimedSegment] = []
    for opened, closed, text in runs_of_text(token_ids, tokenizer):
        from_s = min(start_s + opened / TIMESTAMPS_PER_SECOND, end_s)
        closed_s = end_s if closed is None else start_s + closed / TIMESTAMPS_PER_SECOND
        to_s = max(min(closed_s, end_s), from_s)
        segments.append(text_segment(token_ids, text, tokenizer, start_s=from_s, end_s=to_s))
    return [segment for segment in segments if segment.token_ids]


def split_window(
    token_ids: Sequence[int], tokenizer: Tokenizer, *, start_s: float, n_frames: int
) -> tuple[list[tuple[TimedSegment, Sequence[int]]], int]:
    """Cut the tokens of a window, of ``n_frames`` of 10 ms, and find where the next one begins.

    Two timestamps in a row end one segment and begin the next. The last segment is left to the
    next window, which begins with it, unless a single timestamp ended it.

    Returns:
        The segments that hold text, each with its ids as decoded, and the frames to move on by.
    """
    is_time = [tokenizer.is_timestamp(token_id) for token_id in token_ids]
    cuts = [i for i in range(1, len(token_ids)) if is_time[i - 1] and is_time[i]]
    end, moved = len(token_ids), n_frames
    if not cuts:
        times = [i for i, is_one in zip(token_ids, is_time, strict=True) if is_one]
        spoken_s = tokenizer.timestamp_s(times[-1]) if times else 0.0
        spans = [(start_s, start_s + (spoken_s or n_frames / FRAMES_PER_SECOND), slice(0, end))]
    else:
        if is_time[-2:] != [False, True]:
            end = cuts[-1]
            moved = (token_ids[end - 1] - tokenizer.timestamp_begin) * FRAMES_PER_TIMESTAMP
        spans = [
            (
                start_s + run.opened / TIMESTAMPS_PER_SECOND,
                start_s + (run.closed or 0) / TIMESTAMPS_PER_SECOND,
                slice(max(run.text.start - 1, 0), run.text.stop + 1),
            )
            for run in runs_of_text(token_ids, tokenizer)
            if run.text.stop < end
        ]
    spoken: list[tuple[TimedSegment, Sequence[int]]] = []
    for start, stop, part in spans:
        one = text_segment(token_ids, part, tokenizer, start_s=start, end_s=stop)
        if stop > start and tokenizer.decode(one.token_ids).strip():
            spoken.append((one, token_ids[part]))
    return spoken, moved


def split_words(
    segments: Sequence[TimedSegment],
    tokenizer: Tokenizer,
    *,
    spaced: bool,
    logprobs: Sequence[float] = (),
) -> list[TimedWord]:
    """Cut the segments of a window into words, sharing each one's time out by length of text.

    The times are estimates, good to a second or so: enough to line up two windows with the same
    words. A word begins where a token's text begins with a space; where words are not spaced, as
    in some scripts, every token that is whole characters is one. ``logprobs`` are those of the
    window's tokens, where they are known.
    """
    words: list[TimedWord] = []
    for number, segment in enumerate(segments):
        pieces = word_pieces(segment.token_ids, tokenizer, spaced)
        lengths = [max(len(text), 1) for text, _ in pieces]
        rate = (segment.end_s - segment.start_s) / sum(lengths)
        at_s, first = segment.start_s, 0
        for (text, ids), length in zip(pieces, lengths, strict=True):
            end_s, stop = at_s + rate * length, first + len(ids)
            own = tuple(logprobs[p] for p in segment.places[first:stop]) if logprobs else ()
            words.append(TimedWord(text, tuple(ids), at_s, end_s, number, logprobs=own))
            at_s, first = end_s, stop
    return words


def word_pieces(
    token_ids: Sequence[int], tokenizer: Tokenizer, spaced: bool
) -> list[tuple[str, list[int]]]:
    """Group tokens into words: (text, its tokens)."""
    pieces: list[tuple[str, list[int]]] = []
    pending: list[int] = []
    for token_id in token_ids:
        pending.append(token_id)
        text = tokenizer.decode(pending)
        if "\ufffd" in text:  # part of a character: its other bytes follow
            continue
        is_word = text.startswith(" ") if spaced else any(c.isalnum() for c in text)
        if pieces and not is_word:
            before, ids = pieces[-1]
            pieces[-1] = (before + text, ids + pending)
        else:
            pieces.append((text, pending))
        pending = []
    if pending:
        pieces.append((tokenizer.decode(pending), pending))
    return pieces


NumberedWord = tuple[int, TimedWord]  # with the number of its window


def word_key(text: str) -> str:
    """Return what makes two words equal: letters and digits; empty for punctuation."""
    return "".join(c for c in text.casefold() if c.isalnum())


def group_words(
    words: Sequence[NumberedWord], n_words: Mapping[Place, int]
) -> list[list[NumberedWord]]:
    """Group words, each with the number of its window, into segments.

    A segment is what was kept of the ``n_words`` of a window's segment. Where one window's text
    passes into the next one's inside a segment, and inside a sentence, the two parts are one,
    unless that would be longer than a window or hold a pause.
    """
    kept = Counter(map(_place, words))
    groups: list[list[NumberedWord]] = []
    for place, same in groupby(words, key=_place):
        group = list(same)
        before = _place(groups[-1][-1]) if groups else place
        is_cut = any(kept[one] < n_words[one] for one in (before, place))
        if before[0] != place[0] and is_cut and _belong_together(groups[-1], group):
            groups[-1] += group
        else:
            groups.append(group)
    return groups


def whole_segments(words: Sequence[NumberedWord], n: int) -> int:
    """Return how many of the first ``n`` words are of segments of which none stands behind them."""
    behind = set(map(_place, words[n:]))
    for number in range(n - 1, -1, -1):
        if _place(words[number]) in behind:
            behind.update(map(_place, words[number:n]))
            n = number
    return n


def _place(word: NumberedWord) -> Place:
    return word[0], word[1].segment


def _belong_together(before: Sequence[NumberedWord], after: Sequence[NumberedWord]) -> bool:
    (_, first), (_, last), (_, next_), (_, end) = before[0], before[-1], after[0], after[-1]
    return (
        not last.text.rstrip("\"'”’»)] ").endswith(tuple(SENTENCE_ENDS))
        and next_.start_s - last.end_s <= _LONGEST_PAUSE_S
        and end.end_s - first.start_s <= WINDOW_S
    )
