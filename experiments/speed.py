"""What makes decoding faster: drafts, early exit, batches, precision: tables 9, 20, 22, 24."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from distilwhisper.checks import NOT_EMPTY, ruled
from distilwhisper.corpus.batches import load_readable
from distilwhisper.corpus.records import read_manifest
from distilwhisper.model.hardware import DTypeName
from distilwhisper.plotting import draw_panels
from distilwhisper.run.stages import fingerprint
from distilwhisper.stages.evaluate import decode_timed
from experiments.cells import Arm, EvalSet, with_reference
from experiments.context import Context, Model
from experiments.early_exit import EarlyExitDecoder
from experiments.experiment import Outcome, experiment
from experiments.figures import wer_line
from experiments.results import Row, interval_notes, score_texts
from experiments.settings import Settings, TimingSettings
from experiments.tables import PAPER, WER, Column, Table, fact, less
from experiments.timing import NOTE, speed, time_arms, timed_results

PAPER_BATCHES = (1, 4, 16)


@dataclass(frozen=True)
class BatchSettings(TimingSettings):
    """Of tables 9, 22 and 24."""

    batch_sizes: tuple[int, ...] = ruled((1, 4, 16), NOT_EMPTY)
    """Utterances at a time."""


@experiment("table9", needs=("student", "short"), settings=BatchSettings)
def table9(context: Context[BatchSettings]) -> Outcome:
    """The student as the teacher's draft, by batch size: speed, acceptance, the same text."""
    pairs = [(context.teacher, model) for model in context.distilled[1:]]
    return _speculative(context, pairs, "Table 9: speculative decoding", "table9")


@experiment("table22", needs=("student", "short"), settings=BatchSettings)
def table22(context: Context[BatchSettings]) -> Outcome:
    """Table 9 with further pairs of model and draft."""
    pairs = [(context.teacher, model) for model in context.distilled[1:]]
    pairs += [(context.model(path), context.model(draft)) for path, draft in context.settings.pairs]
    return _speculative(context, pairs, "Table 22: pairs of model and draft", "table22")


def _speculative(
    context: Context[BatchSettings], pairs: Sequence[tuple[Model, Model]], title: str, paper: str
) -> Outcome:
    """Time models alone and with drafts, against the teacher alone at the same batch size."""
    sizes, teacher = context.settings.batch_sizes, context.teacher.name
    first = sizes[0]
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
    results = timed_results(
        context, arms, times, against=lambda arm: (named[arm[0]][0].name, arm[1])
    )
    rows: dict[str, dict[Any, Any]] = {}
    for name, (model, _) in named.items():
        plain = times[_at_batch(model.name, first)].texts
        ours = [times[_at_batch(name, size)].texts for size in sizes]
        n_others = sum(texts[id_] != text for texts in ours for id_, text in plain.items())
        rows[name] = {**{size: results[name, size] for size in sizes}, "other texts": n_others}
    table = Table(
        title,
        of="model",
        columns=(
            *(
                Column("speed", speed(times, _at_batch(teacher, size)), 2).at(
                    size, f"batch {size}: relative speed", paper=_paper_place(size)
                )
                for size in sizes
            ),
            Column("accepted, %", fact("acceptance"), percent=True).at(
                first, f"batch {first}: accepted, %"
            ),
            Column("tokens a step", fact("tokens_per_step"), 2).at(
                first, f"batch {first}: tokens a step"
            ),
            Column("other texts", lambda row: row["other texts"], 0),
        ),
        rows=rows,
        paper=PAPER[paper],
        called={
            name: " with ".join(context.in_paper.get(part, part) for part in name.split(" with "))
            for name in named
        },
        notes=(
            f"Speed is relative to {teacher} alone at the same batch size. Other texts: of "
            f"{len(plain)} utterances at {len(sizes)} batch sizes, those whose text is not that of "
            f"the model alone at batch {first}. The paper's batches keep only the tokens that "
            "every row accepts; here every row keeps its own.",
            NOTE,
        ),
    )
    return Outcome(table, results)


