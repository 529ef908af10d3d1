import re
from itertools import pairwise

from distilwhisper.report.plots import Line, Spot, draw_lines, draw_spots


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def place(svg: str, label: str) -> float:
    """Return how far down a label stands."""
    found = re.search(rf'translate\([-\d.]+ ([-\d.]+)\)[^>]*>{re.escape(label)}<|'
                      rf'y="([-\d.]+)"[^>]*>{re.escape(label)}<', svg)  # fmt: skip
    assert found, label
    return float(found[1] or found[2])


def test_lines_are_named_at_their_ends() -> None:
    lines = [Line("one", [1, 2], [3.0, 1.0]), Line("other", [1, 2], [2.0, 0.5])]
    svg = draw_lines(lines, title="A title", x="step", y="loss")
    assert {"A title", "step", "loss", "one", "other"} <= set(texts(svg))
    assert svg == draw_lines(lines, title="A title", x="step", y="loss")
    alone = draw_lines(lines[:1], title="A title", x="step", y="loss")
    assert "one" not in texts(alone)


def test_names_do_not_stand_on_each_other() -> None:
    names = [f"name {i}" for i in range(5)]
    svg = draw_lines([Line(n, [1, 2], [1.0, 1.0]) for n in names], title="", x="", y="")
    heights = sorted(place(svg, name) for name in names)
    assert all(below - above > 9 for above, below in pairwise(heights))


def test_long_names_are_cut() -> None:
    lines = [Line("x" * 50, [1], [1.0]), Line("b", [1], [0.5])]
    assert f"{'x' * 21}…" in texts(draw_lines(lines, title="", x="", y=""))


def test_spots_are_named_and_show_what_they_are_the_mean_of() -> None:
    spots = [Spot("one", 10.0, 5.0, 4.0, 6.0, [(9.0, 4.5)]), Spot("<other>", 300.0, 8.0)]
    svg = draw_spots(spots, title="WER against speed", x="RTFx", y="WER / %")
    assert {"one", "&lt;other&gt;", "RTFx", "WER / %"} <= set(texts(svg))


def test_nothing_but_zeros_can_be_drawn() -> None:
    lines = [Line("one", [1, 2], [0.0, 0.0]), Line("other", [1, 2], [0.0, 0.0])]
    assert "other" in texts(draw_lines(lines, title="", x="", y=""))
