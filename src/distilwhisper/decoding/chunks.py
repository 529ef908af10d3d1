"""Overlapping chunks of a long recording: where to cut, and how to join what was heard.

Numbers and words alone; reading audio and running the model is ``transcriber.py``'s.

Neighbouring chunks hear the same few seconds. Their words there are lined up at the longest
common run, and the text passes from the earlier chunk to the later one in the middle of it: far
from both edges, where a word may be cut in two. Where the two agree on nothing, the text passes
over in the middle of the overlap's time, so that nothing is said twice and little is lost.

Source: arXiv:2311.00430, section 5 ("chunked"); the published pipeline aligns token ids at the
best sliding offset, this one words by longest common run, which a slipped word cannot break.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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
    n_samples: int, *, chunk_samples: int, overlap_samples: int, last_samples: int
) -> list[Chunk]:
    """Cut a recording into chunks that cover every sample, evenly spaced.

    Args:
        n_samples: length of the recording; what fits in one chunk is one chunk.
        chunk_samples: length of all chunks but the last.
        overlap_samples: what neighbours share at least. (The published pipeline's "stride" is
            per side: half of that.)
        last_samples: length of the last chunk. A model hears the end of a recording badly in a
            short piece of it, and drops the last sentence where no silence follows in its window.

    Raises:
        ValueError: a length is out of range, or the overlap leaves too little to go on by.
    """
    if n_samples < 1 or not 1 <= last_samples <= chunk_samples:
        raise ValueError(
            "lengths must be positive and the last chunk no longer than the others: found "
            f"{n_samples} samples, chunks of {chunk_samples}, the last of {last_samples}"
        )
    most = min(chunk_samples - 1, 2 * last_samples - chunk_samples)
    if not 0 <= overlap_samples <= most:
        raise ValueError(
            f"the overlap must lie in [0, {most}] samples for chunks of {chunk_samples} and a "
            f"last one of {last_samples}, found {overlap_samples}"
        )
    if n_samples <= chunk_samples:
        return [Chunk(0, n_samples)]
    last = n_samples - last_samples
    n_before = -(-last // (chunk_samples - overlap_samples))
    starts = [number * last // n_before for number in range(n_before)]
    return [*(Chunk(start, start + chunk_samples) for start in starts), Chunk(last, n_samples)]


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
