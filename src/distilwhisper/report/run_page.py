"""What a page says of one run."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from distilwhisper.filtering.retention import Kept
from distilwhisper.plotting import Line, draw_lines, file_of
from distilwhisper.report.facts import SETS, RunFacts, error_rate, percent
from distilwhisper.report.html import (
    NOTHING,
    Html,
    folded,
    image,
    note,
    sound,
    table,
    tag,
    word_diff,
)
from distilwhisper.report.results import (
    KINDS_NOTE,
    diff_note,
    differences_note,
    differences_table,
    error_kinds_table,
    failures,
    in_words,
    points,
    rates_note,
    rates_table,
    seen_from,
    speed_table,
)
from distilwhisper.text.wer import ErrorCounts

N_EXAMPLES = 12
MAX_LONG_WORDS = 400
MAX_WORDS = 120

_FIGURES = {  # of the filter, and what they show
    "errors.svg": "share of labels with at most so many errors",
    "limits.svg": "what other limits on errors would keep, and the errors left in it",
    "kept.svg": "share kept by language, source, speaker and length",
}
_SETTINGS = ("batch_size", "peak_lr", "kl_weight", "pl_weight", "temperature")


def run_sections(facts: RunFacts, folder: Path) -> list[Html]:
    """Return all that a page says of a run, without its name.

    Args:
        facts: of the run.
        folder: that the page is in.
    """
    return [
        *_head(facts),
        *_quality(facts),
        *_data(facts),
        *_filter(facts),
        *_training(facts),
        *_long_form(facts, folder),
        *_examples(facts, folder),
        *_provenance(facts),
    ]


def _head(facts: RunFacts) -> Iterator[Html]:
    teacher, student = facts.cell("teacher", "test"), facts.cell("student", "test")
    gap, ratio = facts.gap("test"), facts.ratio
    size = ratio_text(ratio["parameters"], percent=True)
    yield tag("p", f"A student of {facts.teacher}", class_="muted")
    yield tag(
        "p",
        f"On {student.n_utterances} utterances held out from training the student makes ",
        tag("b", f"{percent(student.wer)} {student.unit} errors"),
        f", the teacher {percent(teacher.wer)}: {points(gap)} "
        f"({in_words(facts.comparison, gap)}). It has {size} of the parameters and runs "
        f"{ratio_text(ratio['test'])} times as fast, on the long recording "
        f"{ratio_text(ratio['long'])} times.",
        class_="headline",
    )
    if facts.caution:
        yield note(facts.caution)


def _quality(facts: RunFacts) -> Iterator[Html]:
    comparison = facts.comparison
    (noise,) = comparison.noises
    yield tag("h2", "Quality and speed")
    yield rates_table(comparison, noise, mean=False)
    yield rates_note(comparison)
    yield differences_table(comparison, noise, mean=False)
    yield differences_note(comparison)
    yield tag("h3", "Kinds of errors")
    yield error_kinds_table(comparison, noise, [SETS["test"]])
    yield note(KINDS_NOTE)
    yield tag("h3", "Speed")
    yield speed_table(comparison)
    yield failures(comparison)


def _data(facts: RunFacts) -> Iterator[Html]:
    total, kept = facts.filtered["total"], facts.filtered["kept"]
    cells = {name: facts.cell("student", set_) for set_, name in SETS.items()}
    parts = [
        ["labelled by the teacher", f"{total['count']:,}", f"{total['hours']:.3f}"],
        ["kept for training", f"{kept['count']:,}", f"{kept['hours']:.3f}"],
        *(
            [name, f"{cell.n_utterances:,}", f"{cell.audio_s / 3600:.3f}"]
            for name, cell in cells.items()
        ),
    ]
    yield tag("h2", "Data")
    yield table(["part", "utterances", "hours"], parts)
    if facts.retention is None:
        return
    for kind, groups in facts.retention.groups.items():
        few = "" if groups.n <= len(groups.largest) else f", the largest {len(groups.largest)}"
        yield folded(f"By {kind}: {groups.n}{few}", _kept_table(kind, groups.largest))


def _filter(facts: RunFacts) -> Iterator[Html]:
    summary = facts.filtered
    rows = [
        [reason.replace("_", " "), f"{part['count']:,}", f"{part['hours']:.3f}"]
        for reason, part in summary["by_reason"].items()
    ]
    kept, total = summary["kept"]["count"], summary["total"]["count"]
    yield tag("h2", "Labels and filter")
    yield tag(
        "p",
        f"The teacher labelled {total:,} utterances; {kept:,} were kept and {total - kept:,} "
        f"({percent((total - kept) / max(total, 1))}) dropped.{_errors_of_labels(summary)}",
    )
    yield table(["verdict", "utterances", "hours"], rows)
    drawn = {name: facts.folder / "verdicts" / "figures" / name for name in _FIGURES}
    images = [
        image(path.read_bytes(), _FIGURES[name]) for name, path in drawn.items() if path.exists()
    ]
    if images:
        yield tag("div", *images, class_="plots")
    if facts.retention is not None and facts.retention.by_limit:
        limits = {f"{100 * limit:g} %": part for limit, part in facts.retention.by_limit.items()}
        yield folded("What other limits on errors would keep", _kept_table("limit", limits))


def _errors_of_labels(summary: Mapping[str, Any]) -> str:
    told = [
        f" Against the references all labels have {percent(_rate(counts))} {unit} errors, those "
        f"that were kept {percent(_rate(summary['errors_kept'][unit]))}."
        for unit, counts in summary.get("errors", {}).items()
    ]
    return "".join(told)


def _rate(counts: Mapping[str, int]) -> float | None:
    names = ("substitutions", "deletions", "insertions", "words")
    found = ErrorCounts(**{name: counts[name] for name in names})
    return found.wer if found.words else None


def _kept_table(kind: str, parts: Mapping[str, Kept]) -> Html:
    rows = []
    for name, part in parts.items():
        errors = (part.wer, part.wer_kept) if part.cer is None else (part.cer, part.cer_kept)
        rows.append(
            [
                name,
                f"{part.n:,}",
                f"{part.hours:.3f}",
                percent(part.n_kept / part.n if part.n else None),
                *map(percent, errors),
            ]
        )
    return table([kind, "utterances", "hours", "kept", "label errors", "of those kept"], rows)


def _training(facts: RunFacts) -> Iterator[Html]:
    steps, judged = losses(facts), validations(facts)
    numbers = [row["step"] for row in steps]
    names = {"kl": "KL to the teacher", "pl": "pseudo-labels", "mse": "hidden states"}
    lines = [
        Line(label, numbers, [row[key] for row in steps])
        for key, label in names.items()
        if key in steps[-1]
    ]
    plots = [plot_by_step(lines, title="Training loss", y="nats per token")]
    if judged:
        lines = _by_set(judged)
        plots.append(plot_by_step(lines, title="Validation WER", y="WER, at most 100 %"))
    if "lr" in steps[-1]:
        rate = Line("", numbers, [row["lr"] for row in steps])
        plots.append(plot_by_step([rate], title="Learning rate", y="learning rate"))
    last = steps[-1]
    settings = [f"{n} {facts.training[n]}" for n in _SETTINGS if n in facts.training]
    best = min(judged, key=lambda row: row["validation_wer"], default=None)
    chosen = (
        "The last checkpoint is the student, as there was no validation."
        if best is None
        else "The checkpoint with the lowest validation WER, "
        f"{error_rate(best['validation_wer'])} at step {best['step']:,}, is the student."
    )
    pace = f", {last['windows_per_s']:.2f} windows per second" if "windows_per_s" in last else ""
    yield tag("h2", "Training")
    yield tag("div", *plots, class_="plots")
    yield note(
        f"{last['step']:,} steps, {last['epoch']:.1f} epochs{pace}; "
        f"{', '.join(settings)}{'; ' if settings else ''}KL with temperature squared included. "
        f"{chosen}",
    )


def losses(facts: RunFacts) -> list[Mapping[str, Any]]:
    """Return the rows of metrics.jsonl that are about updates."""
    return [row for row in facts.metrics if "loss" in row]


def validations(facts: RunFacts) -> list[Mapping[str, Any]]:
    """Return the rows of metrics.jsonl that are about checkpoints."""
    return [row for row in facts.metrics if "validation_wer" in row]


def capped(wer: float) -> float:
    """Return an error rate in per cent, to be plotted: one that loops would flatten all others."""
    return min(100 * wer, 100.0)


def _by_set(judged: Sequence[Mapping[str, Any]]) -> list[Line]:
    """Return the mean over the validation sets, and each set where there are several."""
    numbers = [row["step"] for row in judged]
    sets = list(judged[-1].get("wer_by_set", {}))
    several = sets if len(sets) > 1 else []
    return [
        Line("mean", numbers, [capped(row["validation_wer"]) for row in judged]),
        *(
            Line(name, numbers, [capped(row["wer_by_set"][name]) for row in judged])
            for name in several
        ),
    ]


def plot_by_step(lines: Sequence[Line], *, title: str, y: str, names: Iterable[str] = ()) -> Html:
    """Draw lines over the steps of a training."""
    says = "; ".join(f"{line.name} {line.ys[-1]:.3g} at the end".strip() for line in lines)
    figure = draw_lines({title: lines}, x="step", y=y, names=names)
    return image(file_of(figure, "svg"), f"{title}: {says}")


def _long_form(facts: RunFacts, folder: Path) -> Iterator[Html]:
    yield tag("h2", "Long form")
    yield note(
        "Test utterances joined into one recording, transcribed in "
        f"{'windows' if _is_sequential(facts) else 'overlapping chunks'}.",
    )
    yield error_kinds_table(facts.comparison, facts.comparison.noises[0], [SETS["long"]])
    yield diff_note()
    for model in ("teacher", "student"):
        for id_, row in facts.scores(model, "long").items():
            heard = _heard(facts, row, at_most=MAX_LONG_WORDS)
            audio = _sound(facts, model, "long", row, folder)
            yield folded(
                f"The {model}'s text of {id_}", tag("p", heard), audio, prints=model == "student"
            )


def _is_sequential(facts: RunFacts) -> bool:
    decoding = facts.recipe.get("evaluate", {}).get("decoding", {})
    return bool(decoding.get("long_form") == "sequential")


def _examples(facts: RunFacts, folder: Path) -> Iterator[Html]:
    student = facts.scores("student", "test")
    ids = list(student)
    spread = ids[:: max(1, len(ids) // N_EXAMPLES)][:N_EXAMPLES]
    worst = sorted(ids, key=lambda id_: -ErrorCounts(**student[id_]["errors"]).errors)
    yield tag("h2", "What they hear")
    yield diff_note()
    yield from (_pair(facts, id_, folder) for id_ in spread)
    yield folded(
        "The student's worst utterances",
        *(_pair(facts, id_, folder) for id_ in worst[:N_EXAMPLES]),
    )


def _pair(facts: RunFacts, id_: str, folder: Path) -> Html:
    rows = {model: facts.scores(model, "test")[id_] for model in ("teacher", "student")}
    student = rows["student"]
    return tag(
        "div",
        tag("div", f"{id_}, ", _sound(facts, "student", "test", student, folder), class_="muted"),
        tag("div", tag("b", "reference"), " ", student["reference"]),
        *(tag("div", tag("b", model), " ", _heard(facts, row)) for model, row in rows.items()),
        class_="pair",
    )


def _heard(facts: RunFacts, row: Mapping[str, Any], *, at_most: int = MAX_WORDS) -> Html:
    in_characters = facts.cell("student", "test").unit == "character"
    return word_diff(
        row["reference"], row["hypothesis"], in_characters=in_characters, at_most=at_most
    )


def _sound(facts: RunFacts, model: str, set_: str, row: Mapping[str, Any], folder: Path) -> Html:
    audio = seen_from(folder, facts.folder / "eval" / f"{model}-{set_}", row["audio"])
    return sound(audio, row["start_s"], row["duration_s"])


def _provenance(facts: RunFacts) -> Iterator[Html]:
    record = json.dumps(facts.record, indent=2, ensure_ascii=False)
    yield tag("h2", "How this was made")
    yield folded("recipe.toml, all settings", tag("pre", facts.recipe_text), prints=False)
    yield folded("run.json, versions and machine", tag("pre", record), prints=False)


def ratio_text(ratio: float | None, *, percent: bool = False) -> str:
    """Return a ratio as people read it."""
    if ratio is None:
        return NOTHING
    return f"{100 * ratio:.0f} %" if percent else f"{ratio:.2f}"
