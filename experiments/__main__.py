"""The command line: ``python -m experiments NAME --out DIR``.

Tables go to standard output, the log to standard error. Exit status 0 means that all of it worked,
1 that some inputs failed (each is named) or that the work could not be done, 2 that the command was
wrong.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import tyro
from tyro.conf import Positional, UseAppendAction

from distilwhisper.cli import OK, SOME_FAILED, status_of
from distilwhisper.progress import say
from experiments.catalogue import find_experiment, list_experiments
from experiments.runner import problems, run_experiment
from experiments.settings import Scale

Overrides = UseAppendAction[tuple[str, ...]]


def experiment(
    name: Positional[str] = "",
    /,
    *,
    out: Path = Path("results"),
    scale: Scale = "small",
    settings: Path | None = None,
    set: Overrides = (),  # noqa: A002
    list: bool = False,  # noqa: A002
    force: bool = False,
) -> int:
    """Run an experiment of the paper: a table, a figure, or a check that it left open.

    Args:
        name: of the experiment.
        out: folder of all experiments; what one has measured, another does not measure again.
        scale: small: a base model, on sets that you name; paper: large-v2.
        settings: a TOML file that bends the scale's models, sets and numbers.
        set: key=value, instead of what scale and file say; may be repeated.
        list: print every experiment, with what it needs.
        force: do again what was made of a model or a manifest that has changed.
    """
    if list:
        print(list_experiments())
        return OK
    if not name:
        raise ValueError("name an experiment; `python -m experiments --list` names all")
    outcome = run_experiment(
        find_experiment(name),
        out,
        command=sys.argv,
        scale=scale,
        settings_file=settings,
        overrides=set,
        force=force,
    )
    for table in (outcome.table, *outcome.further.values()):
        print(table.to_markdown())
    failed = problems(outcome)
    for name_, problem in failed.items():
        say(f"experiments: failed: {name_}: {problem}")
    return SOME_FAILED if failed else OK


def call(arguments: Sequence[str]) -> int:
    """Run one experiment and return the exit status."""
    return status_of(
        lambda: tyro.cli(experiment, args=arguments, prog="python -m experiments"),
        program="experiments",
    )


if __name__ == "__main__":
    sys.exit(call(sys.argv[1:]))
