"""Short pieces of sound decoded together: joined into windows, and their text split again.

The encoder reads 30 s whatever is in them, so that a window of one short piece is mostly wasted.
Here pieces of one language share a window. The pause between two of them is so long that a model
closes its segment there: a segment is then of the one piece that it overlaps. A piece of which
that is not plain, or whose text is not to be believed, is decoded again, alone.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from distilwhisper.decoding.failure import why_failed
from distilwhisper.decoding.segments import runs_of_text
from distilwhisper.decoding.windows import DecodedWindow, Task, WindowDecoder, WindowRequest
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.units import SAMPLE_RATE_HZ, Span
from distilwhisper.text.tokens import TIMESTAMPS_PER_SECOND, Tokenizer
from distilwhisper.text.transcript import compression_ratio

# With pauses of 0.5 s, whisper-tiny.en joins one piece in five to a neighbour's segment; with 1 s
# one in a hundred. The silence behind the last piece is there for its text to be ended.
PAUSE_S = 1.0
PACKED_S = 27.0

# A segment reaches into the next piece by so much and no more, and by half of a short piece.
SPILL_S = 0.3

STEP_SAMPLES = SAMPLE_RATE_HZ // TIMESTAMPS_PER_SECOND


@dataclass(frozen=True, eq=False)
class Piece:
    """A short sound, and its place in the order of those to be decoded."""

    number: int
    samples: Samples
    language: str | None  # a code; None: to be detected


def group_pieces(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Yield pieces in groups that fit in a window together, every piece once.

    One window a language is filled at a time, in the order of its pieces, so that no more is held
    than is about to be decoded. A piece of no known language stays alone.
    """
    open_: dict[str, list[Piece]] = {}
    for piece in pieces:
        if piece.language is None:
            yield [piece]
            continue
        group = open_.setdefault(piece.language, [])
        places = place_pieces([len(one.samples) for one in (*group, piece)])
        if group and places[-1].stop > PACKED_S * TIMESTAMPS_PER_SECOND:
            yield group
            open_[piece.language] = group = []
        group.append(piece)
    yield from open_.values()


def place_pieces(lengths: Sequence[int]) -> list[Span]:
    """Return where pieces of some numbers of samples lie when joined, each at a whole step."""
    places: list[Span] = []
    at = 0
    for length in lengths:
        stop = at + math.ceil(length / STEP_SAMPLES)
        places.append(Span(at, stop))
        at = stop + round(PAUSE_S * TIMESTAMPS_PER_SECOND)
    return places


def assign(spans: Sequence[Span], places: Sequence[Span]) -> list[list[int]]:
    """Return whose each segment is: the numbers of every piece's segments.

    A segment is a piece's own if it overlaps no other by more than a little, so that none is of two
    pieces. A piece has none where nobody spoke, or where it is not plain who did.
    """
    own: list[list[int]] = [[] for _ in places]
    unclear: set[int] = set()
    reach = round(PAUSE_S * TIMESTAMPS_PER_SECOND / 2)
    little = [
        min(SPILL_S * TIMESTAMPS_PER_SECOND, (place.stop - place.start) / 2) for place in places
    ]
    for number, span in enumerate(spans):
        overlaps = [place.overlap(span) for place in places]
        nearest = max(range(len(places)), key=overlaps.__getitem__)
        is_spilt = any(o > little[i] for i, o in enumerate(overlaps) if i != nearest)
        if is_spilt or overlaps[nearest] <= 0:
            unclear |= {i for i, overlap in enumerate(overlaps) if overlap > -reach} | {nearest}
        else:
            own[nearest].append(number)
    return [[] if i in unclear else numbers for i, numbers in enumerate(own)]


def decode_packed(
    decoder: WindowDecoder, group: Sequence[Piece], alone: Callable[[Piece], Task[DecodedWindow]]
) -> Task[list[tuple[int, DecodedWindow]]]:
    """Decode pieces in one window, and those again alone that could not be told apart.

    The decoder is greedy, with timestamps. Every piece comes back with its number and its text as
    if decoded alone: timestamps begin with it. How silent it is, and its language, are not known.
    """
    by_number: dict[int, DecodedWindow] = {}
    if len(group) > 1:
        places = place_pieces([len(piece.samples) for piece in group])
        joined = np.zeros(places[-1].start * STEP_SAMPLES + len(group[-1].samples), np.float32)
        for piece, place in zip(group, places, strict=True):
            joined[place.start * STEP_SAMPLES :][: len(piece.samples)] = piece.samples
        window = decoder.window(joined, language=group[0].language)
        temperature = decoder.settings.temperature[0]
        decoded = yield WindowRequest(decoder, window, decoder.previous_ids, temperature)
        if decoded.finished and why_failed(decoded, decoder.settings) is None:
            by_number = _split(decoded, group, places, decoder.tokenizer)
    done: list[tuple[int, DecodedWindow]] = []
    for piece in group:
        own = by_number.get(piece.number)
        if own is None or why_failed(own, decoder.settings) is not None:
            own = yield from alone(piece)
        done.append((piece.number, own))
    return done


def _split(
    decoded: DecodedWindow, group: Sequence[Piece], places: Sequence[Span], tokenizer: Tokenizer
) -> dict[int, DecodedWindow]:
    """Return the text of each piece, by its number, where it is plain whose it is."""
    runs = list(runs_of_text(decoded.token_ids, tokenizer))
    spans: list[Span] = []
    for start, closed, _ in runs:  # without a timestamp behind it a text stands up to the end
        spans.append(Span(start, max(places[-1].stop, start) if closed is None else closed))
    return {
        piece.number: _of_piece(decoded, [(runs[i].text, spans[i]) for i in own], place, tokenizer)
        for piece, place, own in zip(group, places, assign(spans, places), strict=True)
        if own
    }


def _of_piece(
    decoded: DecodedWindow, texts: Sequence[tuple[slice, Span]], place: Span, tokenizer: Tokenizer
) -> DecodedWindow:
    """Return a piece's texts with timestamps that begin with the piece and end with it."""
    token_ids: list[int] = []
    logprobs: list[float] = []
    for text, span in texts:
        start, stop = (
            tokenizer.timestamp_begin + min(max(step, place.start), place.stop) - place.start
            for step in (span.start, span.stop)
        )
        token_ids += [start, *decoded.token_ids[text], stop]
        # A timestamp, or the end, stands on each side of the text.
        logprobs += decoded.logprobs[max(text.start - 1, 0) : text.stop + 1]
    words = tokenizer.decode(token_ids).strip()
    return replace(
        decoded,
        token_ids=tuple(token_ids),
        finished=True,
        text=words,
        avg_logprob=sum(logprobs) / len(logprobs),
        no_speech_prob=math.nan,
        compression_ratio=compression_ratio(words),
        detected_language=None,
        language_prob=None,
        logprobs=tuple(logprobs),
    )
