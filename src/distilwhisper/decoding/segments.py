"""Token ids of one window to timed segments and words."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from distilwhisper.speech.units import WINDOW_S
from distilwhisper.text.tokens import TIMESTAMPS_PER_SECOND, Tokenizer

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


def split_segments(
    token_ids: Sequence[int], tokenizer: Tokenizer, *, start_s: float, end_s: float
) -> list[TimedSegment]:
    """Cut a window's tokens at its timestamps.

    Text before the first timestamp begins with the window, and text behind the last one ends
    with it. Timestamps beyond the window's end are moved back to it: the padding holds
    no speech. The window lasts from ``start_s`` to ``end_s``, where its sound ends.
    """
    segments: list[TimedSegment] = []
    for run in runs_of_text(token_ids, tokenizer):
        opened_s, closed_s = (
            None if step is None else min(start_s + step / TIMESTAMPS_PER_SECOND, end_s)
            for step in (run.opened, run.closed)
        )
        from_s = start_s if opened_s is None else opened_s
        to_s = end_s if closed_s is None else max(closed_s, from_s)
        segment = text_segment(token_ids, run.text, tokenizer, start_s=from_s, end_s=to_s)
        if segment.token_ids:
            segments.append(segment)
    return segments


def text_segment(
    token_ids: Sequence[int], part: slice, tokenizer: Tokenizer, *, start_s: float, end_s: float
) -> TimedSegment:
    """Return the text of a part of a window's tokens as a segment."""
    # A weak model writes, say, a language into a text.
    places = tuple(p for p in range(len(token_ids))[part] if not tokenizer.is_special(token_ids[p]))
    return TimedSegment(start_s, end_s, tuple(token_ids[place] for place in places), places)


class TextRun(NamedTuple):
    """Text tokens that follow each other, and the timestamps around them, in steps of 20 ms."""

    opened: int | None  # None: the window begins with this text
    closed: int | None  # None: nothing stands behind it
    text: slice  # its places


def runs_of_text(token_ids: Sequence[int], tokenizer: Tokenizer) -> Iterator[TextRun]:
    """Cut a window's tokens at its timestamps; every token of text is in one run."""
    opened, first = None, 0
    for place, token_id in enumerate(token_ids):
        if not tokenizer.is_timestamp(token_id):
            continue
        step = token_id - tokenizer.timestamp_begin
        if first < place:
            yield TextRun(opened, step, slice(first, place))
        opened, first = step, place + 1
    if first < len(token_ids):
        yield TextRun(opened, None, slice(first, len(token_ids)))


def split_words(
    segments: Sequence[TimedSegment], tokenizer: Tokenizer, *, spaced: bool
) -> list[TimedWord]:
    """Cut segments into words, sharing each segment's time out by length of text.

    The times are estimates, good to a second or so: enough to line up two windows with
    the same words.

    Args:
        segments: of one window.
        tokenizer: the model's.
        spaced: a word begins where a token's text begins with a space; otherwise, for scripts
            without spaces, every token that is whole characters is a word.
    """
    words: list[TimedWord] = []
    for number, segment in enumerate(segments):
        pieces = word_pieces(segment.token_ids, tokenizer, spaced)
        lengths = [max(len(text), 1) for text, _ in pieces]
        rate = (segment.end_s - segment.start_s) / sum(lengths)
        at_s = segment.start_s
        for (text, ids), length in zip(pieces, lengths, strict=True):
            words.append(TimedWord(text, tuple(ids), at_s, at_s + rate * length, number))
            at_s += rate * length
    return words


def word_key(text: str) -> str:
    """Return what makes two words equal: letters and digits; empty for punctuation."""
    return "".join(c for c in text.casefold() if c.isalnum())


def group_words(
    words: Sequence[tuple[int, TimedWord]], n_words: Mapping[Place, int]
) -> list[list[tuple[int, TimedWord]]]:
    """Group the words that were kept of some windows into segments.

    Each is what was kept of a segment of one window. Where one window's text passes into the
    next one's inside a segment, and inside a sentence, the two parts of it are one segment, unless
    that would be longer than a window or hold a pause.

    A segment had ``n_words`` before some were left out.
    """
    kept = Counter(map(_place, words))
    groups: list[list[tuple[int, TimedWord]]] = []
    for place, same in groupby(words, key=_place):
        group = list(same)
        if groups:
            before = groups[-1][-1]
            is_cut = any(kept[one] < n_words[one] for one in (_place(before), place))
            if before[0] != place[0] and is_cut and _belong_together(groups[-1], group):
                groups[-1] += group
                continue
        groups.append(group)
    return groups


def whole_segments(words: Sequence[tuple[int, TimedWord]], n: int) -> int:
    """Return how many of the first ``n`` words are of segments of which none stands behind them."""
    behind = set(map(_place, words[n:]))
    for number in range(n - 1, -1, -1):
        if _place(words[number]) in behind:
            behind.update(map(_place, words[number:n]))
            n = number
    return n


def _place(word: tuple[int, TimedWord]) -> Place:
    return word[0], word[1].segment


def _belong_together(
    before: Sequence[tuple[int, TimedWord]], after: Sequence[tuple[int, TimedWord]]
) -> bool:
    (_, first), (_, last), (_, next_), (_, end) = before[0], before[-1], after[0], after[-1]
    return (
        not last.text.rstrip("\"'”’»)] ").endswith(tuple(SENTENCE_ENDS))
        and next_.start_s - last.end_s <= _LONGEST_PAUSE_S
        and end.end_s - first.start_s <= WINDOW_S
    )


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
