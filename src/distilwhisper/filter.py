"""Stage 2: labels to verdicts. Every utterance is judged by itself, and every drop has a reason.

    OUT/stage.json         what the verdicts were made from and with
    OUT/shard-00000.jsonl  one verdict per label, shard for shard; utterances without a label
                           come last, in a shard of their own
    OUT/summary.json       counts and hours by reason, errors of all and of what is kept

The first of these that holds is the verdict's reason:

    unlabelled                     there is no label
    label_failed                   the label holds an error instead of a text
    cut_off                        the teacher did not end by itself: it ran into the token limit
    empty_reference                there is a reference, and it normalises to nothing
    empty_pseudo_label             the label normalises to nothing
    all_capitals                   the label is written in capitals throughout, as bad ones are
    wer_above_limit                against the reference, in words
    cer_above_limit                the same in characters, in scripts without spaces
    compression_ratio_above_limit  the label repeats itself
    log_probability_below_limit    without a reference only: the teacher was unsure
    kept_without_reference         nothing was found against it
    kept

A value at its limit is kept.

Source: arXiv:2311.00430, equation 7. It differs from the published script on purpose: clips are
judged before they are packed into windows, where a wrong short one would hide; a text in capitals
must be long enough to be no abbreviation, and of a script that has capitals.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from distilwhisper.corpus.records import (
    Label,
    Utterance,
    Verdict,
    label_shards,
    read_manifest,
)
from distilwhisper.corpus.store import read_jsonl, shard_path, write_atomic, write_jsonl
from distilwhisper.run import fingerprint, lock_folder, open_stage
from distilwhisper.text.normalize import normalizer_for, uses_spaces
from distilwhisper.text.transcript import compression_ratio
from distilwhisper.text.wer import ErrorCounts, character_errors, word_errors

Reason = Literal[
    "unlabelled",
    "label_failed",
    "cut_off",
    "empty_reference",
    "empty_pseudo_label",
    "all_capitals",
    "wer_above_limit",
    "cer_above_limit",
    "compression_ratio_above_limit",
    "log_probability_below_limit",
    "kept_without_reference",
    "kept",
]
Unit: TypeAlias = Literal["word", "character"]

MIN_CAPITALS = 10  # fewer may be abbreviations: "OK", "USA", "NASA TV"


@dataclass(frozen=True)
class FilterSettings:
    """The limits beyond which a label is not trained on."""

    max_wer: float = 0.10
    """Errors over the words of the reference, a fraction; over its characters in scripts without
    spaces. The paper's lambda."""
    max_compression_ratio: float = 2.4
    """Bytes of the label's text over its compressed bytes; above it the text repeats itself."""
    min_avg_logprob: float = -1.0
    """Mean log-probability of a token, for labels without a reference."""
    language: str | None = None
    """Of the utterances whose language the manifest leaves open; None: what the teacher heard."""

    def __post_init__(self) -> None:
        faults = []
        if not 0 <= self.max_wer < math.inf:
            faults.append(
                f"max_wer must be a finite fraction from 0 on (0.10 is 10 %), found {self.max_wer}"
            )
        if not 0 < self.max_compression_ratio < math.inf:
            faults.append(
                "max_compression_ratio must be a finite number above 0, found "
                f"{self.max_compression_ratio}"
            )
        if not -math.inf < self.min_avg_logprob <= 0:
            faults.append(
                "min_avg_logprob must be a finite logarithm of at most 0, found "
                f"{self.min_avg_logprob}"
            )
        if self.language is not None:
            try:
                uses_spaces(self.language)
            except ValueError as error:
                faults.append(str(error))
        if faults:
            raise ValueError("; ".join(faults))


@dataclass(frozen=True)
class Share:
    """A part of a corpus."""

    count: int = 0
    hours: float = 0.0  # utterances of unknown length count nothing

    def __add__(self, other: "Share") -> "Share":
        return Share(self.count + other.count, self.hours + other.hours)