@dataclass(frozen=True)
class ExitSettings(Settings):
    """Of table 20."""

    exit_confidences: tuple[float, ...] = ruled((1.0, 0.9875, 0.975, 0.95, 0.925), NOT_EMPTY)
    """Thresholds; the others are compared with the first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoding.beam_size > 1:
            raise ValueError(
                "early exit needs greedy decoding, found decoding.beam_size "
                f"{self.decoding.beam_size}: take 1"
            )


@experiment("table20", needs=("short",), settings=ExitSettings)
def table20(context: Context[ExitSettings]) -> Outcome:
    """Early exit: layers used and error rate by confidence."""
    confidences, teacher = context.settings.exit_confidences, context.teacher
    rows, more = {}, {}
    for one in confidences:
        arm = context.arm(teacher, f"{teacher.name}, {one:g}")
        rows[one], layers = _exit_early(context, arm, one)
        more[one] = {"layers_per_token": layers}
    results = context.summarise(rows, against=lambda one: confidences[0], more=more)
    table = Table(
        f"Table 20: early exit of {teacher.name}",
        of="confidence",
        columns=(
            Column("layers a token", fact("layers_per_token"), 2, paper=0),
            replace(WER, paper=1),
            less(f"{confidences[0]:g}'s"),
        ),
        rows={f"{one:g}": result for one, result in results.items()},
        paper=PAPER["table20"],
        notes=(
            *interval_notes(results.values()),
            "The paper's model is medium.en, of 24 decoder layers.",
        ),
    )
    xs = [facts["layers_per_token"] for facts in more.values()]
    line = replace(wer_line(teacher.name, results), xs=xs)
    figure = draw_panels(
        {"error rate against layers used": [line]}, x="decoder layers a token", y="WER, %"
    )
    return Outcome(table, results, figure)


def _exit_early(
    context: Context[ExitSettings], arm: Arm, confidence: float
) -> tuple[list[Row], float]:
    """Return the rows of a model that leaves early, stored, and the layers it uses a token."""
    rows: list[Row] = []
    n_layers = n_tokens = 0
    for on in context.short:
        key = {
            **arm.of_set(on),
            "weights": context.fingerprint(arm.model),
            "utterances": fingerprint(on.manifest),
            "confidence": confidence,
        }
        decode = partial(_decode_leaving_early, context, arm, on, confidence)
        decoded: dict[str, Any] = context.remember("early-exit", key, decode)
        rows += score_texts(
            arm.name,
            on.name,
            [(u, decoded["texts"][u.id]) for u in with_reference(on) if u.id in decoded["texts"]],
        )
        n_layers += decoded["n_layers"]
        n_tokens += decoded["n_tokens"]
    return rows, n_layers / max(1, n_tokens)


def _decode_leaving_early(
    context: Context[ExitSettings], arm: Arm, on: EvalSet, confidence: float
) -> dict[str, Any]:
    transcriber = context.transcriber(arm)
    model = transcriber.checkpoint.model
    whole, early = model.decoder, EarlyExitDecoder(model.decoder, confidence)
    pieces = list(load_readable(read_manifest(on.manifest), with_reference(on)))
    model.decoder = early
    try:
        decoded = decode_timed(transcriber, pieces)
    finally:
        model.decoder = whole  # transcribers share their models
    texts = {u.id: text for (u, _), (text, _) in zip(pieces, decoded.texts, strict=True)}
    return {"texts": texts, "n_layers": early.n_layers, "n_tokens": early.n_tokens}


@dataclass(frozen=True)
class PrecisionSettings(BatchSettings):
    """Of table 24."""

    dtypes: tuple[DTypeName, ...] = ruled(("float32",), NOT_EMPTY)
    """Precisions."""


@experiment("table24", needs=("short",), settings=PrecisionSettings)
def table24(context: Context[PrecisionSettings]) -> Outcome:
    """Real-time factors by batch size and precision."""
    sizes, dtypes = context.settings.batch_sizes, context.settings.dtypes
    named = {
        model.name if len(dtypes) == 1 else f"{model.name}, {dtype}": (model, dtype)
        for dtype in dtypes
        for model in context.models
    }
    arms = {
        (name, size): replace(arm, hardware=replace(arm.hardware, dtype=dtype))
        for name, (model, dtype) in named.items()
        for size in sizes
        for arm in [context.arm(model, _at_batch(name, size), batch_size=size)]
    }
    times = time_arms(context, list(arms.values()), context.short)
    results = timed_results(context, arms, times)
    rtf = Column("RTF", lambda result: 1000 * times[result.arm].rtf)
    spread = Column("spread", lambda result: times[result.arm].spread, 2)
    table = Table(
        "Table 24: real-time factors, 10^-3",
        of="model",
        columns=(
            *(
                rtf.at(size, f"batch {size}: RTF, 10^-3", paper=_paper_place(size))
                for size in sizes
            ),
            *(spread.at(size, f"batch {size}: longest round over shortest") for size in sizes),
        ),
        rows={name: {size: results[name, size] for size in sizes} for name in named},
        paper=PAPER["table24"],
        called={  # the paper's rows stand beside those of the first precision
            name: context.in_paper.get(model.name, model.name)
            for name, (model, dtype) in named.items()
            if dtype == dtypes[0]
        },
        notes=(
            "RTF: seconds of computing per second of audio, mel and encoder counted, on short "
            "utterances. The paper's device is an A100 with flash attention 2.",
            NOTE,
        ),
    )
    return Outcome(table, results)


def _at_batch(name: str, size: int) -> str:
    return f"{name}, batch {size}"


def _paper_place(size: int) -> int | None:
    return PAPER_BATCHES.index(size) if size in PAPER_BATCHES else None
