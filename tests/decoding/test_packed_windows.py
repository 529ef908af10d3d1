import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilwhisper.decoding.packed_windows import (
    PACKED_S,
    PAUSE_S,
    STEP_SAMPLES,
    Piece,
    assign,
    decode_packed,
    group_pieces,
    place_pieces,
)
from distilwhisper.decoding.segments import runs_of_text
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.decoding.windows import DecodedWindow, WindowDecoder
from distilwhisper.model.hardware import Hardware
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.units import Span, samples_to_seconds
from distilwhisper.text.normalize import normalizer_for
from distilwhisper.text.wer import word_errors

CPU = Hardware(device="cpu", dtype="float32")
SETTINGS = DecodingSettings(temperature=(0.0,), compression_ratio_threshold=None)


@pytest.fixture(scope="module")
def decoder(tiny_model: Path) -> WindowDecoder:
    made = Transcriber.from_model(str(tiny_model), SETTINGS, CPU)
    return WindowDecoder(made.checkpoint, made.tokenizer, SETTINGS)


SILENCE = np.zeros(480_000, dtype=np.float32)


def piece(number: int, *, seconds: float, language: str | None = "en") -> Piece:
    return Piece(number, SILENCE[: round(seconds * 16000)], language)


# Which pieces share a window


@given(
    st.lists(
        st.tuples(st.floats(0.01, 30.0), st.sampled_from(["en", "de", None])), max_size=40
    ).map(lambda rows: [piece(n, seconds=s, language=lang) for n, (s, lang) in enumerate(rows)])
)
def test_every_piece_is_in_one_group_that_fits_and_has_one_language(pieces: list[Piece]) -> None:
    groups = list(group_pieces(pieces))
    assert sorted(one.number for group in groups for one in group) == list(range(len(pieces)))
    for group in groups:
        assert [one.number for one in group] == sorted(one.number for one in group)
        assert len({one.language for one in group}) == 1
        if len(group) > 1:
            assert group[0].language is not None
            assert place_pieces([len(one.samples) for one in group])[-1].stop <= PACKED_S * 50


def test_a_window_is_filled_before_the_next_is_begun() -> None:
    groups = list(group_pieces(piece(n, seconds=2.0) for n in range(20)))
    # 9 pieces of 2 s and 8 pauses of 1 s are 26 s; one more would be 29 s.
    assert [len(group) for group in groups] == [9, 9, 2]


@given(st.lists(st.integers(1, 480_000), min_size=1, max_size=10))
def test_pieces_lie_behind_one_another_with_a_pause_between_them(lengths: list[int]) -> None:
    places = place_pieces(lengths)
    assert places[0].start == 0
    for length, place in zip(lengths, places, strict=True):
        assert 0 <= (place.stop - place.start) * STEP_SAMPLES - length < STEP_SAMPLES
    for before, behind in itertools.pairwise(places):
        assert behind.start - before.stop == PAUSE_S * 50


# Whose each segment is


@given(
    st.lists(st.integers(20, 500), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 400)), max_size=12),
)
def test_a_segment_is_of_one_piece_or_of_none(
    lengths: list[int], raw: list[tuple[int, int]]
) -> None:
    places = place_pieces([length * STEP_SAMPLES for length in lengths])
    spans = [Span(start, start + length) for start, length in raw]
    owned = assign(spans, places)
    given_away = [number for numbers in owned for number in numbers]
    assert len(given_away) == len(set(given_away))
    for place, numbers in zip(places, owned, strict=True):
        assert numbers == sorted(numbers)
        for number in numbers:
            assert place.overlap(spans[number]) > 0
            for other in places:
                if other != place:  # at most half of a neighbour is covered, and little of it
                    assert other.overlap(spans[number]) <= min(15, (other.stop - other.start) / 2)
    # Where much of a piece is in a segment that is nobody's, the piece has none at all.
    for number in set(range(len(spans))) - set(given_away):
        for place, numbers in zip(places, owned, strict=True):
            if place.overlap(spans[number]) > 15:
                assert numbers == []


