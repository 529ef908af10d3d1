"""The training benchmarks on a CPU with tiny shapes: no figure of theirs means anything here."""

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, Any]]:
    pytest.importorskip("transformers")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        names = ("training_step", "gpu_train")
        yield {name: import_module(name) for name in names}
        for name in names:
            sys.modules.pop(name)


@pytest.mark.reference
def test_the_script_runs_from_end_to_end_and_both_sides_agree(
    scripts: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    assert scripts["gpu_train"].main(["--tiny", "--device", "cpu", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    names = [row["name"] for row in found["rows"]]
    assert names == ["published structure", "ours", "ours, encoder outputs cached"]
    losses = [done["loss"] for done in found["first"].values()]
    norms = [done["grad_norm"] for done in found["first"].values()]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-4)
    assert found["failed"] is None
    for row in found["rows"]:
        assert row["windows_per_s"] > 0
        assert row["peak_bytes"] is None
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("| ours, encoder outputs cached | ")


@pytest.mark.reference
def test_updates_keep_agreeing(scripts: dict[str, Any]) -> None:
    """Clipping and AdamW are the same too: after four updates the students still are."""
    gpu = scripts["gpu_train"]
    teacher = gpu.random_model(gpu.TINY, torch.device("cpu"), torch.float32)
    work = gpu.random_work(teacher, 2, 10)
    published, ours = (gpu.make(name, teacher, work) for name in gpu.SIDES[:2])
    for _ in range(4):
        theirs, mine = published(work), ours(work)
    assert float(mine.loss) == pytest.approx(float(theirs.loss), rel=1e-4)


def test_sides_that_differ_end_it_before_any_time_is_taken(scripts: dict[str, Any]) -> None:
    step = scripts["training_step"]
    one, other = step.Done(torch.tensor(1.0), 2.0), step.Done(torch.tensor(1.01), 2.0)
    step.check_same({"a": one, "b": one}, torch.float32)
    step.check_same({"a": one, "b": other}, torch.bfloat16)
    with pytest.raises(step.Disagreement, match=r"loss .* found 1 \(a\) and 1\.01 \(b\)"):
        step.check_same({"a": one, "b": other}, torch.float32)


def test_ratios_are_taken_round_by_round(scripts: dict[str, Any]) -> None:
    step = scripts["training_step"]
    # The machine got ten times slower in the second round.
    seconds = {step.PUBLISHED: (2.0, 30.0, 4.0), step.OURS: (1.0, 10.0, 1.0)}
    theirs, ours = step.rows_of(seconds, dict.fromkeys(seconds, 5 * 10**9), 6)
    assert theirs.times_faster == 1.0
    assert ours.times_faster == 3.0
    assert ours.windows_per_s == 6.0
    assert step.table([ours]).endswith("| ours | 6.00 (0.60-6.00) | 3.00 | 5.00 |")
