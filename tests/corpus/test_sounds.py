import os
from dataclasses import replace
from pathlib import Path

import pytest

from corpora import corpus, noise
from distilwhisper.corpus.batches import ChangedRecording, check_sounds
from distilwhisper.corpus.records import Label, Manifest, read_manifest
from distilwhisper.speech.audio import write_wav
from distilwhisper.speech.sources import fingerprint


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return read_manifest(corpus(tmp_path, 4))


@pytest.fixture
def labels(manifest: Manifest) -> dict[str, Label]:
    return {
        u.id: Label(
            u.id, (), "", "en", None, None, None, None, sound=fingerprint(manifest.audio_source(u))
        )
        for u in manifest.utterances
    }


def test_recordings_that_are_as_they_were_pass(
    manifest: Manifest, labels: dict[str, Label], capsys: pytest.CaptureFixture[str]
) -> None:
    check_sounds(manifest, manifest.utterances, labels)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("seconds", [0.3, 0.9])
def test_another_recording_in_the_place_of_one_is_named(
    tmp_path: Path, manifest: Manifest, labels: dict[str, Label], seconds: float
) -> None:
    write_wav(tmp_path / "u001.wav", noise(seconds, seed=7))
    (tmp_path / "u003.wav").unlink()
    with pytest.raises(ChangedRecording) as refused:
        check_sounds(manifest, manifest.utterances, labels)
    told = str(refused.value)
    assert f"found 2 with other contents, or none: utterance 'u001': {tmp_path}/u001.wav" in told
    assert f"utterance 'u003': {tmp_path}/u003.wav" in told
    assert "--retry-failed" in told
    kept = [u for u in manifest.utterances if u.id in ("u000", "u002")]
    check_sounds(manifest, kept, labels)


def test_a_copy_is_the_same_recording_and_old_labels_know_of_none(
    tmp_path: Path,
    manifest: Manifest,
    labels: dict[str, Label],
    capsys: pytest.CaptureFixture[str],
) -> None:
    os.utime(tmp_path / "u002.wav", ns=(0, 0))
    check_sounds(manifest, manifest.utterances, labels)
    assert "1 recordings have another time of change" in capsys.readouterr().err
    write_wav(tmp_path / "u002.wav", noise(0.5, seed=7))
    check_sounds(
        manifest, manifest.utterances, {k: replace(v, sound=None) for k, v in labels.items()}
    )
