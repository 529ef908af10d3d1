from pathlib import Path

import numpy as np
import pytest

from distilwhisper.corpus.records import Manifest, Utterance, read_manifest, write_manifest
from distilwhisper.evaluation.degradation import N_VOICES, OtherVoices
from distilwhisper.speech.audio import Samples, write_wav
from distilwhisper.speech.units import SAMPLE_RATE_HZ


def voiced(folder: Path, *voices: tuple[str, int, str | None]) -> Manifest:
    """Write utterances, each a tone: id, frequency in Hz, speaker."""
    utterances = []
    for id_, hz, speaker in voices:
        times_s = np.arange(SAMPLE_RATE_HZ // 2) / SAMPLE_RATE_HZ
        write_wav(folder / f"{id_}.wav", (0.5 * np.sin(2 * np.pi * hz * times_s)).astype("float32"))
        utterances.append(Utterance(id=id_, audio=f"{id_}.wav", speaker=speaker))
    write_manifest(folder / "voices.jsonl", utterances)
    return read_manifest(folder / "voices.jsonl")


def tones(samples: Samples) -> set[int]:
    """Return the frequencies in Hz of which some samples are made, to the next ten."""
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    hz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE_HZ)
    return {round(f, -1) for f in hz[power > 0.1 * power.max()]}


def draw(manifest: Manifest, id_: str, *, seed: int = 0, n_samples: int = 30_000) -> list[Samples]:
    voices = OtherVoices(manifest)
    (utterance,) = (u for u in manifest.utterances if u.id == id_)
    audio = manifest.audio_source(utterance)
    voices.require_others(utterance, audio)
    return voices.draw(utterance, audio, n_samples, np.random.default_rng(seed))


def test_nobody_babbles_over_himself(tmp_path: Path) -> None:
    speakers = [(f"{s}{n}", 300 + 200 * s + 50 * n, f"s{s}") for s in range(4) for n in range(2)]
    manifest = voiced(tmp_path, *speakers)
    for id_, _, speaker in speakers:
        for seed in range(2):
            heard = {f for voice in draw(manifest, id_, seed=seed) for f in tones(voice)}
            assert heard == {f for _, f, s in speakers if s != speaker}


def test_each_voice_is_of_another_speaker(tmp_path: Path) -> None:
    speakers = [(f"u{s}", 300 + 100 * s, f"s{s}") for s in range(12)]
    manifest = voiced(tmp_path, *speakers)
    drawn = [draw(manifest, "u5", seed=seed) for seed in range(8)]
    for voices in drawn:
        assert len(voices) == N_VOICES
        assert len({f for voice in voices for f in tones(voice)}) == N_VOICES
    assert len({frozenset(f for v in voices for f in tones(v)) for voices in drawn}) > 3
    again = draw(manifest, "u5", seed=7)
    assert [v.tolist() for v in again] == [v.tolist() for v in drawn[7]]


def test_one_other_speaker_gives_several_voices(tmp_path: Path) -> None:
    manifest = voiced(tmp_path, ("own", 300, "ann"), *((f"b{n}", 500, "bob") for n in range(9)))
    voices = draw(manifest, "own")
    assert [tones(voice) for voice in voices] == [{500}] * N_VOICES
    assert sum(map(len, voices)) == 9 * SAMPLE_RATE_HZ // 2  # each utterance once


@pytest.mark.parametrize("speaker", [None, "ann"])
def test_without_another_speaker_other_recordings_do(tmp_path: Path, speaker: str | None) -> None:
    tones_hz = [("a", 300, speaker), ("b", 500, speaker), ("c", 700, speaker)]
    manifest = voiced(tmp_path, *tones_hz)
    assert {f for voice in draw(manifest, "b") for f in tones(voice)} == {300, 700}


def test_a_recording_alone_has_nobody_to_babble(tmp_path: Path) -> None:
    manifest = voiced(tmp_path, ("a", 300, None))
    with pytest.raises(ValueError, match=r"none in .*voices\.jsonl for 'a'.*babble:5@other"):
        draw(manifest, "a")


def test_parts_of_one_recording_are_no_other_voices(tmp_path: Path) -> None:
    voiced(tmp_path, ("a", 300, None))
    parts = [
        Utterance(id=f"p{n}", audio="a.wav", start_s=0.1 * n, duration_s=0.1) for n in range(3)
    ]
    write_manifest(tmp_path / "parts.jsonl", parts)
    with pytest.raises(ValueError, match="none in"):
        draw(read_manifest(tmp_path / "parts.jsonl"), "p1")


def test_a_recording_that_cannot_be_read_is_passed_over_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = voiced(tmp_path, ("a", 300, "a"), ("b", 500, "b"), ("c", 700, "c"))
    (tmp_path / "b.wav").write_bytes(b"no sound")
    assert {f for voice in draw(manifest, "a") for f in tones(voice)} == {700}
    assert f"babble: b is left out: {tmp_path / 'b.wav'}" in capsys.readouterr().err


def test_a_voice_goes_on_with_other_utterances_as_long_as_it_is_heard(tmp_path: Path) -> None:
    manifest = voiced(
        tmp_path, ("own", 300, "ann"), *((f"b{n}", 400 + 100 * n, "bob") for n in range(20))
    )
    half_s = SAMPLE_RATE_HZ // 2
    for n_samples, n_said in ((half_s, 1), (half_s + 1, 2), (100 * half_s, 3)):
        voices = draw(manifest, "own", n_samples=n_samples)
        assert [len(voice) for voice in voices] == [n_said * half_s] * N_VOICES


def test_of_a_long_recording_half_a_minute_is_read(tmp_path: Path) -> None:
    voiced(tmp_path, ("own", 300, None))
    write_wav(tmp_path / "long.wav", np.full(40 * SAMPLE_RATE_HZ, 0.1, dtype=np.float32))
    utterances = [
        Utterance(id="own", audio="own.wav"),
        Utterance(id="long", audio="long.wav", start_s=5.0),
    ]
    write_manifest(tmp_path / "two.jsonl", utterances)
    (voice,) = draw(read_manifest(tmp_path / "two.jsonl"), "own", n_samples=10**6)
    assert len(voice) == 30 * SAMPLE_RATE_HZ
