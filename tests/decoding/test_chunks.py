from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilwhisper.decoding.chunks import (
    ChunkSpan,
    Cut,
    JoinedText,
    plan_chunks,
    plan_speech,
)
from distilwhisper.decoding.segments import TimedWord
from distilwhisper.speech.units import Span

WORDS = "one two three four five six seven eight nine ten the a of and".split()


@dataclass(frozen=True)
class ChunkWords:
    """The words of one chunk, on the recording's clock."""

    start_s: float
    stop_s: float
    words: tuple[TimedWord, ...]


def join_chunks(chunks: Sequence[ChunkWords]) -> list[tuple[int, TimedWord]]:
    text = JoinedText()
    for chunk in chunks:
        text.add(chunk.words, start_s=chunk.start_s, stop_s=chunk.stop_s)
    return text.words()


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
    for chunk in plan_chunks(tape.reach, Cut(chunk_samples, overlap, last)):
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
    plan = plan_chunks(partial(min, n_samples), Cut(480_000, 160_000, 432_000))
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
    plan = plan_chunks(tape.reach, Cut(300, 100, 270))
    assert tape.asked == []
    assert next(plan) == ChunkSpan(0, 300, 100)
    assert tape.asked == [301]
    assert next(plan) == ChunkSpan(200, 500, 100)
    assert max(tape.asked) == 501


@pytest.mark.parametrize(
    ("chunk", "overlap", "last"),
    [(0, 0, 0), (5, 0, 6), (5, 5, 5), (5, -1, 5), (30, 25, 27)],
)
def test_an_impossible_plan_is_refused(chunk: int, overlap: int, last: int) -> None:
    found = rf"chunk_samples={chunk}, overlap_samples={overlap}, last_samples={last}"
    with pytest.raises(ValueError, match=found):
        Cut(chunk, overlap, last)


def plan_with_pauses(n_samples: int, *pauses: int) -> list[tuple[int, int, int]]:
    """A plan of chunks of 300 that meet at some of the places named."""

    def find_pause(stretch: Span, first: int) -> int | None:
        assert 0 <= stretch.start < first <= stretch.stop <= n_samples
        assert stretch.stop - stretch.start <= 300
        return next((at for at in pauses if first <= at < stretch.stop), None)

    plan = plan_chunks(partial(min, n_samples), Cut(300, 100, 270, find_pause))
    return [(chunk.start, chunk.stop, chunk.shared) for chunk in plan]


def test_chunks_meet_in_pauses_and_share_the_overlap_where_there_is_none() -> None:
    assert plan_with_pauses(0) == []
    assert plan_with_pauses(300, 220) == [(0, 300, 0)]  # as a whole
    assert plan_with_pauses(310, 220) == [(0, 220, 0), (220, 310, 0)]
    assert plan_with_pauses(500, 210, 220) == [(0, 210, 0), (210, 500, 270), (230, 500, 0)]
    assert plan_with_pauses(500, 210, 400) == [(0, 210, 0), (210, 400, 0), (400, 500, 0)]
    # Too near to the beginning, and in the last quarter of a chunk that is left at the end.
    assert plan_with_pauses(350, 170, 280) == [(0, 300, 100), (80, 350, 0)]
    assert plan_with_pauses(880, 620) == [
        (0, 300, 100),
        (200, 500, 100),
        (400, 620, 0),
        (620, 880, 0),
    ]


@given(st.integers(0, 5_000), st.sets(st.integers(0, 5_000), max_size=40))
def test_chunks_that_meet_in_pauses_cover_every_sample(n_samples: int, pauses: set[int]) -> None:
    plan = plan_with_pauses(n_samples, *sorted(pauses))
    assert [plan[0][0], plan[-1][1]] == [0, n_samples] if n_samples else not plan
    for (start, stop, shared), (after, after_stop, _) in pairwise(plan):
        assert start < after < after_stop <= n_samples
        assert stop < after_stop or after_stop == n_samples
        # They meet in a pause, or share the overlap at least.
        assert (stop == after and stop in pauses) or stop - after >= max(shared, 100)
    assert all(0 < stop - start <= 300 for start, stop, _ in plan)


