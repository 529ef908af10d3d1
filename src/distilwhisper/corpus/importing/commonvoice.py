"""Common Voice's layout: clips/ beside train.tsv and other splits, for one locale or several."""

from pathlib import Path

from distilwhisper.corpus.importing.entries import BadSource, Entries, Source
from distilwhisper.corpus.importing.tables import table_entries


def read_commonvoice(source: Source) -> Entries:
    """Yield the utterances of one split, locale by locale, in the order of the tables.

    Raises:
        BadSource: a locale lacks the split.
        BadTranscripts: a table cannot be read.
    """
    split = source.settings.split or "train"
    locales = locale_folders(source.path)
    for folder in locales:
        if not (folder / f"{split}.tsv").is_file():
            held = ", ".join(sorted(path.stem for path in folder.glob("*.tsv")))
            raise BadSource(f"--split {split} must be a table in {folder}, found {held or 'none'}")
    for folder in locales:
        yield from table_entries(folder / f"{split}.tsv", folder / "clips", source)


def locale_folders(source: Path) -> list[Path]:
    """Return the folders that hold clips/ and tables: the source, or those in it."""
    return [
        folder
        for folder in (source, *sorted(source.iterdir()))
        if (folder / "clips").is_dir() and any(folder.glob("*.tsv"))
    ]
