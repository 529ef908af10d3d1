"""What is measured of each label, once, from texts and scores alone; verdicts are views of it.

    FOLDER/KEY.npz  a row for every label, in their order, then for every utterance without one

The folder is a cache, by default ``LABELS/.measures``: it may be deleted at any time, and goes
where its labels go. The key is a digest of all that the measures depend on, so that labels or a
manifest that have changed by a single byte are measured anew, and limits, on which nothing here
depends, change nothing.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, get_type_hints
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from distilwhisper.corpus.records import Label, Utterance, each_record, read_manifest
from distilwhisper.corpus.store import TornShard
from distilwhisper.files import write_atomic
from distilwhisper.languages import code_or_name, uses_spaces
from distilwhisper.run.stages import fingerprint
from distilwhisper.text.normalize import Normalizer, normalizer_for
from distilwhisper.text.transcript import compression_ratio
from distilwhisper.text.wer import text_errors

Floats: TypeAlias = npt.NDArray[np.float64]
Flags: TypeAlias = npt.NDArray[np.bool_]

MIN_CAPITALS = 10  # fewer may be abbreviations: "OK", "USA", "NASA TV"

_VERSION = 5  # of what the numbers mean; part of the key


class Row(NamedTuple):
    """What is measured of an utterance; units are words, characters in scripts without spaces.

    Counts that nobody knows are -1, and numbers that nobody knows nan.
    """

    has_label: bool
    has_error: bool
    finished: bool
    has_reference: bool
    silent_reference: bool  # blank as written: a note such as [noise] is not
    empty_reference: bool = False
    empty_label: bool = False
    all_capitals: bool = False
    in_characters: bool = False
    held_out: bool = False  # of the half of all ids on which limits are scored, not made
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    words: int = 0  # units of the reference
    label_words: int = 0  # units of the label
    looped: int = 0  # of which so many are in its longest_loop
    second_errors: int = -1  # of a second decode, against the label
    language: int = -1  # places in the names of the same column
    speaker: int = -1
    source: int = -1
    avg_logprob: float | None = None
    no_speech_prob: float | None = None
    compression_ratio: float | None = None
    duration_s: float | None = None
    other_language_prob: float | None = None  # that another is spoken than was expected


_DTYPES: dict[Any, str] = {bool: "?", int: "<i4", float | None: "<f8"}
ROW = np.dtype([(name, _DTYPES[kind]) for name, kind in get_type_hints(Row).items()])


@dataclass(frozen=True, eq=False)
class Measures:
    """A row of measures for every utterance."""

    rows: npt.NDArray[Any]  # of type ``ROW``
    ids: list[str]  # of the utterances
    names: Mapping[str, list[str]]  # of languages, speakers and sources, which the rows point at
    n_stray: int = 0  # labels of no utterance of the manifest; they have no row

    def __getitem__(self, column: str) -> npt.NDArray[Any]:
        """Return one column."""
        return self.rows[column]

    @cached_property
    def errors(self) -> npt.NDArray[np.int64]:
        """Substitutions, deletions and insertions together."""
        kinds = ("substitutions", "deletions", "insertions")
        return np.sum([self[kind] for kind in kinds], axis=0, dtype=np.int64)

    @cached_property
    def judged(self) -> Flags:
        """Whether a label was compared with a reference."""
        return self["has_label"] & ~self["has_error"] & self["has_reference"]

    @cached_property
    def rates(self) -> Floats:
        """Errors over the units of the reference; nan where there is none.

        A quotient is rounded to the nearest number, and so is a limit that somebody writes: 3
        errors in 30 words give the very number that is written 0.1.
        """
        are_known = self["has_label"] & self["has_reference"]
        return _share(np.where(are_known, self.errors, -1), self["words"])

    def per_word(self, column: str) -> Floats:
        """Return a count over the units of the label; nan where it is not known."""
        return _share(self[column], self["label_words"])

    @cached_property
    def hours(self) -> Floats:
        """Length of each utterance; 0 where it is unknown."""
        return np.nan_to_num(self["duration_s"]) / 3600


def _share(counts: npt.NDArray[Any], of: npt.NDArray[Any]) -> Floats:
    """Divide counts; nan for a negative count, 0 for none of nothing, infinity for some of it."""
    with np.errstate(divide="ignore", invalid="ignore"):
        shares: Floats = np.where((counts == 0) & (of == 0), 0.0, counts / of)
    return np.where(counts < 0, np.nan, shares)


LabelledPair: TypeAlias = tuple[Utterance, Label | None, Label | None]  # and its second label


def measure_all(pairs: Iterable[LabelledPair], *, language: str | None) -> Measures:
    """Measure the labels of utterances, with a reference or without.

    Beside a label there may be another one, such as another model's. ``language`` is that of all
    utterances, whatever they name; None: what they name, else the label's. One that is unknown, or
    that nobody names, is a ValueError.
    """
    ids: list[str] = []
    places: dict[str, dict[str, int]] = {"language": {}, "speaker": {}, "source": {}}

    def place(column: str, name: str | None) -> int:
        return -1 if name is None else places[column].setdefault(name, len(places[column]))

    def rows() -> Iterator[Row]:
        for pair in pairs:
            ids.append(pair[0].id)
            yield _row(pair, language, place)

    table = np.fromiter(rows(), dtype=ROW)  # which makes nan of None
    return Measures(table, ids, {column: list(of) for column, of in places.items()})


def is_all_capitals(text: str) -> bool:
    """Return whether a text is written in capitals throughout and too long for abbreviations.

    Never so in scripts without case.
    """
    return text.isupper() and sum(map(str.isupper, text)) >= MIN_CAPITALS


def _row(pair: LabelledPair, asked: str | None, place: Callable[[str, str | None], int]) -> Row:
    """Measure one label; ``place`` numbers names."""
    utterance, given, second = pair
    label = given or Label("", finished=False)
    expected = asked or utterance.language
    language = expected or label.language
    has_text = given is not None and given.error is None
    return Row(
        has_label=given is not None,
        has_error=label.error is not None,
        finished=label.finished,
        has_reference=utterance.text is not None,
        silent_reference=utterance.is_silent,
        language=place("language", language and code_or_name(language)),
        speaker=place("speaker", utterance.speaker),
        source=place("source", utterance.source),
        duration_s=label.duration_s if utterance.duration_s is None else utterance.duration_s,
        other_language_prob=_other_language_prob(expected, label),
        **_text_measures(utterance, label, language, second) if has_text else {},
    )


def _text_measures(
    utterance: Utterance, label: Label, language: str | None, second: Label | None
) -> dict[str, Any]:
    """Return the columns that a label with a text has."""
    try:
        normalize, in_characters = _rules_for(language)
    except ValueError as error:
        raise ValueError(f"utterance {utterance.id!r}: {error}") from error
    count = partial(text_errors, spaced=not in_characters)
    hypothesis = normalize(label.text)
    words = hypothesis.split()
    units: Sequence[str] = "".join(words) if in_characters else words
    columns: dict[str, Any] = {}
    if utterance.text is not None:
        reference = normalize(utterance.text)
        columns = {"empty_reference": not reference, **asdict(count(reference, hypothesis))}
    if second is not None and second.error is None:
        columns["second_errors"] = count(hypothesis, normalize(second.text)).errors
    ratio = label.compression_ratio
    return columns | {
        "empty_label": not hypothesis,
        "all_capitals": is_all_capitals(label.text),
        "in_characters": in_characters,
        "held_out": hashlib.sha256(utterance.id.encode("utf-8")).digest()[0] < 128,
        "label_words": len(units),
        "looped": longest_loop(units),
        "avg_logprob": label.avg_logprob,
        "no_speech_prob": label.no_speech_prob,
        "compression_ratio": compression_ratio(label.text) if ratio is None else ratio,
    }


def longest_loop(words: Sequence[str]) -> int:
    """Count the words of the longest run that only repeats what stands directly before it.

    "and then and then and then" has 4, and so has "no no no no no"; a text that never repeats
    itself at once has 0. A phrase counts from its second turn on, which must be whole. In scripts
    without spaces words are characters.
    """
    if len(set(words)) == len(words):
        return 0
    places: dict[str, list[int]] = {}
    runs: dict[int, int] = {}  # by period: how long words have equalled those a period before
    longest = 0
    for place, word in enumerate(words):
        before = places.setdefault(word, [])
        runs = {place - other: runs.get(place - other, 0) + 1 for other in before}
        longest = max([longest, *(run for period, run in runs.items() if run >= period)])
        before.append(place)
    return longest


@cache
def _rules_for(language: str | None) -> tuple[Normalizer, bool]:
    return normalizer_for(language), not uses_spaces(str(language))


def _other_language_prob(expected: str | None, label: Label) -> float | None:
    if expected is None or label.detected_language is None:
        return None
    if code_or_name(expected) == code_or_name(label.detected_language):
        return 0.0
    return 1.0 if label.language_probability is None else label.language_probability


# Measures on disk


@dataclass(frozen=True)
class Sources:
    """What measures are made from."""

    manifest: Path  # what was labelled, or a part of it
    labels: Path  # folder of the labels
    second: Path | None  # folder of other labels of the same utterances, for comparison
    # Of all utterances; None: what the manifest names, else what the labels do
    language: str | None

    @cached_property
    def inputs(self) -> Mapping[str, str]:
        """Fingerprints of what is read, by name."""
        paths = {"manifest": self.manifest, "labels": self.labels, "second_labels": self.second}
        return {name: fingerprint(path) for name, path in paths.items() if path is not None}

    def path(self, folder: Path) -> Path:
        """Return the file of these measures in a folder of measures."""
        parts = json.dumps({"inputs": self.inputs, "language": self.language, "version": _VERSION})
        digest = hashlib.sha256(parts.encode()).hexdigest()[:16]
        return folder / f"{self.inputs['labels'][:16]}-{digest}.npz"


def load_or_measure(sources: Sources, folder: Path) -> Measures:
    """Read the measures of a corpus from a folder, where they are made first if they are missing.

    Measures of labels that have changed since are deleted.

    Raises:
        BadManifest, TornShard, DuplicateId, FileNotFoundError: as the records' readers.
        ValueError: the language of a label is unknown.
    """
    path = sources.path(folder)
    if path.exists():
        return _load(path)
    for old in folder.glob("*.npz"):
        if old.name.split("-")[0] != path.name.split("-")[0]:
            old.unlink()
    strays: list[str] = []
    measures = measure_all(_pairs(sources, strays), language=sources.language)
    measures = replace(measures, n_stray=len(strays))
    other = json.dumps([measures.ids, dict(measures.names), measures.n_stray])
    file = io.BytesIO()
    np.savez(file, rows=measures.rows, other=np.frombuffer(other.encode(), dtype=np.uint8))
    write_atomic(path, file.getvalue())
    return measures


def _pairs(sources: Sources, strays: list[str]) -> Iterator[LabelledPair]:
    """Yield each utterance with its labels; ids of labels without an utterance become strays."""
    left = {utterance.id: utterance for utterance in read_manifest(sources.manifest).utterances}
    second = {}
    if sources.second is not None:  # without tokens, which take most of the memory
        labels = each_record(sources.second, Label)
        second = {label.id: replace(label, token_ids=()) for label in labels}
    for label in each_record(sources.labels, Label):
        utterance = left.pop(label.id, None)
        if utterance is None:
            strays.append(label.id)
        else:
            yield utterance, label, second.get(label.id)
    for utterance in left.values():
        yield utterance, None, None


def _load(path: Path) -> Measures:
    try:
        with np.load(path, allow_pickle=False) as file:
            measures = Measures(file["rows"], *json.loads(file["other"].tobytes()))
        if measures.rows.dtype != ROW or len(measures.rows) != len(measures.ids):
            raise ValueError("its columns do not fit")
        return measures
    except (OSError, TypeError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise TornShard(
            f"{path} must hold measures of labels, found: {error}; delete it and run the filter "
            "again"
        ) from error