PLACES = [Span(0, 100), Span(150, 250), Span(300, 320)]


@pytest.mark.parametrize(
    ("spans", "owned"),
    [
        ([Span(0, 100), Span(150, 250), Span(300, 320)], [[0], [1], [2]]),
        ([Span(0, 60), Span(60, 150), Span(160, 270)], [[0, 1], [2], []]),  # nothing in the last
        ([Span(0, 165), Span(165, 240)], [[0], [1], []]),  # 0.3 s into the next is a rough end
        ([Span(0, 166), Span(166, 240)], [[], [], []]),  # more than that may hold its words
        ([Span(0, 250), Span(300, 320)], [[], [], [1]]),
        ([Span(150, 311), Span(311, 320)], [[], [], []]),  # more than half of a short one
        ([Span(0, 90), Span(110, 140), Span(150, 250)], [[], [], []]),  # words in the pause
        ([Span(0, 1500)], [[], [], []]),
        ([], [[], [], []]),
    ],
)
def test_a_piece_is_done_again_where_it_is_not_plain_who_spoke(
    spans: list[Span], owned: list[list[int]]
) -> None:
    assert assign(spans, PLACES) == owned


# Tokens


def tokens_of(decoder: WindowDecoder, *said: tuple[float, str, float]) -> tuple[int, ...]:
    """Return a window's tokens: (start, text, end) of each segment."""
    tokenizer = decoder.tokenizer
    return tuple(
        token_id
        for start_s, text, end_s in said
        for token_id in (
            tokenizer.timestamp_id(start_s),
            *tokenizer.encode(text),
            tokenizer.timestamp_id(end_s),
        )
    )


def window_of(token_ids: Sequence[int], *, text: str = "all of it") -> DecodedWindow:
    return DecodedWindow(
        prompt_ids=(1, 2),
        token_ids=tuple(token_ids),
        finished=True,
        text=text,
        language="en",
        temperature=0.0,
        avg_logprob=-0.1,
        no_speech_prob=0.01,
        compression_ratio=1.0,
        detected_language="en",
        language_prob=0.9,
        logprobs=tuple(-0.01 * n for n in range(len(token_ids) + 1)),
    )


ALONE = window_of((), text="decoded alone")


def answer(
    decoder: WindowDecoder, group: Sequence[Piece], window: DecodedWindow
) -> dict[int, DecodedWindow]:
    """Run a group whose shared window is answered so; a piece that is done alone says so."""

    def alone(one: Piece):
        yield from ()
        return replace(ALONE, text=f"{one.number} alone")

    task = decode_packed(decoder, group, alone)
    if len(group) > 1:
        request = next(task)
        assert request.window.n_samples <= PACKED_S * 16000
    with pytest.raises(StopIteration) as done:
        task.send(window) if len(group) > 1 else next(task)
    return dict(done.value.value)


def test_each_piece_gets_its_text_with_timestamps_of_its_own(decoder: WindowDecoder) -> None:
    group = [piece(7, seconds=2.0), piece(8, seconds=3.0)]  # at 0 s and at 3 s
    said = tokens_of(decoder, (0.0, " the", 2.6), (2.9, " a rain", 4.0), (4.0, " in", 7.5))
    found = answer(decoder, group, window_of(said))
    assert found[7].token_ids == tokens_of(decoder, (0.0, " the", 2.0))
    assert found[8].token_ids == tokens_of(decoder, (0.0, " a rain", 1.0), (1.0, " in", 3.0))
    assert (found[7].text, found[8].text) == ("the", "a rain in")
    for window in found.values():
        assert window.prompt_ids == (1, 2)
        assert window.finished
        assert math.isnan(window.no_speech_prob)
        assert window.detected_language is window.language_prob is None
        assert len(window.logprobs) == len(window.token_ids)
        assert window.avg_logprob == pytest.approx(np.mean(window.logprobs))
    # Their tokens follow each other, so do their log-probabilities.
    assert found[7].logprobs + found[8].logprobs == window_of(said).logprobs[:-1]


