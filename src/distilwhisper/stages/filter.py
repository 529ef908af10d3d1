"""Stage 2: labels to verdicts. Every utterance is judged by itself, and every drop has a reason.

    LABELS/.measures/      what is measured of each label, once      filtering/measures.py
    OUT/stage.json         what the verdicts were made from and with
    OUT/shard-00000.jsonl  one verdict per label, in their order; then those of utterances without
    OUT/figures/           what is kept, and its errors, unless figures=False   filtering/figures.py
    OUT/summary.json       counts, hours and errors by reason   filtering/retention.py, gates.py

Measures come from texts and scores alone, never from audio. Verdicts are a view of them: another
folder with other limits takes the same measures and seconds. The first of the reasons of gates.py
that holds is the verdict's, and a value at its limit is kept.

Source: arXiv:2311.00430, equation 7. It differs from the published script on purpose: clips are
judged before they are packed into windows, where a wrong short one would hide; a text in capitals
must be long enough to be no abbreviation, and of a script that has capitals.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from distilwhisper.corpus.records import Label, Utterance, Verdict, log_overruled, read_manifest
from distilwhisper.corpus.store import shard_path, shard_paths, write_jsonl
from distilwhisper.files import write_atomic
from distilwhisper.filtering.gates import REASONS, Calibration, Codes, calibrate, is_kept, judge_all
from distilwhisper.filtering.measures import Flags, Measures, Sources, load_or_measure, measure_all
from distilwhisper.filtering.retention import Retention, retention
from distilwhisper.filtering.settings import FilterSettings
from distilwhisper.progress import warn
from distilwhisper.run.locks import lock_folder
from distilwhisper.run.settings import build_settings
from distilwhisper.run.stages import StageChanged, open_stage
from distilwhisper.tables import percent
from distilwhisper.text.wer import ErrorCounts

_KEPT = ("kept", "kept_without_reference", "kept_silence")
_ERRORS = ("errors", "errors_kept")
SHARD_ROWS = 8192  # verdicts in a shard


@dataclass(frozen=True)
class Share:
    """A part of a corpus."""

    count: int = 0
    hours: float = 0.0  # utterances of unknown length count nothing

    def __add__(self, other: "Share") -> "Share":
        return Share(self.count + other.count, self.hours + other.hours)


@dataclass(frozen=True)
class FilterSummary:
    """What was kept, and why the rest was not; as a path it is the folder of the verdicts.

    Errors are counted by unit, word or character, which make no common rate.
    """

    total: Share  # all utterances of the manifest
    kept: Share  # those that a student may learn from
    by_reason: Mapping[str, Share]  # in the order of the reasons, without those of nothing
    errors: Mapping[str, ErrorCounts]  # of all labels that have a reference
    errors_kept: Mapping[str, ErrorCounts]  # of those kept and taught; of silence no label is
    n_without_duration: int  # utterances that no hours count
    n_stray_labels: int  # labels of no utterance of the manifest; they were passed over
    settings: FilterSettings
    retention: Retention = field(compare=False)  # of whom, and what other limits would keep
    # How well gates without a reference know bad labels; None without references.
    calibration: Calibration | None = field(default=None, compare=False)
    folder: Path | None = field(default=None, compare=False)

    def __fspath__(self) -> str:
        if self.folder is None:
            raise TypeError("this summary was not made in a folder")
        return str(self.folder)

    def to_dict(self) -> dict[str, Any]:
        """Return what summary.json holds: the sums, and rates made of them."""
        row = {name: value for name, value in asdict(self).items() if name != "folder"}
        for name in _ERRORS:
            counts: Mapping[str, ErrorCounts] = getattr(self, name)
            row[name] = {unit: {**asdict(of), "wer": of.rate} for unit, of in counts.items()}
        return row

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "FilterSummary":
        """Return the summary that :meth:`to_dict` wrote."""
        counts = {
            name: {u: {k: n for k, n in of.items() if k != "wer"} for u, of in row[name].items()}
            for name in _ERRORS
        }
        return build_settings(cls, {**row, **counts}, where="summary.json")

    def tables(self) -> str:
        """Return the retention report and the calibration, to be read by people."""
        return "\n".join(str(part) for part in (self.retention, self.calibration) if part)

    def __str__(self) -> str:
        hours = f"{self.kept.hours:.2f} of {self.total.hours:.2f} h"
        lines = [f"kept {self.kept.count} of {self.total.count} utterances ({hours})"]
        for name, of in self.by_reason.items():
            lines.append(f"  {of.count:9d}  {of.hours:10.2f} h  {name}")
        for unit, counts in self.errors.items():
            name = "WER" if unit == "word" else "CER"
            all_, kept = (
                percent(of.rate, digits=2, none="no") for of in (counts, self.errors_kept[unit])
            )
            lines.append(
                f"  {name} against the references: {all_} of all labels, {kept} of those kept"
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
    second_labels: Path | None = None,
    measures: Path | None = None,
    figures: bool = True,
    force: bool = False,
    warns: bool = True,
) -> FilterSummary:
    """Judge every utterance of a manifest, which is what was labelled, or a part of it.

    ``second_labels`` are of the same utterances, such as another model's. What was measured is kept
    for other limits: with the labels, or in the folder ``measures``. Figures are drawn where they
    are missing, which takes seconds. With ``warns``, limits that keep nearly all are logged.

    Raises:
        StageChanged: the folder holds verdicts made from or with something else.
        ValueError: no label is of an utterance of the manifest, a language is unknown, or
            disagreement is limited and there are no second labels.
    """
    if settings.max_disagreement is not None and second_labels is None:
        raise ValueError("max_disagreement needs second labels, found none: name their folder")
    if warns:
        warn_of_limits(settings)
    sources = Sources(manifest_path, labels_folder, second_labels, settings.language)
    folder = labels_folder / ".measures" if measures is None else measures
    with lock_folder(out):
        try:
            open_stage(out, settings=asdict(settings), inputs=sources.inputs, force=force)
        except StageChanged as changed:
            if not sources.path(folder).exists():
                raise
            raise StageChanged(
                f"{changed}\nAll labels are measured, so that either takes seconds: another --out "
                "keeps these verdicts beside the new ones, --force replaces them"
            ) from changed
        summary_path = out / "summary.json"
        if summary_path.exists():
            summary = FilterSummary.from_dict(json.loads(summary_path.read_text(encoding="utf-8")))
        else:
            if settings.language is not None:
                log_overruled(read_manifest(manifest_path), settings.language)
            table = load_or_measure(sources, folder)
            if table.n_stray and not table["has_label"].any():
                raise ValueError(
                    f"{labels_folder} must hold labels of {manifest_path}, found {table.n_stray} "
                    "labels, all of other utterances: name the manifest that was labelled"
                )
            summary = _write(table, settings, out)
        if figures and not (out / "figures" / "kept.svg").exists():  # the last of them
            from distilwhisper.filtering.figures import draw_retention  # takes a second to import

            draw_retention(summary.retention, out / "figures", max_wer=settings.max_wer)
    return replace(summary, folder=out)


def warn_of_limits(settings: FilterSettings) -> None:
    """Log the limits on errors that keep nearly all: where they are meant as per cent, a slip."""
    of = {f"max_wer_by_language {name}": limit for name, limit in settings.max_wer_by_language}
    limits = {"max_wer": settings.max_wer, **of, "max_disagreement": settings.max_disagreement}
    for name, limit in limits.items():
        if limit is not None and limit > 1:
            warn(
                f"filter: warning: {name} {limit:g} keeps labels with up to {limit:g} errors for "
                "every word: limits are fractions, and 0.10 is 10 %"
            )


def judge(utterance: Utterance, label: Label | None, settings: FilterSettings) -> Verdict:
    """Return the verdict on one label, or on there being none; it depends on no other label.

    Manifest, settings or label must name a language that is known.
    """
    table = measure_all([(utterance, label, None)], language=settings.language)
    (verdict,) = _verdicts(table, judge_all(table, settings))
    return verdict


def summarise(table: Measures, codes: Codes, settings: FilterSettings) -> FilterSummary:
    """Add up verdicts, of which each has the code of its reason."""
    kept = is_kept(codes)
    counts = np.bincount(codes, minlength=len(REASONS)).tolist()
    hours = np.bincount(codes, weights=table.hours, minlength=len(REASONS)).tolist()
    shares = dict(zip(REASONS, map(Share, counts, hours), strict=True))
    return FilterSummary(
        total=sum(shares.values(), Share()),
        kept=sum((shares[reason] for reason in _KEPT), Share()),
        by_reason={reason: share for reason, share in shares.items() if share.count},
        errors=_errors(table, np.ones(len(codes), dtype=bool)),
        errors_kept=_errors(table, kept & ~table["silent_reference"]),
        n_without_duration=int(np.count_nonzero(np.isnan(table["duration_s"]))),
        n_stray_labels=table.n_stray,
        settings=settings,
        retention=retention(table, settings, kept),
        calibration=calibrate(table, settings),
    )


def _errors(table: Measures, counted: Flags) -> dict[str, ErrorCounts]:
    """Add up errors by unit; a unit that no label with a reference has is left out."""
    names = ("substitutions", "deletions", "insertions", "words")
    return {
        unit: ErrorCounts(*(int(table[name][flags & counted].sum()) for name in names))
        for unit, in_characters in (("word", False), ("character", True))
        if (flags := table.judged & (table["in_characters"] == in_characters)).any()
    }


def _write(table: Measures, settings: FilterSettings, out: Path) -> FilterSummary:
    """Write the verdicts and, when all are there, their summary."""
    codes = judge_all(table, settings)
    # What a killed run has left takes seconds to make again.
    for path in shard_paths(out):
        path.unlink()
    rows = (verdict.to_dict() for verdict in _verdicts(table, codes))
    for number in range(-(-len(codes) // SHARD_ROWS)):
        write_jsonl(shard_path(out, number), islice(rows, SHARD_ROWS))
    summary = summarise(table, codes, settings)
    text = json.dumps(summary.to_dict(), indent=2, allow_nan=False)
    write_atomic(out / "summary.json", f"{text}\n")
    return summary


def _verdicts(table: Measures, codes: Codes) -> Iterator[Verdict]:
    names = ("in_characters", "substitutions", "deletions", "insertions", "words")
    columns = (codes, table.judged, *(table[name] for name in names))
    rows = zip(table.ids, *(column.tolist() for column in columns), strict=True)
    for id_, code, is_judged, in_characters, *counts in rows:
        errors = ErrorCounts(*counts) if is_judged else None
        yield Verdict(
            id=id_,
            keep=REASONS[code] in _KEPT,
            reason=REASONS[code],
            wer=None if errors is None else errors.rate,
            errors=errors,
            unit="character" if in_characters else "word",
        )
