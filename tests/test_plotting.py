import math
from collections.abc import Sequence

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from distilwhisper.plotting import GREY, Line, Point, draw_panels, file_of, looks

XS = [0, 20, 50, 100, 150, 200, 224, 250]
PHONE = 400  # pixels across
SMALLEST = 9  # pixels, of letters there


def line(name: str, height: float, **more: Sequence[float] | None) -> Line:
    return Line(name, XS, [height + x / 100 for x in XS], **more)  # type: ignore[arg-type]


def drawn(figure: Figure) -> list[Text]:
    """Lay a figure out, and return the texts that can be seen in it."""
    figure.draw_without_rendering()
    texts = figure.findobj(Text)
    return [text for text in texts if text.get_visible() and text.get_text()]


def boxes(texts: Sequence[Text]) -> list[Bbox]:
    return [text.get_window_extent() for text in texts]


def marked(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_all_values_lie_within_the_axes() -> None:
    lines = [line("one", 5, lows=[4.0] * 8, highs=[9.0] * 8), line("two", 7)]
    (axes,) = draw_panels({"a title": lines}, x="x", y="WER, %").axes
    low, high = axes.get_ylim()
    assert axes.get_yscale() == "linear"
    assert low < 0
    assert 9.5 < high < 11
    points = [Point("one", 10, 5, 4, 6, [(9, 4), (11, 15)]), Point("two", 20, 7)]
    (axes,) = draw_panels({"": points}, x="RTFx", y="WER, %", x_log=True).axes
    assert axes.get_ylim()[1] > 15
    assert axes.get_xlim()[0] < 9


def test_values_far_apart_have_a_logarithmic_axis() -> None:
    lines = [line("one", 5), line("two", 7), line("untrained", 190), line("worse", 300)]
    figure = draw_panels({"a title": lines}, x="x", y="WER, %")
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    low, high = axes.get_ylim()
    assert low < 5
    assert high > 302
    places = axes.get_yaxis_transform().transform([(0, y) for y in (5, 7, 190, 300)])[:, 1]
    assert places[1] - places[0] > 0.05 * axes.get_window_extent().height
    assert marked(figure) == []
    # A value of zero has no logarithm.
    zero = [line("one", 0), line("untrained", 190)]
    assert draw_panels({"": zero}, x="x", y="y").axes[0].get_yscale() == "linear"


def test_a_name_looks_the_same_whatever_else_is_drawn() -> None:
    names = ["teacher", "student", "other"]
    look = looks(names)
    lines = [line(name, 5) for name in names]
    for some in (lines, lines[1:], lines[2:]):
        axes = draw_panels({"": some}, x="", y="", names=names).axes[0]
        for found, it in zip(axes.get_lines(), some, strict=True):
            assert (found.get_color(), found.get_marker(), found.get_linestyle()) == (
                look[it.name].colour, look[it.name].marker, look[it.name].dash,
            )  # fmt: skip
    points = draw_panels({"": [Point("student", 1, 1)]}, x="", y="", names=names, x_log=True)
    assert points.axes[0].get_lines()[-1].get_color() == look["student"].colour


def test_looks_differ_without_colours_too() -> None:
    few = looks(map(str, range(8))).values()
    assert len({look.marker for look in few}) == 8
    many = looks(map(str, range(50))).values()
    assert len(set(many)) == 50


def test_a_curve_may_look_like_another_or_have_a_style_of_its_own() -> None:
    lines = [
        line("ours", 5),
        Line("fitted", [0, 1], [5, 6], beside="ours", style={"marker": ""}),
        Line("theirs", [0, 1], [4, 5], beside="ours", style={"markerfacecolor": "white"}),
        Line("printed", [0, 1], [3, 3], beside=""),
    ]
    found = draw_panels({"": lines}, x="", y="").axes[0].get_lines()
    ours, fitted, theirs, printed = found
    assert ours.get_color() == fitted.get_color() == theirs.get_color() != printed.get_color()
    assert (fitted.get_marker(), theirs.get_markerfacecolor()) == ("", "white")
    assert printed.get_color() == GREY


NAMES = {
    "short": ["teacher", "student", "other"],
    "long": [f"/home/somebody/students/distil-whisper-large-v3-{i}/checkpoint" * 2 for i in "abc"],
    "many": [f"model-{i}" for i in range(20)],
}


@pytest.mark.parametrize("n_panels", [1, 3])
@pytest.mark.parametrize("names", NAMES)
def test_all_names_stand_below_the_data_and_inside_the_figure(names: str, n_panels: int) -> None:
    lines = [line(name, 5 + number) for number, name in enumerate(NAMES[names])]
    panels = {f"a model with a long name, {i} s chunks": lines for i in range(n_panels)}
    figure = draw_panels(panels, x="signal-to-noise ratio, dB", y="WER, %")
    drawn(figure)
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert len(legend.get_texts()) == len(lines)
    assert not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes if axes.axison)
    seen, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(seen.x0, seen.y0, width - seen.x1, height - seen.y1) > -0.01
    assert min(axes.get_window_extent().height for axes in figure.axes) > 1.2 * figure.dpi


