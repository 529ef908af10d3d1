"""A source that has changed is seen by the next run."""

import os
from pathlib import Path

import numpy as np
import pytest

from distilwhisper.corpus.importing.importer import import_data, source_fingerprints
from distilwhisper.corpus.importing.settings import ImportSettings
from distilwhisper.corpus.records import Utterance, write_manifest
from distilwhisper.speech.audio import write_wav

FILES, TEXTS, SOUND = (
    "number of files in the source",
    "transcripts in the source",
    "sound in the source",
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "speech"
    folder.mkdir()
    for name in "ab":
        write_wav(folder / f"{name}.wav", np.full(1600, 0.1, dtype=np.float32))
        (folder / f"{name}.txt").write_text(f"text of {name}")
    return folder


def changes(source: Path, before: dict[str, str], *, skip: Path | None = None) -> set[str]:
    now = source_fingerprints(source, skip=skip or source / "run")
    assert now.keys() == before.keys()
    return {name for name in now if now[name] != before[name]}


def test_new_files_corrected_transcripts_and_mended_sound_are_seen(source: Path) -> None:
    first = source_fingerprints(source, skip=source / "run")
    assert changes(source, first) == set()
    for name in ("a.txt", "a.wav"):
        os.utime(source / name, ns=(0, 0))  # touched, and the same
    (source / "run").mkdir()
    (source / "run" / "long.wav").touch()
    assert changes(source, first) == set()
    (source / "a.txt").write_text("text of A")
    assert changes(source, first) == {TEXTS}
    (source / "a.txt").write_text("text of a")
    write_wav(source / "a.wav", np.full(1600, 0.2, dtype=np.float32))
    assert changes(source, first) == {SOUND}
    (source / "c.wav").touch()
    assert changes(source, first) == {SOUND, FILES}


def test_a_link_to_what_is_not_there_counts_when_it_leads_somewhere(source: Path) -> None:
    for name in ("c.wav", "c.txt"):
        (source / name).symlink_to(source.parent / name)
    (source / "loop.wav").symlink_to(source / "loop.wav")
    first = source_fingerprints(source, skip=source / "run")
    assert first[FILES] == "4"
    write_wav(source.parent / "c.wav", np.full(1600, 0.3, dtype=np.float32))
    assert changes(source, first) == {SOUND, FILES}


def test_sound_that_a_manifest_names_is_seen_as_well(source: Path) -> None:
    manifest = source / "m.jsonl"
    write_manifest(manifest, [Utterance("a", "a.wav"), Utterance("b", "s3://away/b.wav")])
    first = source_fingerprints(manifest, skip=source / "run")
    write_wav(source / "b.wav", np.full(1600, 0.2, dtype=np.float32))  # not named
    assert changes(manifest, first) == set()
    write_wav(source / "a.wav", np.full(1600, 0.2, dtype=np.float32))
    assert changes(manifest, first) == {SOUND}
    write_manifest(manifest, [Utterance("a", "a.wav", text="corrected")])
    assert TEXTS in changes(manifest, first)


def test_a_manifest_that_comes_out_otherwise_is_said_to_have_changed(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = source.parent / "m.jsonl"
    for _ in range(2):
        import_data(source, out, ImportSettings())
        assert "has changed" not in capsys.readouterr().err
    (source / "a.txt").write_text("corrected")
    import_data(source, out, ImportSettings())
    assert f"{out} has changed: what was made of it" in capsys.readouterr().err
