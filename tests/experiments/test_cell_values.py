"""Cells of every table, computed anew from rows.jsonl and summary.json: no column is another's."""

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest
from experiments.__main__ import OK

from distilwhisper.corpus.store import read_jsonl
from unit_scale import Run


@dataclass(frozen=True)
class Written:
    """What an experiment has written."""

    folder: Path

    @property
    def cells(self) -> dict[tuple[str, str], str]:
        """The table by names of row and column."""
        head, *lines = csv.reader((self.folder / "table.csv").read_text().splitlines())
        return {
            (line[0], column): cell
            for line in lines
            for column, cell in zip(head[1:], line[1:], strict=True)
        }

    def more(self, arm: str) -> Mapping[str, Any]:
        """What is known of an arm beside its errors."""
        arms = json.loads((self.folder / "summary.json").read_text())["arms"]
        [facts] = [one["more"] for one in arms if one["arm"] == arm]
        return dict(facts)

    def rate(self, arm: str, kinds: str = "sdi", sets: str | None = None) -> float:
        """The mean over sets of an arm's errors of some kinds, in per cent."""
        names = {"s": "substitutions", "d": "deletions", "i": "insertions"}
        by_set: dict[str, list[tuple[int, int]]] = {}
        for row in read_jsonl(self.folder / "rows.jsonl"):
            if row["arm"] == arm and sets in (None, row["set"]):
                errors = sum(row["errors"][names[kind]] for kind in kinds)
                by_set.setdefault(row["set"], []).append((errors, row["errors"]["words"]))
        return 100 * fmean(sum(e for e, _ in s) / sum(w for _, w in s) for s in by_set.values())

    def seconds(self, arm: str) -> float:
        """The one round of an arm."""
        [seconds] = self.more(arm)["seconds"]
        return float(seconds)


def wer(arm: str, sets: str | None = None) -> Callable[[Written], float]:
    return lambda written: written.rate(arm, sets=sets)


def kind(arm: str, kinds: str) -> Callable[[Written], float]:
    return lambda written: written.rate(arm, kinds)


def less(arm: str, other: str) -> Callable[[Written], float]:
    return lambda written: written.rate(arm) - written.rate(other)


def faster(arm: str, other: str) -> Callable[[Written], float]:
    return lambda written: written.seconds(other) / written.seconds(arm)


def fact(arm: str, name: str, scale: float = 1.0) -> Callable[[Written], float]:
    return lambda written: scale * written.more(arm)[name]


def printed(value: float) -> Callable[[Written], float]:
    return lambda written: value


def change(arm: str, other: str, sets: str) -> Callable[[Written], float]:
    return lambda w: 100 * (w.rate(arm, sets=sets) / w.rate(other, sets=sets) - 1)