def plan_spans(*spans: tuple[int, int]) -> list[tuple[int, int]]:
    chunks = plan_speech((Span(*span) for span in spans), Cut(30, 10, 27))
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
        spans.append(Span(at + gap, at + gap + length))
        at += gap + length
    plan = list(plan_speech(spans, Cut(30, overlap, 27)))
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
        Cut(int(chunk_s * 100), int(chunk_s * 100 / 3), int(min(chunk_s, 27.0) * 100)),
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


def unevenly(words: list[TimedWord], from_s: float, cuts: list[int]) -> tuple[TimedWord, ...]:
    """Estimates: segments that begin where the last one ended, however long a pause was there."""
    shared: list[TimedWord] = []
    for number, (first, stop) in enumerate(pairwise([0, *cuts, len(words)])):
        segment = words[first:stop]
        if segment:
            at_s, rate = from_s, (segment[-1].end_s - from_s) / len(segment)
            for word in segment:
                shared.append(TimedWord(word.text, word.token_ids, at_s, at_s + rate, number))
                at_s += rate
            from_s = segment[-1].end_s
    return tuple(shared)


def decoded_recording(draw: Callable[[st.SearchStrategy[Any]], Any]) -> list[ChunkWords]:
    """What chunks of a recording with pauses hear: whole words of it, each said once.

    A chunk may end its text at a pause, and its times may be exact, off, or estimates.
    """
    words: list[TimedWord] = []
    at_s = draw(st.sampled_from([0.0, 0.0, 5.0, 40.0]))
    for _ in range(draw(st.integers(1, 4))):
        for _ in range(draw(st.integers(1, 60))):
            length_s = draw(st.floats(0.2, 0.45))
            words.append(TimedWord(f" w{len(words)}", (len(words),), at_s, at_s + length_s, 0))
            at_s += length_s
        at_s += draw(st.floats(0, 60))
    plan = plan_chunks(partial(min, int(at_s * 100)), Cut(3000, 1000, 2700))
    times = draw(st.sampled_from(["exact", "drift", "estimates"]))
    chunks = []
    for chunk in plan:
        start_s, stop_s = chunk.start / 100, chunk.stop / 100
        inside = list(hear(words, start_s, stop_s).words)
        pauses = [i for i, (a, b) in enumerate(pairwise(inside), 1) if b.start_s - a.end_s > 2.5]
        if pauses and draw(st.booleans()):
            inside = inside[: draw(st.sampled_from(pauses))]
        if times == "drift":
            inside = list(hear(inside, start_s, stop_s, drift_s=draw(st.floats(-0.4, 0.4))).words)
        elif times == "estimates":
            cuts = draw(st.lists(st.integers(0, len(inside)), max_size=6).map(sorted))
            inside = list(unevenly(inside, start_s, cuts))
        chunks.append(ChunkWords(start_s, stop_s, tuple(inside)))
    return chunks


@given(st.data())
def test_no_word_is_dropped_unless_an_equal_word_is_kept(data: st.DataObject) -> None:
    chunks = decoded_recording(data.draw)
    heard = {word.text for chunk in chunks for word in chunk.words}
    assert {word.text for _, word in join_chunks(chunks)} == heard


def test_words_behind_a_pause_stay_though_their_estimates_lie_in_it() -> None:
    """Nothing is common, and both texts are shared out over more time than they took."""
    first = ChunkWords(0.0, 30.0, unevenly(spoken([f"a{i}" for i in range(24)]), 0.0, []))
    first = replace(first, words=tuple(stretch(first.words, 0.0, 30.0)))
    second = tuple(stretch(spoken([f"b{i}" for i in range(19)]), 16.8, 43.8))
    joined = join_chunks([first, ChunkWords(16.8, 43.8, second)])
    assert [word for _, word in joined] == [*first.words, *second]


