"""Noise under the speech: figure 2."""

from dataclasses import dataclass, replace
from pathlib import Path

from distilwhisper.checks import NOT_EMPTY, ruled
from distilwhisper.plotting import draw_panels
from experiments.cells import Arm
from experiments.context import Context
from experiments.experiment import Outcome, experiment
from experiments.figures import wer_line
from experiments.results import interval_notes
from experiments.settings import Settings
from experiments.tables import WER, Table, less, pivot


@dataclass(frozen=True)
class NoiseSettings(Settings):
    """Of figure 2."""

    noises: tuple[str, ...] = ("white", "pink", "babble")
    """Kinds of noise."""
    noise_folder: Path | None = None
    """A folder of recorded noise, as one more kind."""
    snrs_db: tuple[float, ...] = ruled((40.0, 30.0, 20.0, 10.0, 5.0, 0.0, -5.0, -10.0), NOT_EMPTY)
    """Ratios of speech to noise."""


CLEAN = "clean"


@experiment("figure2", needs=("short",), settings=NoiseSettings)
def figure2(context: Context[NoiseSettings]) -> Outcome:
    """Error rate under noise, by ratio and kind."""
    settings, teacher = context.settings, context.teacher.name
    names = [model.name for model in context.models]
    kinds = dict.fromkeys(settings.noises, "")
    if settings.noise_folder is not None:
        kinds["recorded"] = f"@{settings.noise_folder.absolute()}"
    arms: dict[tuple[str, str], Arm] = {(m.name, CLEAN): context.arm(m) for m in context.models}
    for kind, source in kinds.items():
        for snr in settings.snrs_db:
            for model in context.models:
                mixed = _mixed(kind, snr)
                arm = context.arm(model, f"{model.name}, {mixed}")
                arms[model.name, mixed] = replace(arm, noise=f"{kind}:{snr:g}{source}")
    results = context.evaluate(arms, context.short, against=lambda arm: (teacher, arm[1]))
    difference = less(teacher, digits=1)
    columns = [WER.at(teacher)]
    for name in names[1:]:
        columns += [WER.at(name), difference.at(name, f"{name} {difference.name}")]
    table = Table(
        "Figure 2: error rate against the signal-to-noise ratio",
        of="noise",
        columns=columns,
        rows=pivot(results),
        notes=(
            *interval_notes(results.values()),
            "The ratio is that of mean powers over an utterance; all models hear the same "
            "mixtures. The paper's curves are not printed as numbers.",
        ),
    )
    figure = draw_panels(
        {
            kind: [
                wer_line(name, {snr: results[name, _mixed(kind, snr)] for snr in settings.snrs_db})
                for name in names
            ]
            for kind in kinds
        },
        x="signal-to-noise ratio, dB",
        y="WER, %",
        x_reversed=True,
    )
    return Outcome(table, results, figure)


def _mixed(kind: str, snr_db: float) -> str:
    return f"{kind}, {snr_db:g} dB"
