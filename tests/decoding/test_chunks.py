from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilwhisper.decoding.chunks import (
    Chunk,
    ChunkWords,
    join_chunks,
    plan_chunks,
    plan_speech,
)
from distilwhisper.decoding.segments import TimedWord

WORDS = "one two three four five six seven eight nine ten the a of and".split()


class Tape:
    """A recording whose length is only known once it was read to its end."""

    def __init__(self, n_samples: int) -> None:
        self.n_samples = n_samples
        self.asked: list[int] = []

    def reach(self, stop: int) -> int:
        self.asked.append(stop)
        return min(stop, self.n_samples)


@given(
    n_samples=st.integers(1, 10_000),
    chunk_samples=st.integers(1, 3_000),
    data=st.data(),
)
def test_every_sample_is_covered_and_neighbours_share_the_overlap_at_least(
    n_samples: int, chunk_samples: int, data: st.DataObject
) -> None:
    last = data.draw(st.integers((chunk_samples + 1) // 2, chunk_samples))
    overlap = data.draw(st.integers(0, min(chunk_samples - 1, 2 * last - chunk_samples)))
    if n_samples / (chunk_samples - overlap) > 2_000:
        overlap = 0
    tape = Tape(n_samples)
    plan = []
    for chunk in plan_chunks(
        tape.reach, chunk_samples=chunk_samples, overlap_samples=overlap, last_samples=last
    ):
        # Nothing is read that a chunk further on does not need.
        assert max(tape.asked) <= max(chunk.stop, chunk.start + chunk_samples) + chunk_samples + 1
        plan.append(chunk)
    assert all(after >= before - 1 for before, after in pairwise(tape.asked))
    assert plan[0].start == 0
    assert plan[-1].stop == n_samples
    if len(plan) == 1:
        assert n_samples <= chunk_samples
        return
    assert plan[-1].stop - plan[-1].start == last
    # The last but one may be put between its neighbours, and end with the recording.
    assert {chunk.stop - chunk.start for chunk in plan[:-2]} <= {chunk_samples}
    for left, right in pairwise(plan):
        assert left.stop - right.start >= overlap
        assert right.start > left.start
        assert right.stop >= left.stop


def plan_windows(n_samples: int) -> list[tuple[float, float]]:
    """The plan of 30-s windows that share 10 s, in seconds."""
    plan = plan_chunks(
        partial(min, n_samples),
        chunk_samples=480_000,
        overlap_samples=160_000,
        last_samples=432_000,
    )
    return [(chunk.start / 16_000, chunk.stop / 16_000) for chunk in plan]


def test_plans_of_thirty_second_windows() -> None:
    assert plan_windows(0) == []
    assert plan_windows(1) == [(0, 1 / 16_000)]
    assert plan_windows(480_000) == [(0, 30)]
    assert plan_windows(480_000 + 16_000) == [(0, 30), (4, 31)]
    assert plan_windows(47 * 16_000) == [(0, 30), (20, 47)]
    # The last would begin at 22 and 30 s, too far behind 0 and 20: one more between the two.
    assert plan_windows(49 * 16_000) == [(0, 30), (11, 41), (22, 49)]
    assert plan_windows(50 * 16_000) == [(0, 30), (11.5, 41.5), (23, 50)]
    assert plan_windows(57 * 16_000) == [(0, 30), (20, 50), (30, 57)]
    assert plan_windows(70 * 16_000) == [(0, 30), (20, 50), (31.5, 61.5), (43, 70)]


def test_a_chunk_is_known_before_the_next_is_read() -> None:
    tape = Tape(10_000_000)
    plan = plan_chunks(tape.reach, chunk_samples=300, overlap_samples=100, last_samples=270)
    assert tape.asked == []
    assert next(plan) == Chunk(0, 300)
    assert tape.asked == [301]
    assert next(plan) == Chunk(200, 500)
    assert max(tape.asked) == 501


@pytest.mark.parametrize(
    ("n_samples", "chunk", "overlap", "last", "message"),
    [
        (10, 0, 0, 0, "chunks of 0"),
        (10, 5, 0, 6, "the last of 6"),
        (10, 5, 5, 5, r"in \[0, 4\] .* found 5"),
        (10, 5, -1, 5, "found -1"),
        (90, 30, 25, 27, r"in \[0, 24\] .* found 25"),
    ],
)
def test_an_impossible_plan_is_refused(
    n_samples: int, chunk: int, overlap: int, last: int, message: str
) -> None:
    plan = plan_chunks(
        partial(min, n_samples), chunk_samples=chunk, overlap_samples=overlap, last_samples=last
    )
    with pytest.raises(ValueError, match=message):
        next(plan)


def plan_spans(*spans: tuple[int, int]) -> list[tuple[int, int]]:
    chunks = plan_speech(
        (Chunk(*span) for span in spans), chunk_samples=30, overlap_samples=10, last_samples=27
    )
    return [(chunk.start, chunk.stop) for chunk in chunks]


def test_spans_of_speech_share_a_chunk_while_there_is_room() -> None:
    assert plan_spans() == []
    assert plan_spans((3, 9)) == [(3, 9)]
    assert plan_spans((3, 9), (12, 20), (25, 33)) == [(3, 33)]
    assert plan_spans((3, 9), (12, 20), (25, 34)) == [(3, 20), (25, 34)]
    assert plan_spans((3, 9), (100, 130), (131, 140)) == [(3, 9), (100, 130), (131, 140)]


def test_a_long_span_of_speech_is_cut_with_overlaps_and_shares_with_nobody() -> None:
    assert plan_spans((0, 5), (7, 38), (39, 41)) == [(0, 5), (7, 37), (11, 38), (39, 41)]


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 120)), max_size=12),
    st.integers(0, 24),
)
def test_all_speech_is_covered_and_no_chunk_is_longer_than_asked(
    gaps_and_lengths: list[tuple[int, int]], overlap: int
) -> None:
    at, spans = 0, []
    for gap, length in gaps_and_lengths:
        spans.append(Chunk(at + gap, at + gap + length))
        at += gap + length
    plan = list(plan_speech(spans, chunk_samples=30, overlap_samples=overlap, last_samples=27))
    speech = {i for span in spans for i in range(span.start, span.stop)}
    heard = {i for chunk in plan for i in range(chunk.start, chunk.stop)}
    assert speech <= heard
    assert all(0 < chunk.stop - chunk.start <= 30 for chunk in plan)
    for left, right in pairwise(plan):
        assert left.start < right.start
        assert left.stop <= right.stop
    # Silence is heard only between spans that share a chunk.
    starts, stops = {span.start for span in spans}, {span.stop for span in spans}
    for chunk in plan:
        assert chunk.start in speech or chunk.start in starts
        assert chunk.stop - 1 in speech or chunk.stop in stops


