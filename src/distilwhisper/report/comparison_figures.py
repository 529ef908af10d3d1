"""Figures of a comparison: error rates against speed, and against the level of noise."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from distilwhisper.evaluation.comparison import Comparison
from distilwhisper.evaluation.degradation import Degradation, Kind
from distilwhisper.report.html import Html, image, join, note, tag
from distilwhisper.report.plots import Line, Spot, draw_lines, draw_spots
from distilwhisper.report.results import average_of, cells_of, plain_sound, rate_name, rtfx_of

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
    spots = []
    for model in comparison.models:
        average, cells = average_of(comparison, model, noise), cells_of(comparison, model, noise)
        rtfx = rtfx_of(comparison, model, noise)
        if average.wer is None or not rtfx:
            continue
        spots.append(
            Spot(
                model,
                rtfx,
                100 * average.wer,
                _times_100(average.low),
                _times_100(average.high),
                [(c.rtfx, 100 * c.wer) for c in cells if c.wer is not None and c.rtfx]
                if len(cells) > 1
                else [],
            )
        )
    if len(spots) < 2:
        return join([])
    title = f"{name} against speed" + ("" if noise is None else f", {noise}")
    svg = draw_spots(spots, title=title, x="RTFx", y=f"{name} / %")
    says = "; ".join(f"{spot.label}: {spot.y:.1f} % at RTFx {spot.x:.1f}" for spot in spots)
    return figures(
        [image(svg, f"{title}. {says}")],
        "Right and low is good. Large: all sets, with the interval of their mean; small: each set.",
    )


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
        sure = all(average.low is not None for average in found)
        clean = [a.wer for a in comparison.averages if (a.model, a.noise) == (model, None)]
        lines.append(
            Line(
                model,
                places,
                [100 * (average.wer or 0.0) for average in found],
                low=[100 * (average.low or 0.0) for average in found] if sure else None,
                high=[100 * (average.high or 0.0) for average in found] if sure else None,
                level=100 * clean[0] if clean and clean[0] is not None else None,
            )
        )
    title = f"{name} under {called}" + (f" of {source.name}" if source else "")
    svg = draw_lines(lines, title=title, x=what, y=f"{name} / %", markers=True, falling=falling)
    return image(svg, f"{title}. {'; '.join(map(_told, lines))}")


def _told(line: Line) -> str:
    places = zip(line.x, line.y, strict=True)
    return f"{line.label}: " + ", ".join(f"{y:.1f} % at {x:g}" for x, y in places)


def figures(images: Sequence[Html], says: str) -> Html:
    """Return images side by side, and what to see in them."""
    return join([tag("div", *images, class_="plots"), note(says)])


def _times_100(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction
