"""Figures of a comparison: error rates against speed, and against the level of noise."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from distilwhisper.evaluation.comparison import Comparison
from distilwhisper.evaluation.degradation import Degradation, Kind
from distilwhisper.evaluation.figures import SPEED_NOTE, speed_points
from distilwhisper.evaluation.table import rate_name
from distilwhisper.plotting import Line, draw_lines, draw_points, file_of, in_percent
from distilwhisper.report.html import Html, image, join, note, tag
from distilwhisper.report.results import average_of, plain_sound

_SNR = "signal over noise / dB"
_LEVELS: Mapping[Kind, tuple[str, str]] = {  # kinds of noise, and what their level is
    "white": ("white noise", _SNR),
    "pink": ("pink noise", _SNR),
    "babble": ("babble", _SNR),
    "recorded": ("recorded noise", _SNR),
    "reverberation": ("reverberation", "reverberation time / s"),
    "clipping": ("clipping", "beyond full scale / dB"),
}


def speed_plot(comparison: Comparison) -> Html:
    """Draw error rates against speed, of two models or more."""
    noise, name = plain_sound(comparison), rate_name(comparison)
    points = speed_points(comparison, noise)
    if len(points) < 2:
        return join([])
    title = f"{name} against speed" + ("" if noise is None else f", {noise}")
    figure = draw_points({title: points}, x="RTFx", y=f"{name}, %", names=comparison.models)
    says = "; ".join(f"{point.name}: {point.y:.1f} % at RTFx {point.x:.1f}" for point in points)
    return figures([image(file_of(figure, "svg"), f"{title}. {says}")], SPEED_NOTE)


def noise_plots(comparison: Comparison) -> list[Html]:
    """Draw error rates against the level of each noise that comes in several."""
    by_kind: dict[tuple[Kind, Path | None], dict[float, str]] = {}
    for noise in filter(None, comparison.noises):
        done = Degradation.parse(noise)
        if isinstance(done.level, float):
            by_kind.setdefault((done.kind, done.source), {})[done.level] = noise
    return [
        _noise_plot(comparison, kind, source, levels)
        for (kind, source), levels in by_kind.items()
        if len(levels) > 1 and all(a.wer is not None for a in comparison.averages)
    ]


def _noise_plot(
    comparison: Comparison, kind: Kind, source: Path | None, levels: Mapping[float, str]
) -> Html:
    (called, what), name = _LEVELS[kind], rate_name(comparison)
    falling = what == _SNR
    places = sorted(levels, reverse=falling)
    lines = []
    for model in comparison.models:
        found = [average_of(comparison, model, levels[place]) for place in places]
        clean = [a.wer for a in comparison.averages if (a.model, a.noise) == (model, None)]
        lines.append(
            Line(
                model,
                places,
                [in_percent(average.wer) for average in found],
                lows=[in_percent(average.low) for average in found],
                highs=[in_percent(average.high) for average in found],
                level=in_percent(clean[0]) if clean else None,
            )
        )
    title = f"{name} under {called}" + (f" of {source.name}" if source else "")
    figure = draw_lines({title: lines}, x=what, y=f"{name}, %", x_reversed=falling)
    return image(file_of(figure, "svg"), f"{title}. {'; '.join(map(_told, lines))}")


def _told(line: Line) -> str:
    places = zip(line.xs, line.ys, strict=True)
    return f"{line.name}: " + ", ".join(f"{y:.1f} % at {x:g}" for x, y in places if y is not None)


def figures(images: Sequence[Html], says: str) -> Html:
    """Return images side by side, and what to see in them."""
    return join([tag("div", *images, class_="plots"), note(says)])
