from pathlib import Path

import pytest
from evaluations import TEXTS, evaluation
from matplotlib.image import imread

from distilwhisper.evaluation.bootstrap import Resampling
from distilwhisper.evaluation.comparison import compare
from distilwhisper.evaluation.figures import draw_comparison

FEW = Resampling(n=50)


@pytest.mark.parametrize("noises", [(None,), (None, "white:10")])
def test_errors_are_drawn_against_speed(tmp_path: Path, noises: tuple[str | None, ...]) -> None:
    evaluations = [
        evaluation(tmp_path, model, set_, {"a": "the"}, noise=noise, compute_s=compute_s)
        for model, compute_s in (("small & fast", 1.0), ("large", 4.0))
        for set_ in ("first", "second")
        for noise in noises
    ]
    found = compare(evaluations, folder=tmp_path, resampling=FEW)
    svg, png = draw_comparison(found, tmp_path / "figures")
    drawn = svg.read_text()
    for text in ("small &amp; fast", "large", "first", "second", *noises[1:], "WER"):
        assert text is not None
        assert text in drawn
    assert imread(png).std() > 0
    draw_comparison(found, tmp_path / "again")
    assert (tmp_path / "again" / svg.name).read_text() == drawn


def test_without_references_there_is_nothing_to_draw(tmp_path: Path) -> None:
    found = compare(
        [evaluation(tmp_path, "small", texts=dict.fromkeys(TEXTS))], folder=tmp_path, resampling=FEW
    )
    assert draw_comparison(found, tmp_path / "figures") == []
    assert not (tmp_path / "figures").exists()