def stretch(words: Sequence[TimedWord], start_s: float, end_s: float) -> list[TimedWord]:
    edges_s = [start_s + (end_s - start_s) * i / len(words) for i in range(len(words) + 1)]
    return [
        replace(word, start_s=a, end_s=b)
        for word, (a, b) in zip(words, pairwise(edges_s), strict=True)
    ]


def test_what_one_chunk_left_out_between_common_words_is_taken_from_the_other() -> None:
    timed = spoken("we all met at the old house by the river on a cold day in may".split())
    for left_out in (7, 10):  # before and behind the seam
        lacking = replace(
            hear(timed, 0.0, 7.0), words=tuple(w for w in timed[:14] if w != timed[left_out])
        )
        whole = hear(timed, 3.0, 8.0)
        for chunks in ([lacking, whole], [hear(timed, 0.0, 7.0), drop(whole, timed[left_out])]):
            assert [w for _, w in join_chunks(chunks)] == timed


def drop(chunk: ChunkWords, word: TimedWord) -> ChunkWords:
    return replace(chunk, words=tuple(w for w in chunk.words if w != word))


def test_the_part_behind_a_pause_stays_where_the_next_chunk_hears_what_is_before_it() -> None:
    """Parts of one chunk, of which the next chunk's parts overlap one each."""
    timed = spoken("one two three four".split())
    later = [replace(w, start_s=w.start_s + 7, end_s=w.end_s + 7) for w in spoken(["x", "y"])]
    chunks = [
        ChunkWords(0.0, 2.5, tuple(timed)),
        ChunkWords(6.5, 8.5, tuple(later)),
        ChunkWords(1.0, 2.5, tuple(timed[2:])),
        ChunkWords(6.6, 9.5, tuple(later)),
    ]
    assert [w for _, w in join_chunks(chunks)] == [*timed, *later]


def test_a_phrase_said_twice_is_not_taken_for_one() -> None:
    words = "go on go on go on go on stop now".split() * 3
    timed = spoken(words)
    chunks = [hear(timed, 0.0, 6.0), hear(timed, 4.0, 10.0), hear(timed, 8.0, 15.0)]
    assert [w.token_ids for _, w in join_chunks(chunks)] == [w.token_ids for w in timed]


def test_chunks_that_share_nothing_are_strung_together() -> None:
    timed = spoken("go on go on go on go on".split())
    chunks = [hear(timed, 0.0, 2.0), hear(timed, 2.0, 4.0)]
    assert [w.token_ids for _, w in join_chunks(chunks)] == [w.token_ids for w in timed]


@given(
    words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=120),
    cuts=st.lists(st.integers(1, 15), max_size=10),
    data=st.data(),
)
def test_what_is_settled_no_later_chunk_changes(
    words: list[str], cuts: list[int], data: st.DataObject
) -> None:
    """Whatever was heard: words left out, others in their place, and times that are estimates."""
    timed = spoken(words)
    text = JoinedText()
    settled: list[list[tuple[int, TimedWord]]] = []
    for chunk in plan_chunks(partial(min, int(timed[-1].end_s * 100)), Cut(1000, 330, 900)):
        start_s, stop_s = chunk.start / 100, chunk.stop / 100
        settled.append(text.words()[: text.n_settled(start_s)])
        heard = [
            replace(word, text=f" {data.draw(st.sampled_from(WORDS))}")
            for word in hear(timed, start_s, stop_s).words
            if data.draw(st.integers(0, 9))
        ]
        text.add(unevenly(heard, start_s, cuts), start_s=start_s, stop_s=stop_s)
    for before in settled:
        assert text.words()[: len(before)] == before
    assert text.n_settled(float("inf")) == len(text.words())
