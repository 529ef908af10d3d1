"""Noise under the speech: figure 2."""

from collections.abc import Sequence
from dataclasses import replace

from distilwhisper.plotting import draw_lines
from experiments.context import Context
from experiments.experiment import Outcome
from experiments.figures import wer_line
from experiments.scores import ArmSummary, interval_notes
from experiments.tables import Column, Table, Value


def run_figure2(context: Context) -> Outcome:
    """Error rate against the signal-to-noise ratio, by kind of noise."""
    settings = context.settings
    kinds = dict.fromkeys(settings.noises, "")
    if settings.noise_folder is not None:
        kinds["recorded"] = f"@{settings.noise_folder.absolute()}"
    clean = {model.name: context.arm(model) for model in context.models}
    noisy = {
        (model.name, kind, snr): replace(
            context.arm(model, f"{model.name}, {kind} {snr:g} dB"), noise=f"{kind}:{snr:g}{source}"
        )
        for kind, source in kinds.items()
        for snr in settings.snrs_db
        for model in context.models
    }
    rows = context.evaluate_all([*clean.values(), *noisy.values()], context.short)
    teacher = context.teacher.name
    against = dict.fromkeys(clean, teacher)
    against |= {arm.name: noisy[teacher, kind, snr].name for (_, kind, snr), arm in noisy.items()}
    found = context.summarise(rows, against=against)
    by_kind = {
        kind: {
            name: {snr: found[noisy[name, kind, snr].name] for snr in settings.snrs_db}
            for name in clean
        }
        for kind in kinds
    }
    values: dict[str, list[Value]] = {"clean": _pairs([found[name] for name in clean])}
    for kind, by_model in by_kind.items():
        for snr in settings.snrs_db:
            values[f"{kind}, {snr:g} dB"] = _pairs([by_snr[snr] for by_snr in by_model.values()])
    columns = [Column(f"{teacher}: WER, %", percent=True)]
    for name in list(clean)[1:]:
        columns += [
            Column(f"{name}: WER, %", percent=True),
            Column(f"{name} less {teacher}, points", 1, percent=True),
        ]
    table = Table(
        "Figure 2: error rate against the signal-to-noise ratio",
        of="noise",
        columns=columns,
        rows=values,
        notes=(
            *interval_notes(found),
            "The ratio is that of mean powers over an utterance; all models hear the same "
            "mixtures. The paper's curves are not printed as numbers.",
        ),
    )
    figure = draw_lines(
        {
            kind: [wer_line(name, by_snr) for name, by_snr in by_model.items()]
            for kind, by_model in by_kind.items()
        },
        x="signal-to-noise ratio, dB",
        y="WER, %",
        x_reversed=True,
    )
    return Outcome(table, found, rows, figure)


def _pairs(arms: Sequence[ArmSummary]) -> list[Value]:
    """Return the first arm's error rate, and every other's with its difference."""
    values: list[Value] = [arms[0].shown_wer]
    for arm in arms[1:]:
        values += [arm.shown_wer, arm.difference]
    return values
