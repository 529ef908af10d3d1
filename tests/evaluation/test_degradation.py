import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora import corpus, noise
from distilwhisper.corpus.records import Manifest, Utterance, read_manifest, write_manifest
from distilwhisper.evaluation.degradation import Degradation, Degrader
from distilwhisper.speech.audio import Samples, load_samples, write_wav
from distilwhisper.speech.channel import room_response
from distilwhisper.speech.sources import CorruptAudio

SNR_KINDS = ["white:{}", "pink:{}", "babble:{}", "recorded:{}@noises"]
ALL = [
    "white:5", "pink:5", "babble:5", "babble:5@others/manifest.jsonl", "recorded:5@noises",
    "reverberation:0.4", "reverberation@rooms", "codec:opus-6k", "codec:mulaw", "clipping:12",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of six recordings, another one, a folder of noise and one of rooms."""
    folder = tmp_path_factory.mktemp("degradation")
    corpus(folder, 6)
    corpus(folder / "others", 9)
    (folder / "noises").mkdir()
    (folder / "rooms").mkdir()
    for number in range(3):
        write_wav(folder / "noises" / f"{number}.wav", noise(0.7 + number, seed=70 + number))
        response = 0.9 * room_response(0.2, np.random.default_rng(number))
        write_wav(folder / "rooms" / f"{number}.wav", response)
    return folder


def manifest_in(folder: Path) -> Manifest:
    return read_manifest(folder / "manifest.jsonl")


def below(folder: Path, text: str) -> Degradation:
    """Read a text whose path is below the folder."""
    degradation = Degradation.parse(text)
    source = degradation.source
    return degradation if source is None else replace(degradation, source=folder / source)


def degrade(folder: Path, text: str, *, seed: int = 0) -> dict[str, tuple[Samples, Samples]]:
    """Return samples before and after, by id."""
    manifest = manifest_in(folder)
    degrader = Degrader(below(folder, text), manifest, seed)
    sounds = {u: load_samples(folder / u.audio) for u in manifest.utterances}
    return {u.id: (samples, degrader.apply(samples, u)) for u, samples in sounds.items()}


@pytest.mark.parametrize("kind", SNR_KINDS)
@pytest.mark.parametrize("snr_db", [40, 20, 5, -10])
def test_every_utterance_has_the_ratio_that_was_asked_for(
    place: Path, kind: str, snr_db: float
) -> None:
    for speech, mixed in degrade(place, kind.format(snr_db)).values():
        added = mixed.astype(np.float64) - speech
        ratio = np.mean(np.square(speech, dtype=np.float64)) / np.mean(np.square(added))
        assert ratio == pytest.approx(10 ** (snr_db / 10), rel=1e-6)


@pytest.mark.parametrize("kind", SNR_KINDS)
def test_a_level_changes_the_level_alone(place: Path, kind: str) -> None:
    low, high = (degrade(place, kind.format(snr_db)) for snr_db in (0, 20))
    for id_, (speech, mixed) in low.items():
        noise_low, noise_high = mixed - speech, high[id_][1] - speech
        assert np.abs(noise_low - 10 * noise_high).max() < 2e-6  # float32 near 0.1


@pytest.mark.parametrize("text", ALL)
def test_length_and_silence_stay_and_the_sound_changes(place: Path, text: str) -> None:
    for before, after in degrade(place, text).values():
        assert (len(after), after.dtype) == (len(before), np.float32)
        assert np.isfinite(after).all()
        assert not np.array_equal(after, before)
    degrader = Degrader(below(place, text), manifest_in(place))
    silence = np.zeros(1_000, dtype=np.float32)
    for n_silent in (1, 2):
        assert degrader.apply(silence, manifest_in(place).utterances[0]) is silence
        assert degrader.n_silent == n_silent


@pytest.mark.parametrize("text", ["white:5", "babble:5", "recorded:5@noises", "reverberation:0.4"])
def test_draws_differ_by_seed_and_by_utterance(place: Path, text: str) -> None:
    first, second = (degrade(place, text, seed=seed) for seed in (0, 1))
    assert all(not np.array_equal(first[id_][1], second[id_][1]) for id_ in first)
    manifest = manifest_in(place)
    samples = load_samples(place / "u000.wav")
    heard = [Degrader(below(place, text), manifest).apply(samples, u) for u in manifest.utterances]
    assert len({h.tobytes() for h in heard}) == len(heard)


PROGRAM = """
import hashlib, json, sys
from distilwhisper.corpus.records import read_manifest
from distilwhisper.evaluation.degradation import Degradation, Degrader
from distilwhisper.speech.audio import load_samples
manifest = read_manifest(__import__("pathlib").Path("manifest.jsonl"))
digests = {}
for text in sys.argv[:0:-1]:
    degrader = Degrader(Degradation.parse(text), manifest)
    for utterance in reversed(manifest.utterances):
        degraded = degrader.apply(load_samples(utterance.audio), utterance)
        digests[f"{text} {utterance.id}"] = hashlib.sha256(degraded.tobytes()).hexdigest()
print(json.dumps(digests))
"""


def test_another_process_in_another_order_hears_the_same_bytes(place: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, *ALL]
    elsewhere = json.loads(subprocess.check_output(command, cwd=place, text=True))
    here = {
        f"{text} {id_}": hashlib.sha256(after.tobytes()).hexdigest()
        for text in ALL
        for id_, (_, after) in degrade(place, text).items()
    }
    assert elsewhere == here


def test_a_pause_in_the_noise_is_drawn_again(tmp_path: Path) -> None:
    corpus(tmp_path, 6)
    (tmp_path / "noises").mkdir()
    mostly_silent = np.zeros(160_000, dtype=np.float32)
    mostly_silent[:8_000] = 0.1
    write_wav(tmp_path / "noises" / "a.wav", mostly_silent)
    for before, after in degrade(tmp_path, "recorded:0@noises").values():
        assert not np.array_equal(before, after)


def test_noise_that_is_never_heard_or_never_read_ends_in_its_name(tmp_path: Path) -> None:
    corpus(tmp_path, 2)
    for name in ("silent", "broken", "empty"):
        (tmp_path / name).mkdir()
    write_wav(tmp_path / "silent" / "a.wav", np.zeros(100, dtype=np.float32))
    (tmp_path / "broken" / "a.wav").write_bytes(b"no sound")
    for kind in ("recorded:0", "reverberation"):
        with pytest.raises(ValueError, match=r"silent must not be silent"):
            degrade(tmp_path, f"{kind}@silent")
        with pytest.raises(CorruptAudio, match=r"a\.wav"):
            degrade(tmp_path, f"{kind}@broken")
        with pytest.raises(ValueError, match=r"found none in .*empty"):
            degrade(tmp_path, f"{kind}@empty")


def test_babble_without_other_voices_is_refused_before_any_work(tmp_path: Path) -> None:
    corpus(tmp_path, 1)
    with pytest.raises(ValueError, match=r"found none in .*manifest\.jsonl for 'u000'"):
        Degrader(Degradation.parse("babble:5"), manifest_in(tmp_path))
    corpus(tmp_path / "others", 3)
    degrade(tmp_path, "babble:5@others/manifest.jsonl")


def test_babble_never_holds_the_utterance_itself_from_another_manifest(tmp_path: Path) -> None:
    corpus(tmp_path, 1)
    same = [Utterance(id="other name", audio="u000.wav", recording="r")]
    write_manifest(tmp_path / "same.jsonl", same)
    with pytest.raises(ValueError, match=r"found none in .*same\.jsonl"):
        degrade(tmp_path, "babble:5@same.jsonl")


@pytest.mark.parametrize(
    "text",
    ["white:10", "pink:-2.5", "babble:0", "babble:5@a b/c@d:e.jsonl", "recorded:10@noise",
     "reverberation:0.6", "reverberation@rooms", "codec:opus-6k", "codec:mulaw", "clipping:12"],
)  # fmt: skip
def test_what_is_read_is_written_back(text: str) -> None:
    degradation = Degradation.parse(text)
    assert str(degradation) == text
    assert Degradation.parse(str(degradation)) == degradation


@given(level=st.floats(-100, 100))
def test_any_level_is_read_back(level: float) -> None:
    degradation = Degradation("white", level)
    assert Degradation.parse(str(degradation)) == degradation


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("pub:10", "must be one kind"),
        ("", "must be one kind"),
        ("none", "must be one kind"),
        ("white", "the level of white must be a number from -100 to 100"),
        ("white:loud", "the level of white must be a number from -100 to 100"),
        ("white:nan", "the level of white must be a number"),
        ("pink:200", "the level of pink must be a number from -100 to 100"),
        ("white:10@noise", "white has no @PATH"),
        ("recorded:10", "recorded noise must have the @FOLDER that it is in"),
        ("recorded@noise", "the level of recorded must be a number"),
        ("recorded", "the level of recorded .*; recorded noise must have the @FOLDER"),
        ("reverberation:0", "the level of reverberation must be a number from 0.01 to 10"),
        ("reverberation:0.5@rooms", "a recorded response has its own RT60"),
        ("codec", 'a codec must be .*found ""'),
        ("codec:gsm", 'a codec must be .*found "gsm"'),
        ("codec:mulaw@x", "codec has no @PATH"),
        ("clipping:-1", "the level of clipping must be a number from 0 to 100"),
        ("white:10:20", "the level of white must be a number"),
        ("white:10@", "must be one kind"),
    ],
)
def test_a_fault_is_told_with_all_that_is_allowed(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault) as caught:
        Degradation.parse(text)
    assert f'found "{text}", there are white:DB, ' in str(caught.value)
    assert "clipping:DB" in str(caught.value)
