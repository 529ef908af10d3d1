"""What makes decoding faster: drafts, early exit, batches, precision: tables 9, 20, 22, 24."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from distilwhisper.plotting import draw_lines
from experiments import paper
from experiments.cells import Cell
from experiments.context import Context, Model
from experiments.experiment import Outcome
from experiments.figures import wer_line
from experiments.scores import Row, interval_notes
from experiments.tables import Column, Table, Value
from experiments.timing import NOTE, Timing, time_arms, timed_rows

PAPER_BATCHES = (1, 4, 16)


def run_table9(context: Context) -> Outcome:
    """The teacher with its student as draft, by batch size: speed, acceptance, the same text."""
    pairs = [(context.teacher, model) for model in context.distilled[1:]]
    return _speculative(context, pairs, "Table 9: speculative decoding", paper.TABLE_9)


def run_table22(context: Context) -> Outcome:
    """The same, with further pairs of a model and its draft."""
    pairs = [(context.teacher, model) for model in context.distilled[1:]]
    pairs += [(context.model(path), context.model(draft)) for path, draft in context.settings.pairs]
    return _speculative(context, pairs, "Table 22: pairs of model and draft", paper.TABLE_22)


def _speculative(
    context: Context,
    pairs: Sequence[tuple[Model, Model]],
    title: str,
    printed: Mapping[str, tuple[float, ...]],
) -> Outcome:
    """Time models alone and with drafts, against the teacher alone at the same batch size."""
    sizes = context.settings.batch_sizes
    teacher = context.teacher.name
    named: dict[str, tuple[Model, str | None]] = {m.name: (m, None) for m, _ in pairs}
    named |= {f"{model.name} with {draft.name}": (model, draft.path) for model, draft in pairs}
    arms = {
        (name, size): replace(
            context.arm(model, _at_batch(name, size), batch_size=size), draft=draft
        )
        for name, (model, draft) in named.items()
        for size in sizes
    }
    times = time_arms(context, list(arms.values()), context.short)
    rows, more = _timed(context, times)
    against = {_at_batch(n, s): _at_batch(m.name, s) for n, (m, _) in named.items() for s in sizes}
    found = context.summarise(rows, against=against, more=more)
    values: dict[str, list[Value]] = {}
    for name, (model, draft) in named.items():
        ours = [times[_at_batch(name, size)] for size in sizes]
        theirs = [times[_at_batch(teacher, size)] for size in sizes]
        plain = times[_at_batch(model.name, sizes[0])].texts
        values[name] = [
            *(one.speed_against(other) for one, other in zip(ours, theirs, strict=True)),
            ours[0].counts.acceptance if draft else None,
            ours[0].counts.tokens_per_step,
            sum(one.texts[id_] != text for one in ours for id_, text in plain.items()),
        ]
    called = {
        name: " with ".join(context.in_paper.get(part, part) for part in name.split(" with "))
        for name in named
    }
    beside, paper_names = paper.beside(called, printed)
    n_texts = len(plain)
    table = Table(
        title,
        of="model",
        columns=(
            *(Column(f"batch {size}: relative speed", 2) for size in sizes),
            Column(f"batch {sizes[0]}: accepted, %", percent=True),
            Column(f"batch {sizes[0]}: tokens a step", 2),
            Column("other texts", 0),
        ),
        rows=values,
        paper={name: (*_at_sizes(row, sizes), None, None, None) for name, row in beside.items()},
        paper_names=paper_names,
        notes=(
            f"Speed is relative to {teacher} alone at the same batch size. Other texts: of "
            f"{n_texts} utterances at {len(sizes)} batch sizes, those whose text is not that of "
            f"the model alone at batch {sizes[0]}. The paper's batches keep only the tokens that "
            "every row accepts; here every row keeps its own.",
            NOTE,
        ),
    )
    return Outcome(table, found, rows)


def run_table20(context: Context) -> Outcome:
    """Layers used and error rate of the teacher against the confidence it leaves early at."""
    confidences = context.settings.exit_confidences
    teacher = context.teacher
    arms = {
        one: context.arm(teacher, f"{teacher.name}, {one:g}", exit_confidence=one)
        for one in confidences
    }
    cells = {arm.name: context.evaluate(arm, context.short) for arm in arms.values()}
    rows = {name: [r for cell in of.values() for r in cell.rows] for name, of in cells.items()}
    layers = {name: _layers_per_token(list(of_arm.values())) for name, of_arm in cells.items()}
    found = context.summarise(
        rows,
        against=dict.fromkeys(rows, arms[confidences[0]].name),
        more={name: {"layers_per_token": n} for name, n in layers.items()},
    )
    by_confidence = {one: found[arm.name] for one, arm in arms.items()}
    table = Table(
        f"Table 20: early exit of {teacher.name}",
        of="confidence",
        columns=(
            Column("layers a token", 2),
            Column("WER, %", percent=True),
            Column(f"less {confidences[0]:g}'s, points", 2, percent=True),
        ),
        rows={
            f"{one:g}": (layers[arm.arm], arm.shown_wer, arm.difference)
            for one, arm in by_confidence.items()
        },
        paper={f"{one:g}": (*row, None) for one, row in paper.TABLE_20.items()},
        notes=(*interval_notes(found), "The paper's model is medium.en, of 24 decoder layers."),
    )
    figure = draw_lines(
        {
            "error rate against layers used": [
                replace(wer_line(teacher.name, by_confidence), xs=list(layers.values())),
            ]
        },
        x="decoder layers a token",
        y="WER, %",
    )
    return Outcome(table, found, rows, figure)


def run_table24(context: Context) -> Outcome:
    """Real-time factors by batch size and precision."""
    sizes, dtypes = context.settings.batch_sizes, context.settings.dtypes
    named = {
        model.name if len(dtypes) == 1 else f"{model.name}, {dtype}": (model, dtype)
        for dtype in dtypes
        for model in context.models
    }
    arms = [
        replace(arm, hardware=replace(arm.hardware, dtype=dtype))
        for name, (model, dtype) in named.items()
        for size in sizes
        for arm in [context.arm(model, _at_batch(name, size), batch_size=size)]
    ]
    times = time_arms(context, arms, context.short)
    rows, more = _timed(context, times)
    found = context.summarise(rows, against={}, more=more)
    called = {name: context.in_paper[model.name] for name, (model, _) in named.items()}
    if len(dtypes) > 1:  # the paper's rows stand beside those of the first precision
        called = {n: theirs for n, theirs in called.items() if named[n][1] == dtypes[0]}
    beside, paper_names = paper.beside(called, paper.TABLE_24)
    table = Table(
        "Table 24: real-time factors, 10^-3",
        of="model",
        columns=(
            *(Column(f"batch {size}: RTF, 10^-3") for size in sizes),
            *(Column(f"batch {size}: longest round over shortest", 2) for size in sizes),
        ),
        rows={
            name: (
                *(1000 * times[_at_batch(name, size)].rtf for size in sizes),
                *(times[_at_batch(name, size)].spread for size in sizes),
            )
            for name in named
        },
        paper={
            name: (*_at_sizes(row, sizes), *[None] * len(sizes)) for name, row in beside.items()
        },
        paper_names=paper_names,
        notes=(
            "RTF: seconds of computing per second of audio, mel and encoder counted, on short "
            "utterances. The paper's device is an A100 with flash attention 2.",
            NOTE,
        ),
    )
    return Outcome(table, found, rows)


def _layers_per_token(cells: Sequence[Cell]) -> float:
    layers, tokens = (sum(cell.summary[name] for cell in cells) for name in ("layers", "tokens"))
    return float(layers / max(1, tokens))


def _at_batch(name: str, size: int) -> str:
    return f"{name}, batch {size}"


def _at_sizes(row: Sequence[float], sizes: Sequence[int]) -> list[float | None]:
    """Return what the paper has of these batch sizes."""
    known = dict(zip(PAPER_BATCHES, row, strict=True))
    return [known.get(size) for size in sizes]


def _timed(
    context: Context, times: Mapping[str, Timing]
) -> tuple[dict[str, list[Row]], dict[str, dict[str, Any]]]:
    """Return the rows of timed arms, and what they cost."""
    rows = {name: timed_rows(name, timing, context.short) for name, timing in times.items()}
    more = {
        name: {
            "rtf": timing.rtf,
            "seconds": timing.seconds,
            "audio_s": timing.audio_s,
            "acceptance": timing.counts.acceptance if timing.counts.drafted else None,
            "tokens_per_step": timing.counts.tokens_per_step,
        }
        for name, timing in times.items()
    }
    return rows, more
