import csv
import importlib.util
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distilwhisper.extras import MissingExtra
from distilwhisper.speech.audio import Samples, load_samples
from distilwhisper.speech.units import SAMPLE_RATE_HZ, Span
from distilwhisper.speech.vad import (
    FRAME_SAMPLES,
    LONG_PAUSES,
    Pauses,
    frame_probabilities,
    load_silero,
    spans_of,
    stream_spans,
)

SPEECH = Path(__file__).parents[1] / "assets" / "speech"
UNPADDED = LONG_PAUSES._replace(pad_s=0.0)
MANY_SPANS = Pauses(min_silence_s=0.1, pad_s=0.03)

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("silero_vad") is None,
    reason='needs weights: pip install "distilwhisper[vad]"',
)


def speech_spans(samples: Samples, pauses: Pauses = LONG_PAUSES) -> list[Span]:
    return list(stream_spans([samples], pauses))


@pytest.fixture(scope="module")
def prompts() -> list[Samples]:
    with (SPEECH / "transcripts.tsv").open(encoding="utf-8") as file:
        return [
            load_samples(SPEECH / row["path"]) for row in csv.DictReader(file, dialect="excel-tab")
        ]


@pytest.fixture(scope="module")
def joined(prompts: list[Samples]) -> Samples:
    """All prompts, each with 3 s of silence behind it: 60 s."""
    pause = np.zeros(3 * SAMPLE_RATE_HZ, dtype=np.float32)
    return np.concatenate([piece for prompt in prompts for piece in (prompt, pause)])


@pytest.fixture
def silero_package() -> Iterator[Any]:
    """Silero's own code, which limits torch to one thread when it is imported."""
    n_threads = torch.get_num_threads()
    yield pytest.importorskip("silero_vad")
    torch.set_num_threads(n_threads)


def loud_span(samples: Samples) -> tuple[int, int]:
    """From the first to the last sample near which a prompt is louder than its noise."""
    loudness = np.convolve(np.abs(samples), np.full(160, 1 / 160), mode="same")
    loud = np.flatnonzero(loudness > 0.005)
    return int(loud[0]), int(loud[-1])


@needs_weights
def test_each_prompt_is_one_span_at_its_place(prompts: list[Samples], joined: Samples) -> None:
    found = speech_spans(joined, UNPADDED)
    assert len(found) == len(prompts)
    at = 0
    for prompt, span in zip(prompts, found, strict=True):
        start, stop = loud_span(prompt)
        assert abs(span.start - (at + start)) < 0.3 * SAMPLE_RATE_HZ
        assert abs(span.stop - (at + stop)) < 0.3 * SAMPLE_RATE_HZ
        at += len(prompt) + 3 * SAMPLE_RATE_HZ


@needs_weights
def test_padding_widens_both_ends(joined: Samples) -> None:
    bare = speech_spans(joined, UNPADDED)
    pad = round(0.4 * SAMPLE_RATE_HZ)
    padded = [Span(max(span.start - pad, 0), span.stop + pad) for span in bare]
    assert speech_spans(joined) == padded


@needs_weights
@pytest.mark.parametrize("seconds", [0.5, 20])
def test_no_speech_is_found_where_there_is_none(seconds: float) -> None:
    n = round(seconds * SAMPLE_RATE_HZ)
    noise = np.random.default_rng(0).normal(size=n)
    tone = np.sin(2 * np.pi * 440 * np.arange(n) / SAMPLE_RATE_HZ)
    for samples in (np.zeros(n), 0.01 * noise, 0.3 * noise, 0.3 * tone):
        assert speech_spans(samples.astype(np.float32)) == []


@needs_weights
@pytest.mark.parametrize("n", [0, 1, 63, 511, 512, 513])
def test_a_few_samples_hold_no_speech(n: int) -> None:
    assert speech_spans(np.full(n, 0.1, dtype=np.float32)) == []


@needs_weights
@pytest.mark.parametrize("n", [16_000, 16_001, 16_383, 16_384, 16_385, 65_536, 65_537])
def test_speech_that_is_cut_lasts_to_the_last_sample(prompts: list[Samples], n: int) -> None:
    [span] = speech_spans(prompts[1][:n])
    assert 0 <= span.start < 0.3 * SAMPLE_RATE_HZ
    assert span.stop == n


@needs_weights
@settings(max_examples=25)
@given(data=st.data())
def test_blocks_of_any_size_have_the_spans_of_the_whole(
    prompts: list[Samples], data: st.DataObject
) -> None:
    n = data.draw(st.integers(1, 150_000))
    samples = np.concatenate([prompts[0], prompts[2], prompts[6]])[:n]
    n_cuts = data.draw(st.sampled_from([0, 1, 5, 200]))
    cuts = data.draw(st.lists(st.integers(0, n), min_size=n_cuts, max_size=n_cuts).map(sorted))
    blocks = np.split(samples, cuts)
    assert list(stream_spans(blocks, MANY_SPANS)) == speech_spans(samples, MANY_SPANS)


@needs_weights
def test_the_spans_of_one_sample_at_a_time(prompts: list[Samples]) -> None:
    samples = prompts[6]
    blocks = (samples[i : i + 1] for i in range(len(samples)))
    assert list(stream_spans(blocks, MANY_SPANS)) == speech_spans(samples, MANY_SPANS)
    assert speech_spans(samples, MANY_SPANS)


