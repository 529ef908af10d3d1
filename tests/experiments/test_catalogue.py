from experiments.catalogue import EXPERIMENTS, find_experiment

# Issue: every claim of the paper, as one command each; those that only evaluate, and those that
# train or judge labels.
EVALUATING = [
    *(f"table{number}" for number in (5, 6, 7, 8, 9, 16, 17, 18, 19, 20, 22, 23, 24)),
    "figure2", "overlap", "prompts", "hallucination",
]  # fmt: skip
TRAINING = ["table10", "table11", "table12", "table21", "encoder", "label-quality"]


def test_everything_that_was_promised_is_there_once() -> None:
    names = [experiment.name for experiment in EXPERIMENTS]
    assert len(set(names)) == len(names)
    assert {*EVALUATING, *TRAINING} == set(names)
    assert all(find_experiment(name).name == name for name in names)
