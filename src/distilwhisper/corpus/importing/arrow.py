"""Hugging Face datasets and Parquet files: rows of Arrow tables with a column of audio.

Datasets are read as a stream, from a folder or the hub: no copy of the whole is made. As rows of
its own kind the library would decode the sound, or require the decoder even with ``decode=False``.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distilwhisper.corpus.importing.entries import (
    BadSource,
    Entries,
    Entry,
    Row,
    Source,
    UnreadableSource,
    Unusable,
    find_columns,
    located,
    utterance_from,
)
from distilwhisper.corpus.importing.settings import ImportSettings
from distilwhisper.extras import needed_by
from distilwhisper.progress import say
from distilwhisper.speech.arrays import to_samples
from distilwhisper.speech.audio import wav_bytes
from distilwhisper.speech.sources import opened

if TYPE_CHECKING:
    import pyarrow

ROWS_AT_ONCE = 16  # a row may hold an hour of sound

# Of samples that lie in a list: the key of their rate, in a struct or a column beside.
_RATES = ("sampling_rate", "sample_rate")


def read_parquet(source: Source) -> Entries:
    """Yield the utterances of a Parquet file, or of all below a folder, in the order of the paths.

    The audio column is the one with structs of bytes and path, as Hugging Face writes them, or of
    array and sampling_rate; else one of bytes; else one that is called as in a table and holds
    paths, relative to the file's folder, or lists of samples, with a column sampling_rate beside.
    An utterance's id is the file's path and the number of the row. The split is a word in the names
    of files or their folders.
    """
    with needed_by("reading Parquet files", extra="data"):
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    must, errors = "must be a whole Parquet file, found", (ArrowException, OSError)
    for path in _of_split(source.path, source.settings.split):
        name = path.name if path == source.path else path.relative_to(source.path).as_posix()
        with source.problem_at(name, must, "unreadable", errors), ParquetFile(path) as file:
            columns, to_read = _columns_of(file.schema_arrow, str(path), source.settings)
            batches = file.iter_batches(ROWS_AT_ONCE, columns=to_read)
            for number, row in enumerate(row for some in batches for row in some.to_pylist()):
                stem = f"{posixpath.splitext(name)[0]}/{number:08d}"
                with source.problem_at(where := f"{name}: row {number}"):
                    yield _sound_entry(where, row, columns, stem, path.parent)


def _columns_of(
    schema: "pyarrow.Schema", source: str, settings: ImportSettings
) -> tuple[dict[str, str], list[str]]:
    """Return the column of each field, and the columns to read: what holds text or numbers is kept.

    That of the audio is found by its type; BadSource where there is none, or more than one.
    """
    from pyarrow import types

    def of_types(*names: str) -> "list[pyarrow.Field]":
        tests = [getattr(types, f"is_{name}") for name in names]
        return [column for column in schema if any(test(column.type) for test in tests)]

    chosen = dict(settings.columns)
    if "audio" not in chosen:
        structs = [c for c in of_types("struct") if {"bytes", "array"} & {p.name for p in c.type}]
        candidates = [c.name for c in structs or of_types("binary", "large_binary")]
        if len(candidates) > 1:
            raise BadSource(f"{source}: choose one, --column audio={' or '.join(candidates)}")
        chosen |= dict(zip(["audio"], candidates, strict=False))
    columns = find_columns(schema.names, chosen)
    if "audio" not in columns:
        must = f"{source} must have a column of audio, found {', '.join(schema.names)}"
        raise BadSource(f"{must}; give --column audio=NAME")
    kept = of_types("string", "large_string", "integer", "floating", "boolean")
    return columns, [*dict.fromkeys([*columns.values(), *(c.name for c in kept)])]


def _sound_entry(
    where: str, row: Row, columns: Mapping[str, str], stem: str, folder: Path
) -> Entry:
    """Return the utterance of a row whose audio is bytes, a path, samples, or a struct of them."""
    utterance = utterance_from(row, columns, stem)
    audio = row.get(columns["audio"])
    keys = ("bytes", "path", "array")
    parts = audio if isinstance(audio, Mapping) else dict.fromkeys(keys, audio)
    data, path, samples = map(parts.get, keys)
    if isinstance(samples, list) and not isinstance(data, bytes):
        facts = {**row, **parts}
        rate_hz = next((facts[name] for name in _RATES if facts.get(name)), None)
        if type(rate_hz) is not int:
            must = f"samples must have their rate beside them ({' or '.join(_RATES)}, in Hz)"
            raise ValueError(f"{must}, found {rate_hz!r}")
        sound = to_samples(np.array(samples), "the column of audio", sampling_rate=rate_hz)
        path, data = "samples.wav", wav_bytes(sound)
    if isinstance(data, bytes) and data:
        suffix = posixpath.splitext(path)[1] if isinstance(path, str) else ""
        return Entry(where, replace(utterance, audio=f"{stem}{suffix}"), data)
    if isinstance(path, str) and path:
        path = path if "://" in path else located(path, folder)
        return Entry(where, replace(utterance, audio=path))
    raise Unusable("its audio must have bytes or a path, found neither", "audio missing")


def _of_split(source: Path, split: str | None) -> list[Path]:
    """Return the files of a split: train by default, or all if none is called that."""
    paths = sorted(source.rglob("*.parquet")) if source.is_dir() else [source]
    part = split or "train"
    of_split = [
        path
        for path in paths
        if part in re.split(r"[^0-9A-Za-z]+", path.relative_to(source).as_posix())
        or path.name.startswith(f"{part}-")
    ]
    if of_split and len(of_split) < len(paths):
        say(f"data: split {part}: {len(of_split)} of {len(paths)} files")
    if not paths or (split is not None and not of_split):
        of = f" with {split} in their names" if split else ""
        raise BadSource(f"{source} must hold Parquet files{of}, found none among {len(paths)}")
    return of_split or paths


def read_huggingface(source: Source) -> Entries:
    """Yield the rows of one split of a dataset, in order.

    The source is a folder of save_to_disk, a folder as on the hub, or a hub id. An utterance's id
    is the split and the number of the row; its source is the hub id, unless a column names one.
    """
    name = str(source.path)
    dataset, split = _opened(name, source.settings)
    from_hub = None if source.path.exists() else name
    features, number = dataset.features or {}, 0
    for table in _tables(dataset, name):
        columns, to_read = _columns_of(table.schema, name, source.settings)
        # In these a number stands for a name.
        names_of = {c: getattr(features.get(c), "names", None) for c in to_read}
        for row in table.select(to_read).to_pylist():
            for column, names in names_of.items():
                if names and row[column] is not None:
                    row[column] = names[row[column]]
            with source.problem_at(where := f"{name}: {split}, row {number}"):
                entry = _sound_entry(where, row, columns, f"{split}/{number:08d}", Path())
                utterance = entry.utterance
                if utterance.source is None:
                    utterance = replace(utterance, source=from_hub)
                is_away = entry.data is None and "://" in utterance.audio
                data = _fetched(utterance.audio) if is_away else entry.data
                yield Entry(where, utterance, data)
            number += 1


def _opened(source: str, settings: ImportSettings) -> tuple[Any, str]:
    """Return one split of a dataset, of which no row has been read, and its name."""
    with needed_by("a Hugging Face dataset", extra="data"):
        import datasets
    is_saved = any((Path(source) / name).exists() for name in ("state.json", "dataset_dict.json"))
    if is_saved and settings.config is not None:
        raise BadSource(f"{source} was saved without configs, found --config {settings.config}")
    try:
        if is_saved:
            dataset = datasets.load_from_disk(source)
        else:
            dataset = datasets.load_dataset(source, settings.config, streaming=True)
    except (OSError, datasets.exceptions.DatasetsError) as error:
        must = f"{source} must be a file or folder, or a dataset that can be had from the hub"
        raise UnreadableSource(f"{must}, found: {error}") from error
    except ValueError as error:  # the library lists the configs
        raise BadSource(f"{source}: {error}") from error
    if not isinstance(dataset, Mapping):
        if settings.split is not None:
            raise BadSource(f"{source} was saved as one split, found --split {settings.split}")
        return dataset, str(dataset.split or "row")
    split = settings.split or ("train" if len(dataset) > 1 else next(iter(dataset)))
    if split not in dataset:
        raise BadSource(f"--split must be one of {', '.join(dataset)} in {source}, found {split}")
    say(f"data: split {split} of {', '.join(dataset)}")
    return dataset[split], split


def _tables(dataset: Any, source: str) -> Iterator["pyarrow.Table"]:
    """Yield the rows some at a time."""
    from datasets.exceptions import DatasetsError
    from pyarrow import ArrowException

    n_read = 0
    try:
        for table in dataset.with_format("arrow").iter(ROWS_AT_ONCE):
            yield table
            n_read += len(table)
    except (OSError, ValueError, ArrowException, DatasetsError) as error:
        raise UnreadableSource(
            f"{source} cannot be read on behind row {n_read}: {error}; nothing was written: "
            "run the same command again"
        ) from error


def _fetched(url: str) -> bytes:
    """Return sound that lies in no file here: on the hub, or in a zip."""
    try:
        with opened(url) as (file, _):
            return file.read()
    except OSError as error:
        raise Unusable(f"{url}: {error}", "audio missing") from error
