"""Every experiment, by name."""

import difflib

from experiments import (
    data,
    designs,
    encoder,
    hallucination,
    label_quality,
    long_form,
    noise,
    prompts,
    quality,
    seams,
    speed,
)
from experiments.experiment import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (
    quality.table5,
    quality.table6,
    long_form.table7,
    long_form.table8,
    speed.table9,
    data.table10,
    data.table11,
    designs.table12,
    quality.table16,
    quality.table17,
    long_form.table18,
    long_form.table19,
    speed.table20,
    designs.table21,
    speed.table22,
    long_form.table23,
    speed.table24,
    noise.figure2,
    seams.overlap,
    prompts.prompts,
    hallucination.hallucination,
    encoder.encoder,
    label_quality.label_quality,
)


def find_experiment(name: str) -> Experiment:
    """Return an experiment by its name.

    Raises:
        ValueError: there is none; the message names the nearest.
    """
    by_name = {experiment.name: experiment for experiment in EXPERIMENTS}
    if name not in by_name:
        [nearest] = difflib.get_close_matches(name, by_name, n=1, cutoff=0.0)
        raise ValueError(
            f"there is no experiment {name!r}; the nearest is {nearest}, and "
            "`python -m experiments --list` names all"
        )
    return by_name[name]


def list_experiments() -> str:
    """Return a line for every experiment: its name, what it shows, and what it needs."""
    width = max(len(experiment.name) for experiment in EXPERIMENTS)
    return "\n".join(
        f"{experiment.name:<{width}}  {experiment.shows}; "
        f"needs {', '.join(experiment.needs) or 'nothing'}"
        for experiment in EXPERIMENTS
    )
