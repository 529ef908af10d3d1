"""Hugging Face datasets, from a folder or the hub, as a stream: no copy of the whole is made.

Rows are read as Arrow tables: as rows of its own kind the library would decode the sound, or
require the decoder even with ``decode=False``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distilwhisper.corpus.importing.entries import (
    BadSource,
    Entries,
    Entry,
    Source,
    UnreadableSource,
    Unusable,
)
from distilwhisper.corpus.importing.parquet import (
    ROWS_AT_ONCE,
    columns_to_read,
    fields_of,
    sound_entry,
)
from distilwhisper.corpus.importing.settings import ImportSettings
from distilwhisper.extras import needed_by
from distilwhisper.progress import say

if TYPE_CHECKING:
    import pyarrow


def read_huggingface(source: Source) -> Entries:
    """Yield the rows of one split of a dataset, in order.

    An utterance's id is the split and the number of the row; its source is the hub id, unless a
    column names one.

    Args:
        source: a folder of save_to_disk, a folder as on the hub, or a hub id; its settings name
            config, split and columns.

    Raises:
        BadSource: there is no such config, split or column.
        UnreadableSource: there is no such dataset, or it cannot be read to its end.
        MissingExtra: datasets is not installed.
    """
    name, settings = str(source.path), source.settings
    dataset, split = _opened(name, settings)
    from_hub = None if source.path.exists() else name
    columns: dict[str, str] = {}
    number = 0
    for table in _tables(dataset, name):
        columns = columns or fields_of(table.schema, name, settings)
        wanted = columns_to_read(table.schema, columns)
        names_of = _class_names(dataset, wanted)
        for row in table.select(wanted).to_pylist():
            for column, names in names_of.items():
                row[column] = None if row[column] is None else names[row[column]]
            where = f"{name}: {split}, row {number}"
            with source.reading(where):
                entry = sound_entry(where, row, columns, f"{split}/{number:08d}", Path())
                yield _fetched(entry, from_hub)
            number += 1


def _opened(source: str, settings: ImportSettings) -> tuple[Any, str]:
    """Return one split of a dataset, of which no row has been read, and its name.

    Raises:
        BadSource, UnreadableSource, MissingExtra: as :func:`read_huggingface`.
    """
    with needed_by("a Hugging Face dataset", extra="data"):
        import datasets
    saved = any((Path(source) / name).exists() for name in ("state.json", "dataset_dict.json"))
    if saved and settings.config is not None:
        raise BadSource(f"{source} was saved without configs, found --config {settings.config}")
    try:
        if saved:
            opened = datasets.load_from_disk(source)
        else:
            opened = datasets.load_dataset(source, settings.config, streaming=True)
    except (OSError, datasets.exceptions.DatasetsError) as error:
        raise UnreadableSource(
            f"{source} must be a file or folder, or a dataset that can be had from the hub, found: "
            f"{error}"
        ) from error
    except ValueError as error:  # of configs the library says which there are
        raise BadSource(f"{source}: {error}") from error
    if not isinstance(opened, Mapping):
        if settings.split is not None:
            raise BadSource(f"{source} was saved as one split, found --split {settings.split}")
        return opened, str(opened.split or "row")
    split = settings.split or ("train" if len(opened) > 1 else next(iter(opened)))
    if split not in opened:
        raise BadSource(f"--split must be one of {', '.join(opened)} in {source}, found {split}")
    say(f"data: split {split} of {', '.join(opened)}")
    return opened[split], split


def _tables(dataset: Any, source: str) -> Iterator["pyarrow.Table"]:
    """Yield the rows some at a time.

    Raises:
        UnreadableSource: they cannot be read to their end.
    """
    from datasets.exceptions import DatasetsError
    from pyarrow import ArrowException

    n_read = 0
    tables = iter(dataset.with_format("arrow").iter(ROWS_AT_ONCE))
    while True:
        try:
            table = next(tables, None)
        except (OSError, ValueError, ArrowException, DatasetsError) as error:
            raise UnreadableSource(
                f"{source} cannot be read on behind row {n_read}: {error}; nothing was written: "
                "run the same command again"
            ) from error
        if table is None:
            return
        n_read += len(table)
        yield table


def _class_names(dataset: Any, columns: Sequence[str]) -> dict[str, list[str]]:
    """Return the names that the numbers in a column stand for, where they stand for names."""
    features = dataset.features or {}
    names = {column: getattr(features.get(column), "names", None) for column in columns}
    return {column: list(of) for column, of in names.items() if of}


def _fetched(entry: Entry, from_hub: str | None) -> Entry:
    """Return an entry with its sound where that lies in no file here: on the hub, or in a zip.

    Raises:
        Unusable: it cannot be fetched.
    """
    utterance = entry.utterance
    if from_hub is not None and utterance.source is None:
        utterance = replace(utterance, source=from_hub)
    if entry.data is not None or "://" not in utterance.audio:
        return entry._replace(utterance=utterance)
    import fsspec

    try:
        with fsspec.open(utterance.audio, "rb") as file:
            return Entry(entry.where, utterance, file.read())
    except OSError as error:
        raise Unusable(f"{utterance.audio}: {error}", "audio missing") from error
