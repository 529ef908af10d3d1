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
from experiments.experiment import Experiment, Need

TRAINS: tuple[Need, ...] = ("train", "validation", "short")

EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        "table5",
        "size, relative speed and error rate of every model, short and long form",
        ("comparison", "short", "long"),
        quality.run_table5,
    ),
    Experiment(
        "table6",
        "effective robustness: each set's error rate against the teacher's",
        ("comparison", "short", "reference_set"),
        quality.run_table6,
    ),
    Experiment(
        "table7",
        "long recordings window by window against chunks: speed and error rate",
        ("long",),
        long_form.run_table7,
    ),
    Experiment(
        "table8",
        "kinds of errors on long recordings: repeated 5-grams, IER, SER, DER",
        ("long",),
        long_form.run_table8,
    ),
    Experiment(
        "table9",
        "the student as the teacher's draft, by batch size: speed, acceptance, the same text",
        ("student", "short"),
        speed.run_table9,
    ),
    Experiment(
        "table10",
        "the filter's limit against chance, at equal steps and at equal passes: error rate",
        TRAINS,
        data.run_table10,
    ),
    Experiment(
        "table11", "error rate by hours of labels, with a curve fitted", TRAINS, data.run_table11
    ),
    Experiment(
        "table12",
        "layers of the student's decoder and encoder: size, relative speed, error rate",
        TRAINS,
        designs.run_table12,
    ),
    Experiment("table16", "error rates by model and short set", ("short",), quality.run_table16),
    Experiment("table17", "error rates by model and long set", ("long",), quality.run_table17),
    Experiment("table18", "table 7 by set", ("long",), long_form.run_table18),
    Experiment("table19", "table 8 by set", ("long",), long_form.run_table19),
    Experiment(
        "table20",
        "early exit: layers used and error rate by confidence",
        ("short",),
        speed.run_table20,
    ),
    Experiment(
        "table21",
        "objectives: labels, teacher's distributions, hidden states, other divergences",
        TRAINS,
        designs.run_table21,
    ),
    Experiment(
        "table22",
        "table 9 with further pairs of model and draft",
        ("student", "short"),
        speed.run_table22,
    ),
    Experiment("table23", "error rate by length of chunks", ("long",), long_form.run_table23),
    Experiment(
        "table24", "real-time factors by batch size and precision", ("short",), speed.run_table24
    ),
    Experiment(
        "figure2", "error rate under noise, by ratio and kind", ("short",), noise.run_figure2
    ),
    Experiment(
        "overlap",
        "what chunks share, their length and the join, against errors, repetitions and cost",
        ("long",),
        seams.run_overlap,
    ),
    Experiment(
        "prompts",
        "error rate by length of the prompt, matching and unrelated",
        ("short",),
        prompts.run_prompts,
    ),
    Experiment(
        "hallucination",
        "words a minute on silence, noise, hum and music",
        (),
        hallucination.run_hallucination,
    ),
    Experiment(
        "encoder",
        "encoders frozen, trained, augmented, cut: error rate clean and noisy, likeness, drafts",
        TRAINS,
        encoder.run_encoder,
    ),
    Experiment(
        "label-quality",
        "labels against trusted references: what the filter keeps, drops, and misses in windows",
        ("train",),
        label_quality.run_label_quality,
    ),
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
