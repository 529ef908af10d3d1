"""The filter as a whole: shared measures, kills, and inputs that are wrong."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distilwhisper.corpus.records import (
    BadManifest,
    DuplicateId,
    Label,
    Utterance,
    read_verdicts,
    write_manifest,
)
from distilwhisper.corpus.store import TornShard, shard_path, shard_paths, write_jsonl
from distilwhisper.filtering.settings import FilterSettings
from distilwhisper.run.stages import StageChanged
from distilwhisper.stages import filter as stage
from distilwhisper.stages.filter import FilterSummary, filter_labels

WORDS = "one cat sat on the mat and saw two dogs by the sea in May".split()


def utterance(number: int) -> Utterance:
    text = None if number % 3 == 2 else " ".join(WORDS[: 4 + number % 9])
    return Utterance(
        f'a "{number}" ü',
        "a.wav",
        duration_s=1 + number % 12,
        text=text,
        speaker=f"s{number % 5}",
        language="en" if number % 2 else None,
        source=f"from {number % 2}",
    )


def label(number: int) -> Label:
    words = WORDS[: 4 + number % 9]
    if number % 4 == 0:
        words = [*words[:-1], "wrong"]
    return Label(
        f'a "{number}" ü', (1, 2), " ".join(words), "en", -(number % 7) / 4 - 0.1, 0.1, 1.0, None
    )


def corpus(folder: Path, *, n: int = 60, shard_size: int = 7) -> Path:
    """Utterances, labels of nearly all of them, and second labels of some."""
    write_manifest(folder / "train.jsonl", map(utterance, range(n)))
    labels = [label(number).to_dict() for number in range(n - 4)]
    for start in range(0, len(labels), shard_size):
        write_jsonl(
            shard_path(folder / "labels", start // shard_size), labels[start : start + shard_size]
        )
    second = [replace(label(number), text="quite another text").to_dict() for number in range(20)]
    write_jsonl(shard_path(folder / "second", 0), second)
    return folder


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "SHARD_ROWS", 14)


def run(
    folder: Path, out: str = "verdicts", settings: FilterSettings | None = None, **other: Any
) -> FilterSummary:
    other = {"figures": False, **other}
    settings = settings or FilterSettings()
    return filter_labels(folder / "train.jsonl", folder / "labels", folder / out, settings, **other)


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_same_inputs_make_the_same_bytes(tmp_path: Path) -> None:
    corpus(tmp_path)
    run(tmp_path, "one", measures=tmp_path / "m1")
    run(tmp_path, "two", measures=tmp_path / "m2")
    assert contents(tmp_path / "m1") == contents(tmp_path / "m2")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert list(read_verdicts(tmp_path / "one")) == [utterance(n).id for n in range(60)]


def test_another_limit_measures_nothing_again(tmp_path: Path) -> None:
    corpus(tmp_path)
    strict = run(tmp_path, "strict")
    measures = tmp_path / "labels" / ".measures"
    before = {path: path.stat().st_mtime_ns for path in measures.rglob("*")}
    lax = run(tmp_path, "lax", FilterSettings(max_wer=1.0))
    assert {path: path.stat().st_mtime_ns for path in measures.rglob("*")} == before
    assert strict.kept.count < lax.kept.count
    assert strict.retention.by_limit == lax.retention.by_limit
    stored = json.loads((tmp_path / "lax" / "summary.json").read_text())
    again = FilterSummary.from_dict(stored)
    assert (again.retention, again.calibration) == (lax.retention, lax.calibration)


def test_a_shard_of_verdicts_holds_so_many(tmp_path: Path) -> None:
    corpus(tmp_path)
    run(tmp_path)
    assert len(list((tmp_path / "labels").glob("shard-*"))) == 8
    sizes = [len(path.read_bytes().splitlines()) for path in shard_paths(tmp_path / "verdicts")]
    assert sizes == [14, 14, 14, 14, 4]


def test_figures_are_drawn_where_they_are_missing(tmp_path: Path) -> None:
    corpus(tmp_path)
    first = run(tmp_path, figures=False)
    figures = tmp_path / "verdicts" / "figures"
    assert not figures.exists()
    assert run(tmp_path, figures=True) == first
    assert len(list(figures.iterdir())) == 3
    before = {path: path.stat().st_mtime_ns for path in figures.iterdir()}
    run(tmp_path, figures=True)
    assert {path: path.stat().st_mtime_ns for path in figures.iterdir()} == before


def test_a_shard_rewritten_by_hand_is_measured_anew(tmp_path: Path) -> None:
    corpus(tmp_path)
    first = run(tmp_path)
    rows = [replace(label(n), text="wrong").to_dict() for n in range(7)]
    write_jsonl(shard_path(tmp_path / "labels", 0), rows)
    with pytest.raises(StageChanged, match="input labels"):
        run(tmp_path)
    assert run(tmp_path, force=True).kept.count < first.kept.count
    assert len(list((tmp_path / "labels" / ".measures").iterdir())) == 1


def test_second_labels_are_compared_with(tmp_path: Path) -> None:
    corpus(tmp_path)
    settings = FilterSettings(max_disagreement=0.5)
    with pytest.raises(ValueError, match="needs second labels"):
        run(tmp_path, "v", settings)
    summary = run(tmp_path, "v", settings, second_labels=tmp_path / "second")
    assert summary.by_reason["disagreement_above_limit"].count == 4
    write_jsonl(shard_path(tmp_path / "second", 0), [{"id": label(0).id}])
    with pytest.raises(TornShard, match=r"second/shard-00000.jsonl:1 .*: token_ids is missing"):
        run(tmp_path, "w", settings, second_labels=tmp_path / "second")


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    corpus(tmp_path)
    run(tmp_path, "whole", measures=tmp_path / "m")
    program = (
        "import sys; from pathlib import Path\n"
        "from distilwhisper.filtering import measures\n"
        "from distilwhisper.filtering.settings import FilterSettings\n"
        "from distilwhisper.stages import filter as f\n"
        "f.SHARD_ROWS = 14\n"
        "def slow(write):\n"
        "    def later(path, data):\n"
        "        import time; write(path, data); print(path, flush=True); time.sleep(60)\n"
        "    return later\n"
        "if sys.argv[2] == 'measures': measures.write_atomic = slow(measures.write_atomic)\n"
        "else: f.write_jsonl = slow(f.write_jsonl)\n"
        "t = Path(sys.argv[1])\n"
        "f.filter_labels(t / 'train.jsonl', t / 'labels', t / 'killed', FilterSettings(),\n"
        "                measures=t / 'k', figures=False)\n"
    )
    for where in ("measures", "verdicts", "verdicts"):
        command = [sys.executable, "-c", program, str(tmp_path), where]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline()  # one file more is written
            process.send_signal(signal.SIGKILL)
    assert len(list((tmp_path / "killed").glob("shard-*"))) == 1
    run(tmp_path, "killed", measures=tmp_path / "k")
    assert contents(tmp_path / "k") == contents(tmp_path / "m")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_wrong_inputs_are_named_as_their_readers_name_them(tmp_path: Path) -> None:
    corpus(tmp_path)
    shard, manifest = shard_path(tmp_path / "labels", 3), tmp_path / "train.jsonl"
    good, lines = shard.read_bytes(), manifest.read_bytes()
    for bad, error, message in (
        (good[:-20], TornShard, r"shard-00003.jsonl:7 must be a JSON object"),
        (good.replace(b'"finished": true', b'"finished": 1', 1), TornShard, "00003.jsonl:1 is not"),
        (good + good.splitlines(keepends=True)[0], DuplicateId, "00003.jsonl:8 must be of another"),
    ):
        shard.write_bytes(bad)
        with pytest.raises(error, match=message):
            run(tmp_path)
        (tmp_path / "verdicts" / "stage.json").unlink()
    shard.write_bytes(good)
    for bad, message in (
        (lines.replace(b'"text": null', b'"text": 5', 1), r"train.jsonl:3: text must be"),
        (lines + lines.splitlines(keepends=True)[1], r"train.jsonl:61: id .* must be new"),
        (lines[:-30], "train.jsonl:60: .* cut off"),
    ):
        manifest.write_bytes(bad)
        with pytest.raises(BadManifest, match=message):
            run(tmp_path)
        (tmp_path / "verdicts" / "stage.json").unlink()
    manifest.write_bytes(lines.replace(b'"language": "en"', b'"language": "klingon"', 1))
    with pytest.raises(ValueError, match=r"utterance 'a \"1\" ü': .*klingon"):
        run(tmp_path)


def test_measures_that_cannot_be_read_say_what_to_delete(tmp_path: Path) -> None:
    corpus(tmp_path)
    run(tmp_path)
    next((tmp_path / "labels" / ".measures").rglob("*.npz")).write_bytes(b"no zip")
    with pytest.raises(TornShard, match=r"\.npz must hold .* delete it and run"):
        run(tmp_path, "other")


def test_a_corpus_without_references_and_one_that_is_lost_have_their_reports(
    tmp_path: Path,
) -> None:
    corpus(tmp_path)
    unread = [replace(utterance(n), text=None) for n in range(60)]
    write_manifest(tmp_path / "train.jsonl", unread)
    summary = run(tmp_path, settings=FilterSettings(min_avg_logprob=0.0), figures=True)
    assert summary.kept.count == 0
    assert (summary.calibration, summary.retention.by_limit) == (None, {})
    assert "by language, 2 lost altogether" in summary.tables()
    figures = tmp_path / "verdicts" / "figures"
    assert [path.name for path in figures.iterdir()] == ["kept.svg"]


def test_retention_counts_by_group_and_by_limit(tmp_path: Path) -> None:
    corpus(tmp_path)
    found = run(tmp_path, figures=True).retention
    verdicts = read_verdicts(tmp_path / "verdicts")
    for speaker in range(5):
        of_him = [utterance(n) for n in range(60) if n % 5 == speaker]
        kept = [u for u in of_him if verdicts[u.id].keep]
        group = found.groups["speaker"].largest[f"s{speaker}"]
        assert (group.n, group.n_kept) == (len(of_him), len(kept))
        assert group.hours_kept == pytest.approx(sum(u.duration_s or 0 for u in kept) / 3600)
    assert [*found.groups["length"].largest] == [
        "0 to 1 s", "1 to 2 s", "2 to 5 s", "5 to 10 s", "10 to 15 s"
    ]  # fmt: skip
    assert [*found.groups["language"].largest] == ["en", "unknown"]
    judged = [v for v in verdicts.values() if v.errors is not None]
    assert found.n_judged == len(judged)
    for limit, kept_at in found.by_limit.items():
        at_most = [v for v in judged if v.wer is not None and v.wer <= limit]
        assert kept_at.n_kept == len(at_most)
        errors = sum(v.errors.errors for v in at_most if v.errors)
        words = sum(v.errors.words for v in at_most if v.errors)
        assert kept_at.wer_kept == pytest.approx(errors / words)
        share = found.error_curve[round(100 * limit)]
        assert share == pytest.approx(len(at_most) / len(judged))
    assert (tmp_path / "verdicts" / "figures" / "limits.svg").read_bytes().startswith(b"<?xml")


def test_labels_of_silence_are_no_errors_of_what_is_kept(tmp_path: Path) -> None:
    corpus(tmp_path)
    spoken = [utterance(number) for number in range(60)]
    silent = [replace(u, text="") if n % 6 == 0 else u for n, u in enumerate(spoken)]
    write_manifest(tmp_path / "train.jsonl", silent)
    dropped = run(tmp_path, "dropped")
    kept = run(tmp_path, "kept", FilterSettings(keep_silence=True))
    assert dropped.by_reason["empty_reference"] == kept.by_reason["kept_silence"]
    assert kept.kept == dropped.kept + kept.by_reason["kept_silence"]
    assert kept.errors_kept == dropped.errors_kept
    (after,) = (g for g in kept.retention.groups["source"].largest.items() if g[0] == "from 0")
    before = dropped.retention.groups["source"].largest["from 0"]
    assert (after[1].wer_kept, after[1].n_kept) == (before.wer_kept, before.n_kept + 10)
    strictest = kept.retention.by_limit[0.05], dropped.retention.by_limit[0.05]
    assert strictest[0].n_kept == strictest[1].n_kept + 10
