"""Overlapping chunks of a long recording: where to cut, and how to join what was heard.

Numbers and words alone; reading audio and running the model is ``transcriber.py``'s.

Neighbouring chunks hear the same few seconds. Their words there are lined up at the longest
common run, and the text passes from the earlier chunk to the later one in the middle of it: far
from both edges, where a word may be cut in two. Where the two agree on nothing, the text passes
over in the middle of the overlap's time, so that nothing is said twice and little is lost.

Source: arXiv:2311.00430, section 5 ("chunked"); the published pipeline aligns token ids at the
best sliding offset, this one words by longest common run, which a slipped word cannot break.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from distilwhisper.decoding.segments import TimedWord

# How far an estimated word time may be off: words this far outside an overlap still take part.
TIME_SLACK_S = 2.0


@dataclass(frozen=True)
class Chunk:
    """A span of a recording, in samples; ``stop`` is the first sample behind it."""

    start: int
    stop: int


@dataclass(frozen=True)
class ChunkWords:
    """What one chunk heard, on the recording's clock."""

    start_s: float
    stop_s: float
    words: tuple[TimedWord, ...]


def plan_chunks(
    reach: Callable[[int], int], *, chunk_samples: int, overlap_samples: int, last_samples: int
) -> Iterator[Chunk]:
    """Cut a recording into chunks that cover every sample, reading it no further than it must.

    Args:
        reach: given a place, returns how many of the samples before it the recording has: the
            place itself, or less where the recording ends. Asked in order.
        chunk_samples: length of all chunks but the last.
        overlap_samples: what neighbours share at least, unless the last chunk makes it less. (The
            published pipeline's "stride" is per side: half of that.)
        last_samples: length of the last chunk. A model hears the end of a recording badly in a
            short piece of it, and drops the last sentence where no silence follows in its window.

    Yields:
        Chunks in order; a recording that fits into one chunk is one. One without a sample is none.

    Raises:
        ValueError: a length is out of range, or the overlap leaves too little to go on by.
    """
    if not 1 <= last_samples <= chunk_samples:
        raise ValueError(
            "lengths must be positive and the last chunk no longer than the others: found chunks "
            f"of {chunk_samples}, the last of {last_samples}"
        )
    most = min(chunk_samples - 1, 2 * last_samples - chunk_samples)
    if not 0 <= overlap_samples <= most:
        raise ValueError(
            f"the overlap must lie in [0, {most}] samples for chunks of {chunk_samples} and a "
            f"last one of {last_samples}, found {overlap_samples}"
        )
    step = chunk_samples - overlap_samples
    start = 0
    while reach(start + chunk_samples + 1) > start + chunk_samples:
        yield Chunk(start, start + chunk_samples)
        start += step
    n_samples = reach(start + chunk_samples)
    if not start:
        if n_samples:
            yield Chunk(0, n_samples)
        return
    last = n_samples - last_samples
    if last > start:  # the one before would be too far off: one more between the two
        middle = (start - step + last) // 2
        yield Chunk(middle, min(middle + chunk_samples, n_samples))
    yield Chunk(last, n_samples)


def plan_speech(
    spans: Iterable[Chunk], *, chunk_samples: int, overlap_samples: int, last_samples: int
) -> Iterator[Chunk]:
    """Cut spans of speech into chunks: neighbours share one while it has room for them.

    Args:
        spans: where somebody speaks, in order.
        chunk_samples: as for :func:`plan_chunks`, which cuts a span that is longer.
        overlap_samples: in such a span; other chunks share nothing, as they end in silence.
        last_samples: in such a span.
    """
    held: Chunk | None = None
    for span in spans:
        if held is not None and span.stop - held.start <= chunk_samples:
            held = Chunk(held.start, span.stop)
            continue
        if held is not None:
            yield held
        held = span
        if span.stop - span.start > chunk_samples:
            inner = plan_chunks(
                partial(min, span.stop - span.start),
                chunk_samples=chunk_samples,
                overlap_samples=overlap_samples,
                last_samples=last_samples,
            )
            yield from (Chunk(span.start + c.start, span.start + c.stop) for c in inner)
            held = None
    if held is not None:
        yield held


def join_chunks(chunks: Sequence[ChunkWords]) -> list[tuple[int, TimedWord]]:
    """Join what overlapping chunks heard into one text.

    Args:
        chunks: in order of time.

    Returns:
        The words in order, each with the number of the chunk it was taken from.
    """
    joined: list[tuple[int, TimedWord]] = []
    for number, chunk in enumerate(chunks):
        if number:
            previous = chunks[number - 1]
            n_kept, n_skipped = _seam([word for _, word in joined], previous, chunk)
            del joined[n_kept:]
        else:
            n_skipped = 0
        joined += [(number, word) for word in chunk.words[n_skipped:]]
    return joined


def _seam(so_far: Sequence[TimedWord], previous: ChunkWords, chunk: ChunkWords) -> tuple[int, int]:
    """Find how many words to keep of the text so far, and how many to skip of a new chunk."""
    if chunk.start_s >= previous.stop_s:  # they share nothing
        return len(so_far), 0
    first = next(
        (i for i, w in enumerate(so_far) if w.end_s > chunk.start_s - TIME_SLACK_S), len(so_far)
    )
    tail = so_far[first:]
    head = [w for w in chunk.words if w.start_s < previous.stop_s + TIME_SLACK_S]
    middle_s = (chunk.start_s + previous.stop_s) / 2
    match = _longest_common_run(tail, head, middle_s)
    if match is not None:
        tail_at, head_at, length = match
        half = (length + 1) // 2
        return first + tail_at + half, head_at + half
    n_kept = first + sum(_middle(w) < middle_s for w in tail)
    return n_kept, sum(_middle(w) < middle_s for w in head)


def _longest_common_run(
    tail: Sequence[TimedWord], head: Sequence[TimedWord], middle_s: float
) -> tuple[int, int, int] | None:
    """Return (place in tail, place in head, length) of the longest run of equal words.

    Of runs that are equally long, the one whose two times agree best, then the one nearest the
    middle of the overlap. Two words further apart in time than the slack are not the same word.
    """
    tail_keys = [_key(word) for word in tail]
    head_keys = [_key(word) for word in head]
    best: tuple[tuple[float, float, float], tuple[int, int, int]] | None = None
    runs = [[0] * (len(head) + 1) for _ in range(len(tail) + 1)]
    for i in range(len(tail) - 1, -1, -1):
        for j in range(len(head) - 1, -1, -1):
            apart_s = abs(_middle(tail[i]) - _middle(head[j]))
            if tail_keys[i] != head_keys[j] or not tail_keys[i] or apart_s > 2 * TIME_SLACK_S:
                continue
            length = runs[i][j] = runs[i + 1][j + 1] + 1
            from_middle_s = abs(_middle(tail[i + length // 2]) - middle_s)
            rank = (length, -round(apart_s), -from_middle_s)
            if best is None or rank > best[0]:
                best = (rank, (i, j, length))
    return best[1] if best else None


def _key(word: TimedWord) -> str:
    return "".join(c for c in word.text.casefold() if c.isalnum())


def _middle(word: TimedWord) -> float:
    return (word.start_s + word.end_s) / 2