def spoken(words: list[str], *, seconds_per_word: float = 0.5) -> list[TimedWord]:
    return [
        TimedWord(f" {word}", (i,), i * seconds_per_word, (i + 1) * seconds_per_word, 0)
        for i, word in enumerate(words)
    ]


def hear(
    words: list[TimedWord], start_s: float, stop_s: float, *, drift_s: float = 0.0
) -> ChunkWords:
    """What a perfect model hears of one chunk: words cut by its edges are lost to it."""
    inside = [w for w in words if w.start_s >= start_s and w.end_s <= stop_s]
    moved = [
        TimedWord(w.text, w.token_ids, w.start_s + drift_s, w.end_s + drift_s, 0) for w in inside
    ]
    return ChunkWords(start_s, stop_s, tuple(moved))


@given(
    words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=200),
    chunk_s=st.sampled_from([10.0, 15.0, 30.0]),
    drift_s=st.floats(-0.4, 0.4),
)
def test_joining_the_chunks_of_a_known_text_gives_it_back(
    words: list[str], chunk_s: float, drift_s: float
) -> None:
    timed = spoken(words)
    plan = plan_chunks(
        partial(min, int(timed[-1].end_s * 100)),
        chunk_samples=int(chunk_s * 100),
        overlap_samples=int(chunk_s * 100 / 3),
        last_samples=int(min(chunk_s, 27.0) * 100),
    )
    chunks = [
        hear(timed, c.start / 100, c.stop / 100, drift_s=drift_s * (-1) ** i)
        for i, c in enumerate(plan)
    ]
    joined = [word.token_ids for _, word in join_chunks(chunks)]
    assert joined == [word.token_ids for word in timed]


def test_a_word_misheard_at_an_edge_is_taken_from_the_chunk_that_heard_it_whole() -> None:
    timed = spoken("we all met at the old house by the river on a cold day in may".split())
    left = hear(timed, 0.0, 5.0)
    garbled = TimedWord(" horse", (99,), 4.9, 5.0, 0)
    left = ChunkWords(0.0, 5.0, (*left.words, garbled))
    right = hear(timed, 3.0, 8.0)
    right = ChunkWords(3.0, 8.0, (TimedWord(" ouse", (98,), 3.0, 3.1, 0), *right.words))
    assert [w.token_ids[0] for _, w in join_chunks([left, right])] == list(range(len(timed)))


def test_chunks_that_agree_on_nothing_pass_over_in_the_middle_of_the_overlap() -> None:
    left = ChunkWords(0.0, 6.0, tuple(spoken(["x"] * 12)))
    other = tuple(TimedWord(" y", (50 + i,), 4 + i * 0.5, 4.5 + i * 0.5, 0) for i in range(12))
    joined = [w for _, w in join_chunks([left, ChunkWords(4.0, 10.0, other)])]
    assert [w.text for w in joined if w.start_s < 5] == [" x"] * 10
    assert [w.text for w in joined if w.start_s >= 5] == [" y"] * 10


def test_a_silent_chunk_loses_nothing_of_its_neighbours() -> None:
    timed = spoken("one two three four".split())
    chunks = [
        hear(timed, 0.0, 10.0),
        ChunkWords(6.0, 16.0, ()),
        ChunkWords(12.0, 22.0, (TimedWord(" five", (9,), 18.0, 18.5, 0),)),
    ]
    assert [w.text for _, w in join_chunks(chunks)] == [" one", " two", " three", " four", " five"]


def test_a_phrase_said_twice_is_not_taken_for_one() -> None:
    words = "go on go on go on go on stop now".split() * 3
    timed = spoken(words)
    chunks = [hear(timed, 0.0, 6.0), hear(timed, 4.0, 10.0), hear(timed, 8.0, 15.0)]
    assert [w.token_ids for _, w in join_chunks(chunks)] == [w.token_ids for w in timed]


def test_chunks_that_share_nothing_are_strung_together() -> None:
    timed = spoken("go on go on go on go on".split())
    chunks = [hear(timed, 0.0, 2.0), hear(timed, 2.0, 4.0)]
    assert [w.token_ids for _, w in join_chunks(chunks)] == [w.token_ids for w in timed]
