"""The measures of a corpus on disk: made once, read for every set of limits.

    FOLDER/KEY.npz  a row for every label, in their order, then for every utterance without one

The folder is a cache, by default ``LABELS/.measures``: it may be deleted at any time, and goes
where its labels go. The key is a digest of all that the measures depend on, so that labels or a
manifest that have changed by a single byte are measured anew, and limits, on which nothing here
depends, change nothing.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from distilwhisper.corpus.records import Label, each_record, read_manifest
from distilwhisper.corpus.store import TornShard
from distilwhisper.files import write_atomic
from distilwhisper.filtering.measures import ROW, LabelledPair, Measures, measure_all
from distilwhisper.run.stages import fingerprint

_VERSION = 5  # of what the numbers mean; part of the key


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
    """Read the measures of a corpus, which are made first where they are missing.

    Args:
        sources: what to measure.
        folder: of all measures; those of labels that have changed since are deleted.

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
