"""What a person is told of an import."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distilwhisper.cli import SOME_FAILED, call
from distilwhisper.corpus.importing.entries import BadSource
from distilwhisper.corpus.importing.importer import import_data
from distilwhisper.corpus.importing.settings import ImportSettings
from distilwhisper.corpus.records import read_manifest
from distilwhisper.speech.audio import load_samples, write_wav


def recordings(folder: Path, n: int) -> Path:
    folder.mkdir()
    for i in range(n):
        write_wav(folder / f"{i:04d}.wav", np.full(1600 * (i % 5 + 1), 0.1, dtype=np.float32))
    return folder


def test_the_table_and_json_tell_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = recordings(tmp_path / "speech", 2)
    write_wav(source / "long.wav", np.full(16_000 * 31, 0.1, dtype=np.float32))
    (source / "0000.txt").write_text("one")
    (source / "torn.wav").write_bytes(b"RIFF")
    command = ["data", str(source), "--out", str(tmp_path / "all.jsonl"), "--language", "en"]
    assert call(command) == SOME_FAILED
    shown, named = capsys.readouterr()
    lines = {line[:14].strip(): line[14:].strip() for line in shown.splitlines()}
    assert lines["utterances"] == "3, 1 with text"
    assert lines["hours"] == "0.01"
    assert lines["languages"] == "en 3 utterances"
    assert lines["sample rates"] == "16000 Hz 3"
    assert lines["length"] == "0.10 to 31.00 s, median 0.20 s"
    assert lines["duplicates"] == "0 of audio, 0 of text and length"
    assert lines["too long"].startswith("1 over 30 s: see --cut")
    assert lines["problems"].endswith("1")
    assert "torn.wav" in named
    assert call([*command, "--json"]) == SOME_FAILED
    told = json.loads(capsys.readouterr().out)
    assert (told["n_utterances"], told["n_with_text"], told["max_s"]) == (3, 1, 31.0)
    assert told["n_by_length"] == [2, 0, 0, 0, 0, 0, 1]
    assert sum(told["problems"].values()) == 1


def manifest_of(source: Path, out: Path, settings: ImportSettings) -> dict[str, float | None]:
    """Return lengths by id, having read every sound where the new manifest says it is."""
    import_data(source, out, settings)
    manifest = read_manifest(out)
    for utterance in manifest.utterances:
        load_samples(manifest.audio_source(utterance))
    return {utterance.id: utterance.duration_s for utterance in manifest.utterances}


def test_what_is_too_long_is_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = recordings(tmp_path / "speech", 5)
    write_wav(folder / "long.wav", np.full(16_000 * 2, 0.1, dtype=np.float32))
    out = tmp_path / "m.jsonl"
    assert call(["data", str(folder), "--out", str(out), "--max-seconds", "1.5"]) == 0
    assert re.search(r"^left out +1 longer than --max-seconds$", capsys.readouterr().out, re.M)
    assert len(read_manifest(out).utterances) == 5
    with pytest.raises(BadSource, match="found none but 6 that are longer than --max-seconds"):
        import_data(folder, out, ImportSettings(max_seconds=0.01))


def test_a_subset_of_a_manifest_has_its_paths_right(tmp_path: Path) -> None:
    folder = recordings(tmp_path / "speech", 9)
    all_of_them = manifest_of(folder, tmp_path / "all.jsonl", ImportSettings())
    first = manifest_of(
        tmp_path / "all.jsonl", tmp_path / "elsewhere" / "few" / "m.jsonl", ImportSettings(first=4)
    )
    assert list(first) == list(all_of_them)[:4]
    assert len(manifest_of(folder, tmp_path / "more.jsonl", ImportSettings(first=99))) == 9


def test_a_sample_is_drawn_by_its_seed_and_keeps_the_order(tmp_path: Path) -> None:
    folder = recordings(tmp_path / "speech", 40)
    out = tmp_path / "out" / "m.jsonl"
    drawn = [list(manifest_of(folder, out, ImportSettings(sample=9, seed=i))) for i in range(3)]
    assert all(len(ids) == 9 and ids == sorted(ids) for ids in drawn)
    assert len({*map(tuple, drawn)}) == 3
    assert list(manifest_of(folder, out, ImportSettings(sample=9))) == drawn[0]
    (folder / next(id_ for ids in drawn[1:] for id_ in ids if id_ not in drawn[0])).with_suffix(
        ".wav"
    ).unlink()
    assert list(manifest_of(folder, out, ImportSettings(sample=9))) == drawn[0]


def test_a_subset_is_of_what_can_be_used(tmp_path: Path) -> None:
    folder = recordings(tmp_path / "speech", 6)
    (folder / "00.wav").write_bytes(b"no sound")
    write_wav(folder / "000.wav", np.full(16_000 * 2, 0.1, dtype=np.float32))
    for subset in (ImportSettings(first=3, max_seconds=1), ImportSettings(sample=3, max_seconds=1)):
        summary = import_data(folder, tmp_path / "m.jsonl", subset)
        assert (summary.n_utterances, summary.n_left_out, len(summary.problems)) == (3, 1, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"first": 0}, "first must be above 0, found 0"),
        ({"sample": -1}, "sample must be above 0"),
        ({"max_seconds": float("nan")}, "max_seconds must be above 0"),
        ({"first": 1, "sample": 1}, "first or sample, not both"),
        ({"seed": 1}, "seed is of a sample"),
        ({"cut": "vad", "max_seconds": 30.0}, "cut or left out"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ImportSettings(**settings)
