"""Short pieces of sound decoded together: joined into windows, and their text split again.

The encoder reads 30 s whatever is in them, so that a window of one short piece is mostly wasted.
Here pieces of one language share a window. The pause between two of them is so long that a model
closes its segment there: a segment is then of the one piece that it overlaps. A piece of which
that is not plain, or whose text is not to be believed, is decoded again, alone.

    group_pieces   which pieces share a window       }
    place_pieces   where in it they lie              }  numbers only
    assign         whose each segment is             }
    decode_packed  all of it, as a task
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from distilwhisper.decoding.failure import why_failed
from distilwhisper.decoding.segments import TextRun, runs_of_text
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

    A window is filled in the order of its pieces, one window a language at a time, so that no
    more is held than is about to be decoded. A piece of no known language stays alone: a window
    has one language.
    """
    open_: dict[str, list[Piece]] = {}
    for piece in pieces:
        if piece.language is None:
            yield [piece]
            continue
        group = open_.setdefault(piece.language, [])
        together = [*group, piece]
        places = place_pieces([len(one.samples) for one in together])
        if group and places[-1].stop > PACKED_S * TIMESTAMPS_PER_SECOND:
            yield group
            together = [piece]
        open_[piece.language] = together
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
    """Return whose each segment is.

    A segment is a piece's own if it overlaps no other by more than a little.

    Returns:
        For every piece the numbers of its segments; none where nobody spoke, or where it is
        not plain who did. No segment is of two pieces.
    """
    own: list[list[int]] = [[] for _ in places]
    unclear: set[int] = set()
    reach = round(PAUSE_S * TIMESTAMPS_PER_SECOND / 2)
    for number, span in enumerate(spans):
        overlaps = [place.overlap(span) for place in places]
        nearest = max(range(len(places)), key=overlaps.__getitem__)
        others = [
            i
            for i, (place, overlap) in enumerate(zip(places, overlaps, strict=True))
            if i != nearest
            and overlap > min(SPILL_S * TIMESTAMPS_PER_SECOND, (place.stop - place.start) / 2)
        ]
        if others or overlaps[nearest] <= 0:
            unclear |= {i for i, overlap in enumerate(overlaps) if overlap > -reach} | {nearest}
        else:
            own[nearest].append(number)
    return [[] if i in unclear else numbers for i, numbers in enumerate(own)]


def decode_packed(
    decoder: WindowDecoder,
    group: Sequence[Piece],
    *,
    previous_ids: tuple[int, ...],
    alone: Callable[[Piece], Task[DecodedWindow]],
) -> Task[list[tuple[int, DecodedWindow]]]:
    """Decode pieces in one window, and those again alone that could not be told apart.

    The decoder is greedy, with timestamps.

    Returns:
        Every piece's number and its text, as if it had been decoded alone: its
        timestamps begin with it. Silence and the likeliest language are the window's and no
        piece's, and so not known.
    """
    by_number: dict[int, DecodedWindow] = {}
    if len(group) > 1:
        window = decoder.window(_join(group), language=group[0].language)
        temperature = decoder.settings.temperature[0]
        decoded = yield WindowRequest(window, previous_ids, temperature=temperature)
        if decoded.finished and why_failed(decoded, decoder.settings) is None:
            by_number = _split(decoded, group, decoder.tokenizer)
    done: list[tuple[int, DecodedWindow]] = []
    for piece in group:
        own = by_number.get(piece.number)
        if own is None or why_failed(own, decoder.settings) is not None:
            own = yield from alone(piece)
        done.append((piece.number, own))
    return done


def _join(group: Sequence[Piece]) -> Samples:
    places = place_pieces([len(piece.samples) for piece in group])
    joined = np.zeros(places[-1].start * STEP_SAMPLES + len(group[-1].samples), dtype=np.float32)
    for piece, place in zip(group, places, strict=True):
        start = place.start * STEP_SAMPLES
        joined[start : start + len(piece.samples)] = piece.samples
    return joined


def _split(
    decoded: DecodedWindow, group: Sequence[Piece], tokenizer: Tokenizer
) -> dict[int, DecodedWindow]:
    """Return the text of each piece, by its number, where it is plain whose it is."""
    places = place_pieces([len(piece.samples) for piece in group])
    runs = list(runs_of_text(decoded.token_ids, tokenizer))
    owned = assign([_span(run, end=places[-1].stop) for run in runs], places)
    return {
        piece.number: _of_piece(decoded, [runs[i] for i in numbers], place, tokenizer)
        for piece, place, numbers in zip(group, places, owned, strict=True)
        if numbers
    }


def _span(run: TextRun, *, end: int) -> Span:
    """Return where a text stands in its window; without a timestamp behind it, up to ``end``."""
    opened = run.opened or 0
    return Span(opened, max(end, opened) if run.closed is None else run.closed)


def _of_piece(
    decoded: DecodedWindow, runs: Sequence[TextRun], place: Span, tokenizer: Tokenizer
) -> DecodedWindow:
    """Return a piece's texts with timestamps that begin with the piece and end with it."""
    token_ids: list[int] = []
    logprobs: list[float] = []
    length = place.stop - place.start
    for run in runs:
        span = _span(run, end=place.stop)
        start, stop = (
            tokenizer.timestamp_begin + min(max(step - place.start, 0), length)
            for step in (span.start, span.stop)
        )
        token_ids += [start, *decoded.token_ids[run.text], stop]
        # A timestamp, or the end, stands on each side of the text.
        logprobs += decoded.logprobs[max(run.text.start - 1, 0) : run.text.stop + 1]
    text = tokenizer.decode(token_ids).strip()
    return replace(
        decoded,
        token_ids=tuple(token_ids),
        finished=True,
        text=text,
        avg_logprob=sum(logprobs) / len(logprobs),
        no_speech_prob=math.nan,
        compression_ratio=compression_ratio(text),
        detected_language=None,
        language_prob=None,
        logprobs=tuple(logprobs),
    )
