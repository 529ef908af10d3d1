from experiments.figures import FITTED, draw_bars, printed_line, wer_line
from experiments.results import Result, Row
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from distilwhisper.evaluation.bootstrap import Interval
from distilwhisper.plotting import Line, draw_panels
from distilwhisper.text.wer import ErrorCounts


def bars(figure: Figure) -> list[float]:
    return [bar.get_width() for bar in figure.axes[0].patches if isinstance(bar, Rectangle)]


def numbers(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_bars_have_their_numbers() -> None:
    heard = {
        "silence": {"sequential": 0.0, "chunked": 1.0},
        "noise": {"sequential": 2.5, "chunked": 3.0},
        "hum": {"sequential": 4.0, "chunked": 120.0},
    }
    figure = draw_bars(heard, x="words a minute", title="a title")
    assert numbers(figure) == ["0.0", "2.5", "4.0", "1.0", "3.0", "120.0"]
    assert bars(figure) == [0.0, 2.5, 4.0, 1.0, 3.0, 120.0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["sequential", "chunked"]


def test_bars_of_one_kind_need_no_legend() -> None:
    figure = draw_bars({"PL": {"WER": 300.0}, "PL + KL": {"WER": 280.0}}, x="WER, %", title="")
    assert bars(figure) == [300.0, 280.0]
    assert figure.legends == []


def test_an_arm_without_an_interval_leaves_the_others_theirs() -> None:
    rows = [Row("arm", "set", "u", "f", "", "", ErrorCounts(substitutions=1, words=10))]
    arms = {
        place: Result("arm", rows, interval)
        for place, interval in ((10, Interval(0.1, 0.05, 0.2)), (20, None))
    }
    line = wer_line("student", arms)
    assert (line.xs, line.ys) == ([10, 20], [10.0, 10.0])
    assert (line.lows, line.highs) == ([5.0, None], [20.0, None])


def test_the_paper_s_are_grey_or_like_what_they_stand_beside() -> None:
    lines = [
        Line("ours", [0, 20, 50], [5, 5.2, 5.5]),
        Line("fitted", [0, 1], [5, 6], beside="ours", style=FITTED),
        printed_line("paper: theirs", [0, 1], [4, 5], beside="ours"),
        printed_line("paper", [0, 1], [3, 3]),
    ]
    found = draw_panels({"": lines}, x="", y="").axes[0].get_lines()
    ours, fitted, theirs, paper = found
    assert ours.get_color() == fitted.get_color() == theirs.get_color() != paper.get_color()
    assert (fitted.get_marker(), theirs.get_markerfacecolor()) == ("", "white")
