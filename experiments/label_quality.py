"""Whether the filter knows good labels: against references that are trusted, and spoilt ones.

The references of the manifest are taken for the truth. So a label's errors are known, and when a
share of the references or of the sound is then spoilt on purpose, it is known which pairs the
filter ought to drop, and which labels it drops for their reference's fault.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from operator import attrgetter, itemgetter
from typing import Any

from distilwhisper.checks import NOT_EMPTY, ruled
from distilwhisper.corpus.batches import Example, join_kept
from distilwhisper.corpus.packing import pack_examples
from distilwhisper.corpus.records import Verdict
from distilwhisper.model.layout import read_complete_tokenizer
from distilwhisper.text.tokens import Tokenizer
from distilwhisper.text.wer import ErrorCounts
from experiments.cells import model_folder
from experiments.context import Context
from experiments.experiment import Outcome, experiment
from experiments.figures import draw_bars
from experiments.results import Rate, Result, Row, interval_notes, total
from experiments.spoiling import SpoilingSettings, SpoiltPairs, score_label, spoil_pairs
from experiments.students import Corpus, judge_corpus, label_corpus
from experiments.tables import WER, Column, Table, rate

ALL, KEPT, UNSPOILT = "all labels", "kept", "nothing"
ERRORS: tuple[Rate, ...] = ("ser", "der", "ier")
ABOVE = ("wer_above_limit", "cer_above_limit")


@dataclass(frozen=True)
class QualitySettings(SpoilingSettings):
    """Of this experiment."""

    window_lengths_s: tuple[float, ...] = ruled((10.0, 20.0, 30.0), NOT_EMPTY)
    """Windows to pack before filtering."""


@experiment("label-quality", needs=("train",), settings=QualitySettings)
def label_quality(context: Context[QualitySettings]) -> Outcome:
    """Labels against trusted references: what the filter keeps, drops, and misses in windows."""
    settings = context.settings
    corpus = label_corpus(context)
    truth = _truth(context, corpus)
    if not truth:
        raise ValueError(
            f"{corpus.manifest.path} must hold references to judge labels by, and sound that can "
            f"be read, found neither together in its {len(corpus.labels)} utterances"
        )
    judged = judge_corpus(context, corpus, settings.filter)
    verdicts = {id_: judged[id_] for id_ in truth}
    by_verdict = _by_verdict(truth, verdicts)
    limit = settings.filter.max_wer
    spoilt = {UNSPOILT: SpoiltPairs({}, {}), **spoil_pairs(context, corpus, list(truth))}
    trials = {
        way: trial({**truth, **pairs.truth}, {**verdicts, **pairs.verdicts}, pairs.truth, limit)
        for way, pairs in spoilt.items()
    }
    windows = {
        length_s: pack_then_filter(
            _packed(context, corpus, truth, verdicts, length_s), truth, limit
        )
        for length_s in sorted(set(settings.window_lengths_s))
    }
    rows = {**by_verdict, **{_kept_of(way): one.kept for way, one in trials.items()}}
    rows = {
        arm: [replace(row, arm=arm) for row in of_arm] for arm, of_arm in rows.items() if of_arm
    }
    results = context.summarise(rows)
    return Outcome(
        table=_verdict_table(context, corpus, by_verdict, results),
        results=results,
        figure=draw_bars(
            {
                way: {
                    "spoilt pairs that are dropped": 100 * (one.recall or 0.0),
                    "dropped pairs that are bad": 100 * (one.precision or 0.0),
                    "right labels that are dropped": 100 * (one.right_lost or 0.0),
                }
                for way, one in trials.items()
                if way != UNSPOILT
            },
            x="%",
            title="pairs that were spoilt on purpose",
        ),
        more={
            "spoilt": {way: one.to_dict() for way, one in trials.items()},
            "packed": {f"{length_s:g} s": asdict(one) for length_s, one in windows.items()},
        },
        further={
            "spoilt": _spoilt_table(context, trials, results),
            "packed": _packed_table(context, windows),
        },
        problems=corpus.problems,
    )


def _truth(context: Context[QualitySettings], corpus: Corpus) -> dict[str, Row]:
    """Return every label against its reference, by id; those without either are left out."""
    return {
        utterance.id: score_label(context, utterance, label)
        for utterance in corpus.manifest.utterances
        for label in [corpus.labels[utterance.id]]
        if utterance.text is not None and label.error is None
    }


# By verdict


def _by_verdict(truth: Mapping[str, Row], verdicts: Mapping[str, Verdict]) -> dict[str, list[Row]]:
    """Sort labels by verdict: all, kept, and each reason to drop."""
    by_verdict: dict[str, list[Row]] = {ALL: list(truth.values()), KEPT: []}
    for id_, row in truth.items():
        verdict = verdicts[id_]
        by_verdict.setdefault(KEPT if verdict.keep else verdict.reason, []).append(row)
    return by_verdict


def _verdict_table(
    context: Context[QualitySettings],
    corpus: Corpus,
    by_verdict: Mapping[str, Sequence[Row]],
    results: Mapping[str, Result],
) -> Table:
    n_all = len(by_verdict[ALL])
    return Table(
        f"Label quality: what {context.teacher.name} heard, against trusted references",
        of="verdict",
        columns=(
            Column("utterances", itemgetter("n"), 0),
            Column("share, %", lambda row: row["n"] / n_all, percent=True),
            WER.at("result", WER.name),
            *(
                Column(f"{kind.upper()}, %", rate(kind), percent=True).at(
                    "result", f"{kind.upper()}, %"
                )
                for kind in ERRORS
            ),
        ),
        rows={
            name: {"n": len(rows), "result": _with_words(results.get(name))}
            for name, rows in by_verdict.items()
        },
        notes=(
            *interval_notes(results.values()),
            f"Lambda is {100 * context.settings.filter.max_wer:g} %. What is dropped for it has "
            "more errors by definition; the next table tells when that is the reference's fault.",
            f"{len(corpus.labels) - n_all} utterances have no label, or no reference.",
        ),
    )


def _with_words(result: Result | None) -> Result | None:
    """Return a result where there are words to have errors in."""
    return result if result is not None and total(result.rows).words else None


# Spoilt on purpose


@dataclass(frozen=True)
class Trial:
    """What the filter did where it is known which pairs are bad: spoilt, or the label is wrong.

    Shares are fractions; None where there is nothing to have a share of.
    """

    n_spoilt: int
    recall: float | None  # of the spoilt pairs, those that are dropped
    precision: float | None  # of the dropped pairs, those that are bad
    right_lost: float | None  # of the labels that are right, those that are dropped
    wrong_kept: float | None  # of the kept labels, those that are wrong
    kept: Sequence[Row]  # against the truth

    def to_dict(self) -> dict[str, Any]:
        """Return what summary.json holds of it."""
        names = ("n_spoilt", "recall", "precision", "right_lost", "wrong_kept")
        return {name: getattr(self, name) for name in names}


def trial(
    truth: Mapping[str, Row],
    verdicts: Mapping[str, Verdict],
    spoilt: Collection[str],
    max_wer: float,
) -> Trial:
    """Compare verdicts with the truth.

    Args:
        truth: every label against what was truly said, by id.
        verdicts: of the same utterances.
        spoilt: ids of those whose sound or reference was spoilt before they were judged.
        max_wer: beyond which a label is wrong.
    """
    dropped = {id_ for id_ in truth if not verdicts[id_].keep}
    wrong = {id_ for id_, row in truth.items() if row.errors.wer > max_wer}
    bad = wrong.union(spoilt)
    return Trial(
        n_spoilt=len(spoilt),
        recall=_share(dropped, set(spoilt)),
        precision=_share(bad, dropped),
        right_lost=_share(dropped, truth.keys() - wrong),
        wrong_kept=_share(wrong, truth.keys() - dropped),
        kept=[row for id_, row in truth.items() if id_ not in dropped],
    )


def _share(part: Collection[str], of: Collection[str]) -> float | None:
    """Return how much of some ids is among others."""
    return len(set(part).intersection(of)) / len(of) if of else None


def _kept_of(way: str) -> str:
    return f"{KEPT}, spoilt: {way}"


def _spoilt_table(
    context: Context[QualitySettings], trials: Mapping[str, Trial], results: Mapping[str, Result]
) -> Table:
    settings = context.settings
    return Table(
        "Label quality: pairs that were spoilt on purpose",
        of="spoilt",
        columns=(
            Column("pairs", lambda row: row["trial"].n_spoilt, 0),
            *(
                Column(name, attrgetter(field), percent=True).at("trial", name)
                for name, field in (
                    ("of them dropped, % (recall)", "recall"),
                    ("of the dropped: bad, % (precision)", "precision"),
                    ("right labels dropped, %", "right_lost"),
                    ("of the kept: wrong, %", "wrong_kept"),
                )
            ),
            WER.at("kept", "kept: WER, %"),
        ),
        rows={
            way: {"trial": one, "kept": _with_words(results.get(_kept_of(way)))}
            for way, one in trials.items()
        },
        notes=(
            f"The same {100 * settings.corrupted_share:g} % of the utterances in every row. Bad: "
            "spoilt, or the label's error against what was truly said is above "
            f"{100 * settings.filter.max_wer:g} %; wrong: the latter. WER is against what was "
            "truly said, in cut sound against all of it.",
            f"Other words, words gone: {100 * settings.corrupted_words:g} % of a reference's "
            "words, one at least. Spoilt sound is labelled anew.",
            "Where the sound is spoilt, or nothing, the reference is right and judges by the same "
            "limit: no wrong label can be kept, and what is not dropped was heard well all the "
            "same.",
        ),
    )


# Packed before the filter


@dataclass(frozen=True)
class PackedFilter:
    """What a filter does that judges windows instead of utterances. Shares are fractions."""

    n_windows: int
    utterances_a_window: float
    wrong_kept: float | None  # of the utterances whose label is wrong, those in windows that pass
    right_lost: float | None  # of those whose label is right, those in windows that do not
    hidden: float  # of all: those that would pass in their windows if every word were wrong
    errors_kept: ErrorCounts  # of what passes


def pack_then_filter(
    windows: Sequence[Sequence[str]], truth: Mapping[str, Row], max_wer: float
) -> PackedFilter:
    """Judge windows by their errors over all their words.

    Args:
        windows: ids of the utterances of each; at least one.
        truth: their labels against their references, by id.
        max_wer: at which a window, or an utterance, is still kept.
    """
    kept: set[str] = set()
    hidden = 0
    for ids in windows:
        errors = total(truth[id_] for id_ in ids)
        if errors.wer <= max_wer:
            kept.update(ids)
        hidden += sum(0 < truth[id_].errors.words <= max_wer * errors.words for id_ in ids)
    all_ids = {id_ for ids in windows for id_ in ids}
    wrong = {id_ for id_ in all_ids if truth[id_].errors.wer > max_wer}
    return PackedFilter(
        n_windows=len(windows),
        utterances_a_window=len(all_ids) / len(windows),
        wrong_kept=_share(kept, wrong),
        right_lost=_share(all_ids - kept, all_ids - wrong),
        hidden=hidden / len(all_ids),
        errors_kept=total(truth[id_] for id_ in kept),
    )


def _packed(
    context: Context[QualitySettings],
    corpus: Corpus,
    truth: Mapping[str, Row],
    verdicts: Mapping[str, Verdict],
    length_s: float,
) -> list[list[str]]:
    """Pack all utterances that the filter judges by their errors, whatever it says."""
    judged = {
        id_: replace(verdict, keep=True)
        for id_, verdict in verdicts.items()
        if verdict.keep or verdict.reason in ABOVE
    }
    training = context.settings.training
    teacher = model_folder(context.teacher.path)
    tokenizer = Tokenizer.from_json(read_complete_tokenizer(teacher), where=teacher)
    packed: list[Example] = pack_examples(
        join_kept(corpus.manifest, dict(corpus.labels), judged, tokenizer),
        tokenizer,
        max_s=length_s,
        pause_s=training.pack_pause_s,
        fill="full",
        across_recordings=True,
        seed=context.settings.seed,
    )
    return [[utterance.id for utterance in window.utterances] for window in packed]


def _packed_table(
    context: Context[QualitySettings], windows: Mapping[float, PackedFilter]
) -> Table:
    return Table(
        "Label quality: packed into windows before the filter judges",
        of="window, s",
        columns=(
            Column("windows", attrgetter("n_windows"), 0),
            Column("utterances a window", attrgetter("utterances_a_window")),
            Column("wrong labels that pass, %", attrgetter("wrong_kept"), percent=True),
            Column("right labels that do not, %", attrgetter("right_lost"), percent=True),
            Column("would pass if wholly wrong, %", attrgetter("hidden"), percent=True),
            Column(
                "passed: WER, %",
                lambda one: one.errors_kept.wer if one.errors_kept.words else None,
                percent=True,
            ),
        ),
        rows={f"{length_s:g}": one for length_s, one in windows.items()},
        notes=(
            "The utterances that lambda decides on, packed across recordings. Judged one by one, "
            "as this package does, the two first shares are 0 by definition.",
            "Would pass if wholly wrong: the share of utterances that are so small a part of "
            f"their window that {100 * context.settings.filter.max_wer:g} % allows for every word "
            "of theirs to be wrong, where all others are right.",
        ),
    )