@dataclass(frozen=True)
class FilterSummary:
    """What was kept, and why the rest was not.

    Attributes:
        total: all utterances of the manifest.
        kept: those that a student may learn from.
        by_reason: shares in the order of the reasons; those that did not occur are left out.
        errors: of all labels that have a reference, by what was counted; words and characters
            make no common rate.
        errors_kept: of those that are kept.
        n_without_duration: utterances that no hours count.
        n_stray_labels: labels of no utterance of the manifest; they were passed over.
        settings: the limits.
    """

    total: Share
    kept: Share
    by_reason: Mapping[str, Share]
    errors: Mapping[Unit, ErrorCounts]
    errors_kept: Mapping[Unit, ErrorCounts]
    n_without_duration: int
    n_stray_labels: int
    settings: FilterSettings

    def to_dict(self) -> dict[str, Any]:
        """Return what summary.json holds: the sums, and rates made of them."""
        return {
            **asdict(self),
            "errors": {unit: _with_rate(counts) for unit, counts in self.errors.items()},
            "errors_kept": {unit: _with_rate(counts) for unit, counts in self.errors_kept.items()},
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "FilterSummary":
        """Return the summary that :meth:`to_dict` wrote."""
        return cls(
            total=Share(**row["total"]),
            kept=Share(**row["kept"]),
            by_reason={reason: Share(**share) for reason, share in row["by_reason"].items()},
            errors={unit: _without_rate(counts) for unit, counts in row["errors"].items()},
            errors_kept={unit: _without_rate(c) for unit, c in row["errors_kept"].items()},
            n_without_duration=row["n_without_duration"],
            n_stray_labels=row["n_stray_labels"],
            settings=FilterSettings(**row["settings"]),
        )

    def __str__(self) -> str:
        lines = [
            f"kept {self.kept.count} of {self.total.count} utterances "
            f"({self.kept.hours:.2f} of {self.total.hours:.2f} h)"
        ]
        lines += [
            f"  {share.count:9d}  {share.hours:10.2f} h  {reason}"
            for reason, share in self.by_reason.items()
        ]
        for unit, counts in self.errors.items():
            name = "WER" if unit == "word" else "CER"
            lines.append(
                f"  {name} against the references: {_percent(counts)} of all labels, "
                f"{_percent(self.errors_kept[unit])} of those kept"
            )
        if self.n_without_duration:
            lines.append(f"  {self.n_without_duration} of unknown length are in no hours")
        if self.n_stray_labels:
            lines.append(f"  {self.n_stray_labels} labels of other utterances were passed over")
        return "\n".join(lines)


def filter_labels(
    manifest_path: Path,
    labels_folder: Path,
    out: Path,
    settings: FilterSettings,
    *,
    force: bool = False,
) -> FilterSummary:
    """Judge every utterance of a manifest, going on where a run before stopped.

    Reads text alone, never audio. What is finished already is not done again.

    Args:
        manifest_path: what was labelled, or a part of it.
        labels_folder: of the labels.
        out: folder of the verdicts.
        settings: the limits.
        force: begin anew where settings or inputs have changed.

    Raises:
        StageChanged: the folder holds verdicts made from or with something else.
        ValueError: no label is of an utterance of the manifest, or a language is unknown.
    """
    inputs = {"manifest": fingerprint(manifest_path), "labels": fingerprint(labels_folder)}
    with lock_folder(out):
        open_stage(out, settings=asdict(settings), inputs=inputs, force=force)
        summary_path = out / "summary.json"
        if summary_path.exists():
            return FilterSummary.from_dict(json.loads(summary_path.read_text(encoding="utf-8")))
        utterances = {u.id: u for u in read_manifest(manifest_path).utterances}
        verdicts, n_stray = _judge_all(utterances, labels_folder, out, settings)
        if n_stray and all(verdict.reason == "unlabelled" for verdict in verdicts):
            raise ValueError(
                f"{labels_folder} must hold labels of {manifest_path}, found {n_stray} labels, all "
                "of other utterances: name the manifest that was labelled"
            )
        summary = summarise(utterances, verdicts, settings, n_stray_labels=n_stray)
        text = json.dumps(summary.to_dict(), indent=2, allow_nan=False)
        write_atomic(summary_path, text + "\n")
    return summary


def judge(utterance: Utterance, label: Label | None, settings: FilterSettings) -> Verdict:
    """Decide on one label, by its own text and its utterance's alone.

    Args:
        utterance: with its reference, or without one.
        label: what the teacher heard in it; None if it was not asked.
        settings: the limits.

    Raises:
        ValueError: the language is unknown, or neither manifest, settings nor label names it.
    """
    if label is None:
        return Verdict(utterance.id, keep=False, reason="unlabelled")
    if label.error is not None:
        return Verdict(utterance.id, keep=False, reason="label_failed")
    language = utterance.language or settings.language or label.language
    try:
        normalize = normalizer_for(language)
    except ValueError as error:
        raise ValueError(f"utterance {utterance.id!r}: {error}") from error
    heard = normalize(label.text)
    spoken = None if utterance.text is None else normalize(utterance.text)
    unit: Unit = "word" if uses_spaces(str(language)) else "character"
    count = word_errors if unit == "word" else character_errors
    errors = None if spoken is None else count(spoken, heard)
    reason = _reason(label, settings, heard=heard, spoken=spoken, errors=errors, unit=unit)
    return Verdict(
        id=utterance.id,
        keep=reason in ("kept", "kept_without_reference"),
        reason=reason,
        wer=errors.wer if errors is not None and errors.words else None,
        errors=errors,
        unit=unit,
    )


def summarise(
    utterances: Mapping[str, Utterance],
    verdicts: Iterable[Verdict],
    settings: FilterSettings,
    *,
    n_stray_labels: int = 0,
) -> FilterSummary:
    """Add up verdicts by reason.

    Args:
        utterances: by id.
        verdicts: one of each utterance.
        settings: that the verdicts were made with.
        n_stray_labels: labels that were passed over.
    """
    shares = {reason: Share() for reason in get_args(Reason)}
    kept = Share()
    errors: dict[Unit, ErrorCounts] = {}
    errors_kept: dict[Unit, ErrorCounts] = {}
    n_without_duration = 0
    for verdict in verdicts:
        duration_s = utterances[verdict.id].duration_s
        n_without_duration += duration_s is None
        share = Share(1, (duration_s or 0.0) / 3600)
        shares[verdict.reason] += share
        if verdict.keep:
            kept += share
        if verdict.errors is not None:
            none = ErrorCounts()
            errors[verdict.unit] = errors.get(verdict.unit, none) + verdict.errors
            gained = verdict.errors if verdict.keep else none
            errors_kept[verdict.unit] = errors_kept.get(verdict.unit, none) + gained
    return FilterSummary(
        total=sum(shares.values(), Share()),
        kept=kept,
        by_reason={reason: share for reason, share in shares.items() if share.count},
        errors=errors,
        errors_kept=errors_kept,
        n_without_duration=n_without_duration,
        n_stray_labels=n_stray_labels,
        settings=settings,
    )


def is_all_capitals(text: str) -> bool:
    """Tell whether a text is written in capitals throughout and too long for abbreviations.

    Never so in scripts without case.
    """
    return text.isupper() and sum(map(str.isupper, text)) >= MIN_CAPITALS


def within_limit(errors: ErrorCounts, limit: float) -> bool:
    """Tell whether errors are at most a share of the words.

    The limit counts as the decimal that it is written as: 3 errors in 30 words are within 0.1,
    whatever 0.1 is in binary.
    """
    share = _exact(limit)
    return errors.errors * share.denominator <= share.numerator * errors.words


@cache
def _exact(number: float) -> Fraction:
    return Fraction(str(number))


def _reason(
    label: Label,
    settings: FilterSettings,
    *,
    heard: str,
    spoken: str | None,
    errors: ErrorCounts | None,
    unit: Unit,
) -> Reason:
    """Return the first reason that holds for a label, its text and the reference normalised."""
    if not label.finished:
        return "cut_off"
    if spoken is not None and _is_empty(spoken):
        return "empty_reference"
    if _is_empty(heard):
        return "empty_pseudo_label"
    if is_all_capitals(label.text):
        return "all_capitals"
    if errors is not None and not within_limit(errors, settings.max_wer):
        return "wer_above_limit" if unit == "word" else "cer_above_limit"
    if _ratio(label) > settings.max_compression_ratio:
        return "compression_ratio_above_limit"
    if errors is not None:
        return "kept"
    # A probability that is no number says nothing for the label.
    if label.avg_logprob is None or not label.avg_logprob >= settings.min_avg_logprob:
        return "log_probability_below_limit"
    return "kept_without_reference"


def _is_empty(normalised: str) -> bool:
    """Tell whether a text says nothing; the normaliser leaves a dot of "...", which is no word."""
    return not any(map(str.isalnum, normalised))


def _ratio(label: Label) -> float:
    ratio = label.compression_ratio
    return compression_ratio(label.text) if ratio is None else ratio


def _judge_all(
    utterances: Mapping[str, Utterance],
    labels_folder: Path,
    out: Path,
    settings: FilterSettings,
) -> tuple[list[Verdict], int]:
    """Return all verdicts, of which every shard is on disk, and how many labels were strays."""
    verdicts: list[Verdict] = []
    left = dict(utterances)
    n_shards = n_stray = 0
    for labels in label_shards(labels_folder):
        known = [(left.pop(label.id), label) for label in labels if label.id in left]
        n_stray += len(labels) - len(known)
        verdicts += _judge_shard(shard_path(out, n_shards), known, settings)
        n_shards += 1
    if left:
        unlabelled = [(utterance, None) for utterance in left.values()]
        verdicts += _judge_shard(shard_path(out, n_shards), unlabelled, settings)
    return verdicts, n_stray


def _judge_shard(
    path: Path,
    pairs: Iterable[tuple[Utterance, Label | None]],
    settings: FilterSettings,
) -> list[Verdict]:
    if path.exists():
        return [Verdict.from_dict(row) for row in read_jsonl(path)]
    verdicts = [judge(utterance, label, settings) for utterance, label in pairs]
    write_jsonl(path, [verdict.to_dict() for verdict in verdicts])
    return verdicts


def _with_rate(counts: ErrorCounts) -> dict[str, Any]:
    return {**asdict(counts), "wer": counts.wer if counts.words else None}


def _without_rate(row: Mapping[str, Any]) -> ErrorCounts:
    return ErrorCounts(**{name: count for name, count in row.items() if name != "wer"})


def _percent(counts: ErrorCounts) -> str:
    return f"{100 * counts.wer:.2f} %" if counts.words else "no"