@pytest.mark.parametrize("n_panels", [1, 2])
def test_letters_can_be_read_on_a_phone(n_panels: int) -> None:
    lines = [line("one", 5), line("two", 7), line("untrained", 190)]
    figure = draw_panels({str(i): lines for i in range(n_panels)}, x="step", y="WER, %")
    scale = PHONE / figure.get_figwidth() / 72
    assert min(text.get_fontsize() * scale for text in drawn(figure)) >= SMALLEST


def test_what_is_not_known_leaves_a_gap() -> None:
    gap = Line("one", [1, 2, 3], [5, None, 6], [4, None, None], [6, None, None])
    none = Line("two", [1, 2], [5, 6], [None, None], [None, None])
    figure = draw_panels({"some": [gap, none], "nothing": []}, x="x", y="y")
    assert math.isnan(figure.axes[0].get_lines()[0].get_ydata()[1])
    assert marked(figure) == ["no figures"]
    assert file_of(figure, "png")


def test_a_single_point_has_its_interval_and_its_tick() -> None:
    figure = draw_panels({"": [Line("one", [224], [5], [4], [6])]}, x="x", y="y")
    (axes,) = figure.axes
    drawn(figure)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["224"]
    segments = [s for c in axes.collections for s in getattr(c, "get_segments", list)()]
    assert [segment[:, 1].tolist() for segment in segments] == [[4, 6]]


@pytest.mark.parametrize("xs", [(10, 10.5), (1, 8.6), (0.9, 5.5), (0.02, 21_770), (30,), (5, 900)])
def test_ratios_have_two_plain_ticks_that_do_not_meet(xs: Sequence[float]) -> None:
    points = [Point(str(x), x, 5) for x in xs]
    figure = draw_panels({"one": points, "other": points}, x="RTFx", y="WER, %", x_log=True)
    drawn(figure)
    for axes in figure.axes:
        low, high = axes.get_xlim()
        shown = [
            label
            for at, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
            if low <= at <= high
        ]
        assert len(shown) >= 2
        assert all("e" not in label.get_text() and "$" not in label.get_text() for label in shown)
        for one, other in zip(boxes(shown), boxes(shown)[1:], strict=False):
            assert one.x1 < other.x0


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_the_same_numbers_give_the_same_file(kind: str) -> None:
    lines = [line("<one>", 5, lows=[4] * 8, highs=[9] * 8), line("two", 190)]
    one, other = (
        file_of(draw_panels({"a title": lines}, x="x", y="y"), kind)  # type: ignore[arg-type]
        for _ in range(2)
    )
    assert one == other
    if kind == "svg":
        for said in ("&lt;one&gt;", "a title"):
            assert said in one.decode()
        assert "<dc:date>" not in one.decode()


def test_a_layout_that_differs_in_its_last_bit_gives_the_same_file() -> None:
    def bars() -> bytes:
        figure = Figure(figsize=(6, 6.3), layout="constrained")
        panels = figure.subplots(4, 1, sharex=True, height_ratios=[3, 4, 9, 8])
        for axes, n_bars in zip(panels, (2, 3, 8, 7), strict=True):
            axes.barh(range(n_bars), range(n_bars))
            axes.set_yticks(range(n_bars), [f"{bar} names" for bar in range(n_bars)])
            axes.set_title("by kind", loc="left")
        return file_of(figure, "svg")

    assert len({bars() for _ in range(5)}) == 1
