"""Runs an experiment, and writes what came of it.

DIR/NAME/recipe.toml  the settings       run.json      every start: versions, machine, git
         rows.jsonl   utterance and arm  summary.json  arms: errors, intervals, differences
         table.md  table.csv             figure.svg  figure.png    and further tables by name
DIR/cells/  DIR/results/                 what was measured, shared by all experiments
DIR/labels/  DIR/verdicts/  DIR/students/  DIR/spoilt/   what was labelled and trained, likewise
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from distilwhisper.corpus.store import write_jsonl
from distilwhisper.files import write_atomic
from distilwhisper.plotting import write_figure
from distilwhisper.run.locks import lock_folder
from distilwhisper.run.record import write_run_record
from distilwhisper.run.settings import settings_to_toml
from experiments.catalogue import EXPERIMENTS
from experiments.context import Context
from experiments.experiment import Experiment, Outcome
from experiments.results import Row
from experiments.settings import Scale, Settings, read_settings


def run_experiment(
    experiment: Experiment,
    out: Path,
    *,
    command: Sequence[str],
    scale: Scale = "small",
    settings_file: Path | None = None,
    overrides: Sequence[str] = (),
    force: bool = False,
) -> Outcome:
    """Run an experiment; what was measured before, by it or by another, is not measured again.

    Args:
        experiment: which.
        out: folder of all experiments.
        command: what was typed, for the record.
        scale: whose settings stand where nothing else is given.
        settings_file: a TOML file that bends them.
        overrides: ``key=value`` each, that bend them further.
        force: begin anew what was made of a model or a manifest that has changed since.

    Raises:
        SettingsError: the settings do not fit, or lack what the experiment needs.
        StageChanged: a model or a manifest has changed since.
    """
    known = [other.settings for other in EXPERIMENTS]
    settings: Settings = read_settings(
        experiment.settings, scale, settings_file, overrides, known=known
    )
    experiment.check(settings)
    settings = replace(settings, hardware=settings.hardware.picked())
    folder = out / experiment.name
    with lock_folder(out):
        write_atomic(folder / "recipe.toml", settings_to_toml(settings))
        write_run_record(folder, seed=settings.seed, command=list(command))
        outcome = experiment.run(Context(settings, out, force))
        _write(outcome, experiment, folder, scale)
    return outcome


def _write(outcome: Outcome, experiment: Experiment, folder: Path, scale: Scale) -> None:
    write_jsonl(folder / "rows.jsonl", (asdict(row) for row in _rows(outcome)))
    summary = {
        "experiment": experiment.name,
        "shows": experiment.shows,
        "scale": scale,
        "arms": [result.to_dict() for result in outcome.results.values()],
        **outcome.more,
    }
    write_atomic(folder / "summary.json", json.dumps(_finite(summary), indent=2) + "\n")
    for name, table in {"table": outcome.table, **outcome.further}.items():
        write_atomic(folder / f"{name}.md", table.to_markdown())
        write_atomic(folder / f"{name}.csv", table.to_csv())
    if outcome.figure is not None:
        write_figure(outcome.figure, folder, "figure")


def _finite(value: Any) -> Any:
    """Put null in the place of numbers that are not finite, for which JSON has no word."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def problems(outcome: Outcome) -> dict[str, str]:
    """Return the utterances that could not be read, and why."""
    unread = {f"{row.set}: {row.id}": row.problem for row in _rows(outcome) if row.problem}
    return {**outcome.problems, **unread}


def _rows(outcome: Outcome) -> Iterator[Row]:
    for result in outcome.results.values():
        yield from result.rows