P, T = "equal passes", "equal steps"
EXPECTED: dict[str, dict[tuple[str, str], Callable[[Written], float]]] = {
    "table5": {
        ("student", "short: WER, %"): lambda w: fmean(
            (w.rate("student", sets="short-a"), w.rate("student", sets="short-b"))
        ),
        ("other", "long: WER, %"): wer("other", "long"),
        ("teacher", "short: WER, %, paper"): printed(9.1),
        ("teacher", "long: WER, %, paper"): printed(11.7),
        ("student", "parameters, M, paper"): printed(756.0),
        ("student", "short: relative speed, paper"): printed(5.8),
        ("tiny.en", "long: relative speed, paper"): printed(5.4),
    },
    "table6": {
        ("short-a", "teacher: WER, %"): wer("teacher", "short-a"),
        ("short-b", "student: WER, %"): wer("student", "short-b"),
        ("short-b", "other: relative change, %"): change("other", "teacher", "short-b"),
        ("CHiME-4", "student: WER, %, paper"): printed(14.0),
        ("FLEURS", "student: relative change, %, paper"): printed(50.0),
    },
    "table7": {
        ("teacher, sequential", "relative speed"): printed(1.0),
        ("teacher, chunked", "WER, %"): wer("teacher, chunked"),
        ("student, chunked", "WER, %"): wer("student, chunked"),
        ("student, chunked", "relative speed, paper"): printed(57.5),
        ("teacher, sequential", "WER, %, paper"): printed(10.4),
    },
    "table8": {
        ("teacher", "IER, %"): kind("teacher", "i"),
        ("student", "SER, %"): kind("student", "s"),
        ("other", "DER, %"): kind("other", "d"),
        ("other", "WER, %"): wer("other"),
        ("teacher", "5-Dup, paper"): printed(23_792.0),
        ("student", "IER, %, paper"): printed(2.1),
        ("student", "SER, %, paper"): printed(5.3),
        ("student", "DER, %, paper"): printed(4.2),
        ("student", "WER, %, paper"): printed(11.6),
    },
    "table9": {
        ("teacher with student", "batch 2: relative speed"): faster(
            "teacher with student, batch 2", "teacher, batch 2"
        ),
        ("teacher with student", "batch 1: accepted, %"): fact(
            "teacher with student, batch 1", "acceptance", 100
        ),
        ("teacher with student", "batch 1: tokens a step"): fact(
            "teacher with student, batch 1", "tokens_per_step"
        ),
        ("teacher with student", "batch 1: relative speed, paper"): printed(2.0),
    },
    "table10": {
        ("900", f"{T}: WER, %"): wer(f"900 %, filtered, {T}"),
        ("100", f"{T}, as many hours by chance: WER, %"): wer(f"100 %, by chance, {T}"),
        ("100", f"{P}: WER, %"): wer(f"100 %, filtered, {P}"),
        ("100", f"{P}, as many hours by chance: WER, %"): wer(f"100 %, by chance, {P}"),
        ("100", f"{P}: filter less chance, points"): less(
            f"100 %, filtered, {P}", f"100 %, by chance, {P}"
        ),
        ("40", "removed, % of hours, paper"): printed(11.9),
        ("40", f"{T}: WER, %, paper"): printed(12.0),
    },
    "table11": {("21,770", "WER, %, paper"): printed(11.4)},
    "table12": {
        ("teacher, 1 + 4", "WER, %"): wer("teacher"),
        ("1 + 2", "WER, %"): wer("1 + 2"),
        ("1 + 2", "less teacher's, points"): less("1 + 2", "teacher"),
        ("32 + 2", "relative speed, paper"): printed(5.8),
        ("32 + 2", "WER, %, paper"): printed(7.4),
    },
    "table16": {
        ("student", "short-a: WER, %"): wer("student", "short-a"),
        ("student", "short-b: WER, %"): wer("student", "short-b"),
        ("other", "mean of sets, %"): wer("other"),
        ("other", "less teacher's, points"): less("other", "teacher"),
        ("teacher", "mean of sets, %, paper"): printed(9.1),
    },
    "table17": {
        ("other", "long: WER, %"): wer("other"),
        ("student", "mean of sets, %, paper"): printed(11.6),
    },
    "table18": {("teacher, sequential", "long: WER, %"): wer("teacher, sequential")},
    "table19": {
        ("long: other", "IER, %"): kind("other", "i"),
        ("long: other", "SER, %"): kind("other", "s"),
        ("long: student", "DER, %"): kind("student", "d"),
        ("long: student", "WER, %"): wer("student"),
    },
    "table20": {
        ("0.5", "layers a token"): fact("teacher, 0.5", "layers_per_token"),
        ("0.5", "WER, %"): wer("teacher, 0.5"),
        ("0.5", "less 1's, points"): less("teacher, 0.5", "teacher, 1"),
        ("0.9875", "layers a token, paper"): printed(21.2),
        ("0.9875", "WER, %, paper"): printed(2.8),
    },
    "table21": {
        ("PL", "WER, %"): wer("PL"),
        ("PL + reverse KL", "less PL's, points"): less("PL + reverse KL", "PL"),
        ("PL + KL", "WER, %, paper"): printed(11.4),
    },
    "table22": {("medium.en", "batch 1: relative speed, paper"): printed(1.4)},
    "table23": {
        ("30 s", "student: WER, %"): wer("student, 30 s"),
        ("15 s", "teacher: WER, %"): wer("teacher, 15 s"),
        ("15 s", "teacher: WER, %, paper"): printed(6.5),
        ("15 s", "student: WER, %, paper"): printed(4.2),
    },
    "table24": {
        ("other", "batch 2: RTF, 10^-3"): lambda w: (
            1000 * median(w.more("other, batch 2")["seconds"]) / w.more("other, batch 2")["audio_s"]
        ),
        ("student", "batch 1: RTF, 10^-3, paper"): printed(24.2),
    },
    "figure2": {
        ("clean", "other: WER, %"): wer("other"),
        ("babble, -10 dB", "teacher: WER, %"): wer("teacher, babble, -10 dB"),
        ("babble, -10 dB", "student: WER, %"): wer("student, babble, -10 dB"),
        ("babble, 20 dB", "other less teacher, points"): less(
            "other, babble, 20 dB", "teacher, babble, 20 dB"
        ),
    },
    "overlap": {
        ("student, 15 s, 5 s shared, middle", "WER, %"): wer("student, 15 s, 5 s shared, middle"),
        ("student, 15 s, 5 s shared, middle", "IER, %"): kind(
            "student, 15 s, 5 s shared, middle", "i"
        ),
        ("teacher, 15 s, 2 s shared, middle", "seconds in chunks a second"): fact(
            "teacher, 15 s, 2 s shared, middle", "chunk_seconds"
        ),
        ("teacher, 15 s, 2 s shared, middle", "seconds in windows a second"): fact(
            "teacher, 15 s, 2 s shared, middle", "window_seconds"
        ),
    },
    "prompts": {
        ("0", "student, unrelated: WER, %"): wer("student, no prompt"),
        ("20", "teacher, matching: WER, %"): wer("teacher, matching 20"),
        ("20", "student, unrelated: WER, %"): wer("student, unrelated 20"),
    },
    "encoder": {
        ("trained", "clean: WER, %"): wer("trained"),
        ("trained, augmented", "white:0: WER, %"): wer("trained, augmented, white:0"),
        ("trained", "clean, less teacher's, points"): less("trained", "teacher"),
        ("trained", "likeness to the teacher's"): fact("trained", "similarity"),
        ("trained", "accepted as its draft, %"): fact("trained", "acceptance", 100),
    },
    "label-quality": {
        ("kept", "WER, %"): wer("kept"),
        ("kept", "SER, %"): kind("kept", "s"),
        ("all labels", "DER, %"): kind("all labels", "d"),
        ("all labels", "IER, %"): kind("all labels", "i"),
    },
}


@pytest.mark.parametrize("name", EXPECTED)
def test_cells_are_what_their_rows_and_columns_are_called(
    name: str, run: Run, results: Path
) -> None:
    assert run(name, results) == OK
    written = Written(results / name)
    cells = written.cells
    found = {place: float(cells[place]) for place in EXPECTED[name]}
    assert found == {
        place: pytest.approx(value(written), abs=1e-6) for place, value in EXPECTED[name].items()
    }
