"""Long recordings, cut in their pauses; and shards of sound."""

from itertools import pairwise, zip_longest
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from distilwhisper.corpus.importing.entries import Entry, Problem
from distilwhisper.corpus.importing.importer import import_data, stored
from distilwhisper.corpus.importing.settings import ImportSettings
from distilwhisper.corpus.records import Utterance, read_manifest
from distilwhisper.speech.audio import load_samples, write_wav
from distilwhisper.speech.units import WINDOW_SAMPLES, Span, seconds_to_samples
from distilwhisper.speech.vad import FRAME_SAMPLES, LONG_PAUSE_S, plan_pieces

ASSETS = Path(__file__).parents[2] / "assets" / "speech"


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 3000), st.integers(7, 150)), max_size=12),
    seed=st.integers(0, 99),
)
def test_pieces_fit_hold_all_speech_and_reach_over_no_long_pause(
    lengths: list[tuple[int, int]], seed: int
) -> None:
    spans, at = [], 0
    for speech, pause in lengths:
        spans.append(Span(at * FRAME_SAMPLES, (at + speech) * FRAME_SAMPLES))
        at += speech + pause
    probabilities = np.random.default_rng(seed).random(at + 1).tolist()
    pieces = plan_pieces(spans, probabilities)
    held = np.zeros(at * FRAME_SAMPLES, dtype=np.int8)
    for piece in pieces:
        assert 0 < piece.stop - piece.start <= WINDOW_SAMPLES
        held[piece.start : piece.stop] += 1
    assert held.max(initial=0) <= 1
    for span, following in zip_longest(spans, spans[1:]):
        assert held[span.start : span.stop].all()
        if following and following.start - span.stop >= seconds_to_samples(LONG_PAUSE_S):
            assert not held[span.stop : following.start].any()
    for left, right in pairwise(pieces):
        # No two neighbours could have been one, unless a long pause parts them.
        too_long = right.stop - left.start > WINDOW_SAMPLES
        assert too_long or right.start - left.stop >= seconds_to_samples(LONG_PAUSE_S)


def test_speech_without_a_pause_is_cut_where_it_is_least_likely() -> None:
    probabilities = [0.9] * 1500
    probabilities[700], probabilities[100] = 0.5, 0.1  # 22.4 s; the other would waste the window
    first, second = plan_pieces([Span(0, 1500 * FRAME_SAMPLES)], probabilities)
    assert first.stop == second.start == 700 * FRAME_SAMPLES + FRAME_SAMPLES // 2


def test_long_recordings_are_cut_when_asked(tmp_path: Path) -> None:
    prompts = [load_samples(path) for path in sorted(ASSETS.glob("*.g722"))]
    pause = np.zeros(8_000, dtype=np.float32)
    talk = np.concatenate([part for prompt in prompts * 3 for part in (prompt, pause)])
    source = tmp_path / "data"
    source.mkdir()
    write_wav(source / "talk.wav", talk)
    (source / "talk.txt").write_text("what was said")
    write_wav(source / "still.wav", np.zeros(40 * 16_000, dtype=np.float32))
    whole = import_data(source, tmp_path / "whole.jsonl", ImportSettings())
    assert whole.n_by_length[-1] == 2
    summary = import_data(source, tmp_path / "cut.jsonl", ImportSettings(cut="vad"))
    assert (summary.n_cut, summary.n_texts_lost, summary.n_by_length[-1]) == (1, 1, 0)
    assert [(p.where, p.kind) for p in summary.problems] == [("still.wav", "no speech")]
    manifest = read_manifest(tmp_path / "cut.jsonl")
    pieces = manifest.utterances
    assert len(pieces) >= talk.size / WINDOW_SAMPLES
    assert all(u.recording == "talk" and u.text is None for u in pieces)
    # What lies between pieces is silence: nothing loud is lost.
    left = talk.copy()
    for u in pieces:
        start = seconds_to_samples(u.start_s)
        left[start : start + seconds_to_samples(u.duration_s or 0.0)] = 0
    assert np.square(left).sum() < 0.01 * np.square(talk).sum()


def test_shards_end_when_full_and_keep_the_order(tmp_path: Path) -> None:
    found: list[Entry | Problem] = [
        Entry(f"row {i}", Utterance(f"u{i}", f"{i}.WAV", duration_s=1.0), bytes([i]) * 9)
        for i in range(5)
    ]
    out = list(stored(iter(found), tmp_path / "x.audio", shard_bytes=18))
    audio = [item.utterance.audio for item in out if isinstance(item, Entry)]
    assert [a.partition("#")[2] for a in audio] == [
        "000000.wav",
        "000001.wav",
        "000000.wav",
        "000001.wav",
        "000000.wav",
    ]
    shards = sorted((tmp_path / "x.audio").glob("*.tar"))
    assert len(shards) == 3
    assert audio[4].startswith(f"{shards[2]}#")
