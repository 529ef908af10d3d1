from pathlib import Path

from matplotlib.image import imread

from distilwhisper.evaluation.bootstrap import Resampling
from distilwhisper.evaluation.comparison import compare, draw_comparison, errors_against_speed
from evaluations import TEXTS, evaluation

FEW = Resampling(n=50)


def test_errors_are_drawn_against_speed(tmp_path: Path) -> None:
    evaluations = [
        evaluation(tmp_path, model, set_, {"a": "the"}, noise="white:10", compute_s=compute_s)
        for model, compute_s in (("small & fast", 1.0), ("large", 4.0))
        for set_ in ("first", "second")
    ]
    found = compare(evaluations, folder=tmp_path, resampling=FEW)
    svg, png = draw_comparison(found, tmp_path / "figures")
    drawn = svg.read_text()
    for text in ("small &amp; fast", "large", "white:10", "WER"):
        assert text in drawn
    assert imread(png).std() > 0
    draw_comparison(found, tmp_path / "again")
    assert (tmp_path / "again" / svg.name).read_text() == drawn


def test_every_panel_holds_all_that_is_drawn_in_it(tmp_path: Path) -> None:
    noises = (None, "white:10", "white:0", "pink:0")
    evaluations = [
        evaluation(
            tmp_path, model, heard=dict.fromkeys("abc"[:n_lost], ""), noise=noise, compute_s=s
        )
        for model, s in (("small", 1.0), ("large", 4.0))
        for n_lost, noise in enumerate(noises)
    ]
    figure = errors_against_speed(compare(evaluations, folder=tmp_path, resampling=FEW))
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in panels] == ["no noise added", *noises[1:]]
    for n_lost, axes in enumerate(panels):
        lines = axes.get_lines()
        wers = {100 * (sum((5, 4, 3)[:n_lost]) / 12)}
        assert {y for line in lines if len(line.get_xdata()) == 1 for y in line.get_ydata()} == wers
        for line in lines:
            assert 0 < min(line.get_xdata()) <= max(line.get_xdata()) <= axes.get_xlim()[1]
            assert axes.get_ylim()[0] <= min(line.get_ydata())
            assert max(line.get_ydata()) <= axes.get_ylim()[1]


def test_without_references_there_is_nothing_to_draw(tmp_path: Path) -> None:
    found = compare(
        [evaluation(tmp_path, "small", texts=dict.fromkeys(TEXTS))], folder=tmp_path, resampling=FEW
    )
    assert draw_comparison(found, tmp_path / "figures") == []
    assert not (tmp_path / "figures").exists()