@needs_weights
def test_a_span_comes_out_before_the_rest_is_read(joined: Samples) -> None:
    n_read = 0

    def blocks() -> Iterator[Samples]:
        nonlocal n_read
        for at in range(0, len(joined), 1_600):
            n_read = min(at + 1_600, len(joined))
            yield joined[at : at + 1_600]

    for span in stream_spans(blocks()):
        # The silence that makes the end certain, and the frames that go in one group.
        certain = span.stop + 2 * SAMPLE_RATE_HZ
        assert n_read <= certain + 128 * FRAME_SAMPLES + 1_600


@needs_weights
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused(value: float) -> None:
    blocks = [np.zeros(1_000, dtype=np.float32) for _ in range(3)]
    blocks[1][7] = value
    with pytest.raises(ValueError, match=rf"finite numbers, found {value} at sample 1007"):
        list(stream_spans(blocks))


@needs_weights
def test_two_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one row, mono .* shape \(2, 512\)"):
        speech_spans(np.zeros((2, 512), dtype=np.float32))


def test_missing_weights_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    load_silero.cache_clear()
    with pytest.raises(MissingExtra, match=r'not installed: pip install "distilwhisper\[vad\]"'):
        speech_spans(np.zeros(512, dtype=np.float32))


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "has no data/silero_vad.jit"), (b"no network", "must hold the network of silero-vad")],
)
def test_a_package_without_the_network_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, message: str
) -> None:
    (tmp_path / "data").mkdir()
    if content:
        (tmp_path / "data" / "silero_vad.jit").write_bytes(content)
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    load_silero.cache_clear()
    with pytest.raises(MissingExtra, match=message):
        load_silero()


@needs_weights
def test_the_package_is_not_imported_for_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "silero_vad"]:
        monkeypatch.delitem(sys.modules, name)
    load_silero.cache_clear()
    load_silero()
    assert "silero_vad" not in sys.modules


probability = st.one_of(st.sampled_from([0.0, 0.34, 0.35, 0.4, 0.5, 1.0]), st.floats(0, 1))
# Stretches of like frames: single ones would rarely make a pause or a span.
probabilities = st.lists(st.tuples(probability, st.integers(1, 30)), max_size=30).map(
    lambda runs: [p for p, n in runs for _ in range(n)]
)
durations = st.sampled_from([0.0, 0.032, 0.16, 0.1, 0.25, 0.4, 1.0])
any_pauses = st.builds(Pauses, min_silence_s=durations, pad_s=durations)


@pytest.mark.reference
@needs_weights
def test_spans_of_probabilities_equal_silero(silero_package: Any) -> None:
    @settings(max_examples=1000)
    @given(probabilities=probabilities, asked=any_pauses, missing=st.integers(0, 511))
    def equal(probabilities: list[float], asked: Pauses, missing: int) -> None:
        n_samples = max(len(probabilities) * FRAME_SAMPLES - missing, 0)
        theirs = silero_package.get_speech_timestamps_from_probs(
            probabilities,
            threshold=0.5,
            min_speech_duration_ms=0,
            min_silence_duration_ms=round(asked.min_silence_s * 1000),
            speech_pad_ms=round(asked.pad_s * 1000),
            audio_length_samples=n_samples,
        )
        found = spans_of([(n_samples, probabilities)], asked)
        assert [{"start": span.start, "end": span.stop} for span in found] == theirs

    equal()


@given(probabilities=probabilities, pauses=any_pauses, missing=st.integers(0, 511))
def test_spans_are_in_order_apart_and_inside(
    probabilities: list[float], pauses: Pauses, missing: int
) -> None:
    n_samples = max(len(probabilities) * FRAME_SAMPLES - missing, 0)
    found = list(spans_of([(n_samples, probabilities)], pauses))
    for span in found:
        assert 0 <= span.start < span.stop <= n_samples
    for left, right in pairwise(found):
        assert left.stop <= right.start


@pytest.mark.reference
@needs_weights
@pytest.mark.filterwarnings("ignore:.*torch.jit.load:DeprecationWarning")
def test_probabilities_equal_those_of_silero(silero_package: Any, prompts: list[Samples]) -> None:
    """The same float32 sums in another order: 5e-6 apart at most when this was written."""
    samples = np.concatenate([prompts[1], prompts[3][:5_000]])  # ends within a frame
    network = silero_package.load_silero_vad()
    whole_frames = np.pad(samples, (0, -len(samples) % FRAME_SAMPLES))
    theirs = [
        network(torch.from_numpy(frame), SAMPLE_RATE_HZ).item()
        for frame in whole_frames.reshape(-1, FRAME_SAMPLES)
    ]
    heard = list(frame_probabilities([samples]))
    assert sum(n for n, _ in heard) == len(samples)
    found = [probability for _, of_group in heard for probability in of_group]
    np.testing.assert_allclose(found, theirs, rtol=0, atol=5e-5)


@pytest.mark.slow
@pytest.mark.reference
@needs_weights
@pytest.mark.filterwarnings("ignore:.*torch.jit.load:DeprecationWarning")
def test_real_speech_has_the_spans_of_silero(silero_package: Any, joined: Samples) -> None:
    """Theirs steps through the frames one by one, so that probabilities differ by 1e-5 or so."""
    network = silero_package.load_silero_vad()
    for ours in (LONG_PAUSES, MANY_SPANS):
        theirs = silero_package.get_speech_timestamps(
            torch.from_numpy(joined),
            network,
            threshold=0.5,
            min_speech_duration_ms=0,
            min_silence_duration_ms=round(ours.min_silence_s * 1000),
            speech_pad_ms=round(ours.pad_s * 1000),
        )
        found = speech_spans(joined, ours)
        assert [{"start": span.start, "end": span.stop} for span in found] == theirs
        assert found
