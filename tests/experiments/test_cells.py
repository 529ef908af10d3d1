import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from experiments.cells import Arm, evaluate_cells
from experiments.context import Context
from experiments.settings import Settings

from distilwhisper.run.stages import StageChanged
from tiny_model import write_tiny_model


def test_a_draft_that_has_changed_behind_its_name_is_noticed(
    context: Context[Settings], tmp_path: Path
) -> None:
    draft, sets = tmp_path / "draft", context.short[:1]
    write_tiny_model(draft, seed=5)
    arm: Arm = replace(context.arm(context.teacher), draft=str(draft))

    def evaluate(*, force: bool = False) -> object:
        evaluations = evaluate_cells([arm], sets, tmp_path / "cells", force=force)
        return [evaluation.scores for evaluation in evaluations[arm.name]]

    assert evaluate() == evaluate()
    shutil.rmtree(draft)
    write_tiny_model(draft, seed=6)
    with pytest.raises(StageChanged, match="input draft: was"):
        evaluate()
    redone = evaluate(force=True)
    assert evaluate() == redone
