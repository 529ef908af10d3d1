"""Figures of a page: error rates against speed and noise, and a training by its steps."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from distilwhisper.evaluation.comparison import Comparison, speed_points
from distilwhisper.evaluation.degradation import Degradation, Kind
from distilwhisper.plotting import Line, draw_panels, file_of, in_percent
from distilwhisper.report.facts import RunFacts

_SNR = "signal over noise / dB"
_LEVELS: Mapping[Kind, str] = {  # what the level is of kinds that are no noise
    "reverberation": "reverberation time / s",
    "clipping": "beyond full scale / dB",
}
_OF_THE_FILTER = {  # its figures, and what they show
    "errors.svg": "share of labels with at most so many errors",
    "limits.svg": "what other limits on errors would keep, and the errors left in it",
    "kept.svg": "share kept by language, source, speaker and length",
}
_NATS, _CAPPED = "nats per token", "WER, at most 100 %"
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
    names, y = comparison.models, f"{name}, %"
    figure = draw_panels({title: points}, x="RTFx", y=y, names=names, x_log=True)
    values = "; ".join(f"{point.name}: {point.y:.1f} % at RTFx {point.x:.1f}" for point in points)
    return Picture(file_of(figure, "svg"), f"{title}. {values}")


def noise_plots(comparison: Comparison) -> list[Picture]:
    """Draw error rates against the level of each noise that comes in several."""
    by_kind: dict[tuple[Kind, Path | None], dict[float, str]] = {}
    for noise in filter(None, comparison.noises):
        spec = Degradation.parse(noise)
        if isinstance(spec.level, float):
            by_kind.setdefault((spec.kind, spec.source), {})[spec.level] = noise
    plots = []
    for (kind, source), levels in by_kind.items():
        if len(levels) < 2 or any(average.wer is None for average in comparison.averages):
            continue
        what, name = _LEVELS.get(kind, _SNR), comparison.rate_name
        levels = dict(sorted(levels.items(), reverse=what == _SNR))
        lines = [_level_line(comparison, model, levels) for model in comparison.models]
        called = f"{kind} noise" if kind in ("white", "pink", "recorded") else kind
        title = f"{name} under {called}" + (f" of {source.name}" if source else "")
        figure = draw_panels({title: lines}, x=what, y=f"{name}, %", x_reversed=what == _SNR)
        values = "; ".join(map(_values, lines))
        plots.append(Picture(file_of(figure, "svg"), f"{title}. {values}"))
    return plots


def _level_line(comparison: Comparison, model: str, levels: Mapping[float, str]) -> Line:
    averages = [comparison.average(model, noise) for noise in levels.values()]
    clean = comparison.average(model, None).wer if None in comparison.noises else None
    wers, lows, highs = (
        [in_percent(getattr(average, of)) for average in averages] for of in ("wer", "low", "high")
    )
    return Line(model, list(levels), wers, lows, highs, in_percent(clean))


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
    plots = [_by_step("Training loss", _NATS, losses)]
    if checkpoints:
        lines = [_wer_curve("mean", checkpoints)]
        sets = list(checkpoints[-1].get("wer_by_set", {}))
        for name in sets if len(sets) > 1 else ():
            rows = [{**row, "validation_wer": row["wer_by_set"][name]} for row in checkpoints]
            lines.append(_wer_curve(name, rows))
        plots.append(_by_step("Validation WER", _CAPPED, lines))
    if "lr" in last:
        plots.append(_by_step("Learning rate", "learning rate", [_curve("", run.losses, "lr")]))
    return plots


def curves(runs: Mapping[str, RunFacts]) -> list[Picture]:
    """Draw losses and error rates of several runs."""
    lines = [_curve(name, run.losses, "loss") for name, run in runs.items()]
    rates = [_wer_curve(name, run.validations) for name, run in runs.items() if run.validations]
    plots = [_by_step("Training loss", _NATS, lines)]
    return [*plots, _by_step("Validation WER", _CAPPED, rates, runs)] if rates else plots


def _curve(name: str, rows: Sequence[Mapping[str, Any]], key: str) -> Line:
    return Line(name, [row["step"] for row in rows], [row[key] for row in rows])


def _wer_curve(name: str, rows: Sequence[Mapping[str, Any]]) -> Line:
    """Return error rates in per cent; one that loops would flatten all others."""
    capped = [min(100 * row["validation_wer"], 100.0) for row in rows]
    return Line(name, [row["step"] for row in rows], capped)


def _by_step(title: str, y: str, lines: Sequence[Line], names: Iterable[str] = ()) -> Picture:
    values = "; ".join(f"{line.name} {line.ys[-1]:.3g} at the end".strip() for line in lines)
    figure = draw_panels({title: lines}, x="step", y=y, names=names)
    return Picture(file_of(figure, "svg"), f"{title}: {values}")
