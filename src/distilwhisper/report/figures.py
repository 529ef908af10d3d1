"""Figures of a page: error rates against speed and noise, and a training by its steps."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from distilwhisper.evaluation.comparison import Comparison
from distilwhisper.evaluation.degradation import Degradation, Kind
from distilwhisper.evaluation.figures import speed_points
from distilwhisper.plotting import Figure, Line, draw_lines, draw_points, file_of, in_percent
from distilwhisper.report.facts import RunFacts

_SNR = "signal over noise / dB"
_LEVELS: Mapping[Kind, tuple[str, str]] = {  # kinds of noise, and what their level is
    "white": ("white noise", _SNR),
    "pink": ("pink noise", _SNR),
    "babble": ("babble", _SNR),
    "recorded": ("recorded noise", _SNR),
    "reverberation": ("reverberation", "reverberation time / s"),
    "clipping": ("clipping", "beyond full scale / dB"),
}
_OF_THE_FILTER = {  # its figures, and what they show
    "errors.svg": "share of labels with at most so many errors",
    "limits.svg": "what other limits on errors would keep, and the errors left in it",
    "kept.svg": "share kept by language, source, speaker and length",
}
_LOSSES = {"kl": "KL to the teacher", "pl": "pseudo-labels", "mse": "hidden states"}


class Picture(NamedTuple):
    """A figure of a page, and what it shows, for those who cannot see it."""

    svg: bytes
    description: str


def speed_plot(comparison: Comparison) -> Picture | None:
    """Draw error rates against speed; None of fewer than two models."""
    noise, name = comparison.first_noise, comparison.rate_name
    points = speed_points(comparison, noise)
    if len(points) < 2:
        return None
    title = f"{name} against speed" + ("" if noise is None else f", {noise}")
    figure = draw_points({title: points}, x="RTFx", y=f"{name}, %", names=comparison.models)
    values = "; ".join(f"{point.name}: {point.y:.1f} % at RTFx {point.x:.1f}" for point in points)
    return _picture(figure, f"{title}. {values}")


def noise_plots(comparison: Comparison) -> list[Picture]:
    """Draw error rates against the level of each noise that comes in several."""
    by_kind: dict[tuple[Kind, Path | None], dict[float, str]] = {}
    for noise in filter(None, comparison.noises):
        spec = Degradation.parse(noise)
        if isinstance(spec.level, float):
            by_kind.setdefault((spec.kind, spec.source), {})[spec.level] = noise
    plots = []
    for (kind, source), levels in by_kind.items():
        if len(levels) < 2 or any(a.wer is None for a in comparison.averages):
            continue
        (called, what), name = _LEVELS[kind], comparison.rate_name
        places = sorted(levels, reverse=what == _SNR)
        lines = []
        for model in comparison.models:
            averages = [comparison.average(model, levels[place]) for place in places]
            clean = comparison.average(model, None).wer if None in comparison.noises else None
            lines.append(
                Line(
                    model,
                    places,
                    [in_percent(average.wer) for average in averages],
                    lows=[in_percent(average.low) for average in averages],
                    highs=[in_percent(average.high) for average in averages],
                    level=in_percent(clean),
                )
            )
        title = f"{name} under {called}" + (f" of {source.name}" if source else "")
        figure = draw_lines({title: lines}, x=what, y=f"{name}, %", x_reversed=what == _SNR)
        plots.append(_picture(figure, f"{title}. {'; '.join(map(_values, lines))}"))
    return plots


def _values(line: Line) -> str:
    places = zip(line.xs, line.ys, strict=True)
    return f"{line.name}: " + ", ".join(f"{y:.1f} % at {x:g}" for x, y in places if y is not None)


def filter_plots(run: RunFacts) -> list[Picture]:
    """Return the figures that the filter has left."""
    folder = run.folder / "verdicts/figures"
    paths = {folder / name: description for name, description in _OF_THE_FILTER.items()}
    return [Picture(path.read_bytes(), text) for path, text in paths.items() if path.exists()]


def training_plots(run: RunFacts) -> list[Picture]:
    """Draw losses, error rates of checkpoints and the learning rate by step."""
    last, checkpoints = run.losses[-1], run.validations
    losses = [_curve(name, run.losses, key) for key, name in _LOSSES.items() if key in last]
    plots = [_by_step(losses, title="Training loss", y="nats per token")]
    if checkpoints:
        lines = [_wer_curve("mean", checkpoints)]
        sets = list(checkpoints[-1].get("wer_by_set", {}))
        for name in sets if len(sets) > 1 else ():
            rows = [{**row, "validation_wer": row["wer_by_set"][name]} for row in checkpoints]
            lines.append(_wer_curve(name, rows))
        plots.append(_by_step(lines, title="Validation WER", y="WER, at most 100 %"))
    if "lr" in last:
        rate = _curve("", run.losses, "lr")
        plots.append(_by_step([rate], title="Learning rate", y="learning rate"))
    return plots


def curves(runs: Mapping[str, RunFacts]) -> list[Picture]:
    """Draw losses and error rates of several runs."""
    lines = [_curve(name, run.losses, "loss") for name, run in runs.items()]
    plots = [_by_step(lines, title="Training loss", y="nats per token")]
    rates = [_wer_curve(name, run.validations) for name, run in runs.items() if run.validations]
    if rates:
        y = "WER, at most 100 %"
        plots.append(_by_step(rates, title="Validation WER", y=y, names=runs))
    return plots


def _curve(name: str, rows: Sequence[Mapping[str, Any]], key: str) -> Line:
    return Line(name, [row["step"] for row in rows], [row[key] for row in rows])


def _wer_curve(name: str, rows: Sequence[Mapping[str, Any]]) -> Line:
    """Return error rates in per cent; one that loops would flatten all others."""
    capped = [min(100 * row["validation_wer"], 100.0) for row in rows]
    return Line(name, [row["step"] for row in rows], capped)


def _by_step(lines: Sequence[Line], *, title: str, y: str, names: Iterable[str] = ()) -> Picture:
    values = "; ".join(f"{line.name} {line.ys[-1]:.3g} at the end".strip() for line in lines)
    return _picture(draw_lines({title: lines}, x="step", y=y, names=names), f"{title}: {values}")


def _picture(figure: Figure, description: str) -> Picture:
    return Picture(file_of(figure, "svg"), description)