def test_text_that_the_end_closes_is_the_last_pieces(decoder: WindowDecoder) -> None:
    group = [piece(0, seconds=2.0), piece(1, seconds=2.0)]
    said = tokens_of(decoder, (0.0, " the", 2.0), (3.0, " a", 4.0))[:-1]
    assert answer(decoder, group, window_of(said))[1].token_ids == tokens_of(
        decoder, (0.0, " a", 2.0)
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"finished": False},
        {"avg_logprob": -1.5},
        {"logprobs": (-9.0,) * 99},
        {"token_ids": ()},
    ],
)
def test_what_is_not_to_be_believed_is_decoded_alone(
    decoder: WindowDecoder, changed: dict[str, object]
) -> None:
    group = [piece(0, seconds=2.0), piece(1, seconds=2.0)]
    said = tokens_of(decoder, (0.0, " the", 2.0), (3.0, " a", 5.0))
    found = answer(decoder, group, replace(window_of(said), **changed))  # type: ignore[arg-type]
    assert [window.text for window in found.values()] == ["0 alone", "1 alone"]


def test_only_the_pieces_in_doubt_are_decoded_alone(decoder: WindowDecoder) -> None:
    group = [piece(n, seconds=2.0) for n in range(3)]  # at 0, 3 and 6 s
    said = tokens_of(decoder, (0.0, " the", 2.0), (3.0, " a rain in", 8.0))
    found = answer(decoder, group, window_of(said))
    assert [window.text for window in found.values()] == ["the", "1 alone", "2 alone"]


def test_a_single_piece_is_decoded_as_ever(decoder: WindowDecoder) -> None:
    assert answer(decoder, [piece(3, seconds=2.0)], ALONE)[3].text == "3 alone"


@given(
    st.lists(
        st.tuples(st.integers(0, 1500), st.integers(0, 300), st.integers(0, 4)), max_size=12
    ).map(sorted)
)
def test_every_token_of_text_is_in_one_run(
    decoder: WindowDecoder, raw: list[tuple[int, int, int]]
) -> None:
    tokenizer = decoder.tokenizer
    token_ids: list[int] = []
    for start, _, n_text in raw:
        token_ids += [tokenizer.timestamp_begin + start, *range(65, 65 + n_text)]
    runs = list(runs_of_text(token_ids, tokenizer))
    covered = [place for run in runs for place in range(len(token_ids))[run.text]]
    assert covered == [n for n, one in enumerate(token_ids) if not tokenizer.is_timestamp(one)]
    assert all(run.opened <= (run.closed or 1500) for run in runs)


def test_a_beam_or_no_timestamps_cannot_be_packed(tiny_model: Path) -> None:
    transcriber = Transcriber.from_model(str(tiny_model), DecodingSettings(beam_size=2), CPU)
    with pytest.raises(ValueError, match=r"pack needs .*beam_size=1.*found .*beam_size=2"):
        next(transcriber.decode_packed([]))


@pytest.mark.slow
def test_real_speech_packed_says_what_it_says_alone(
    tiny_en: Path, prompts: list[tuple[Samples, str]]
) -> None:
    transcriber = Transcriber.from_model(str(tiny_en), SETTINGS, CPU)
    pieces = [(samples, "en") for samples, _ in prompts]
    alone = dict(transcriber.decode_each(pieces))
    packed = dict(transcriber.decode_packed(pieces))
    assert packed.keys() == alone.keys()
    shared = [n for n, window in packed.items() if math.isnan(window.no_speech_prob)]
    assert len(shared) > len(pieces) / 2
    normalize = normalizer_for("en")
    differ = sum(
        word_errors(normalize(alone[n].text), normalize(packed[n].text)).errors for n in shared
    )
    words = sum(len(normalize(text).split()) for _, text in prompts)
    assert differ <= 0.1 * words
    for n in shared:
        times = [
            transcriber.tokenizer.timestamp_s(one)
            for one in packed[n].token_ids
            if transcriber.tokenizer.is_timestamp(one)
        ]
        assert times == sorted(times)
        assert times[-1] <= samples_to_seconds(len(pieces[n][0])) + 0.02
