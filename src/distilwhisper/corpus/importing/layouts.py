"""Which layout a source has, and its reader."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from distilwhisper.corpus.importing.arrow import read_huggingface, read_parquet
from distilwhisper.corpus.importing.entries import (
    AUDIO_SUFFIXES,
    BadSource,
    Entries,
    Entry,
    Source,
    known_language,
)
from distilwhisper.corpus.importing.folder import read_folder, read_webdataset
from distilwhisper.corpus.importing.keyed import read_kaldi, read_librispeech
from distilwhisper.corpus.importing.lhotse import lhotse_files, read_lhotse
from distilwhisper.corpus.importing.settings import Format, ImportSettings
from distilwhisper.corpus.importing.tables import (
    JSON_SUFFIXES,
    TABLE_SUFFIXES,
    Table,
    locale_folders,
    read_commonvoice,
    read_table,
)
from distilwhisper.corpus.records import audio_in, manifest_lines, utterance_of


class Layout(NamedTuple):
    """A way in which people store speech."""

    description: str  # for people
    read: Callable[[Source], Entries]  # yields the utterances
    # Whether a source must be a folder or a file; none: either
    kind: Literal["file", "folder"] | None = None
    options: tuple[str, ...] = ()  # settings that the reader has a use for


def _read_manifest(source: Source) -> Entries:
    """Yield the utterances of a manifest of ours; its audio paths are relative to its folder."""
    folder = source.path.parent.absolute()
    for path, number, line in manifest_lines(source.path):
        with source.problem_at(where := f"{path}:{number}"):
            utterance = utterance_of(line)
            audio, language = audio_in(folder, utterance.audio), known_language(utterance.language)
            yield Entry(where, replace(utterance, audio=audio, language=language))


LAYOUTS: Mapping[Format, Layout] = {
    "folder": Layout("a folder of audio", read_folder, "folder", ("column",)),
    "table": Layout("a table that names audio", read_table, "file", ("column",)),
    "kaldi": Layout("a Kaldi data directory", read_kaldi, "folder"),
    "librispeech": Layout("LibriSpeech's layout", read_librispeech, "folder"),
    "commonvoice": Layout("Common Voice's layout", read_commonvoice, "folder", ("split", "column")),
    "huggingface": Layout(
        "a Hugging Face dataset", read_huggingface, None, ("config", "split", "column")
    ),
    "lhotse": Layout("Lhotse manifests", read_lhotse),
    "webdataset": Layout("WebDataset shards", read_webdataset, None, ("column",)),
    "parquet": Layout("Parquet files", read_parquet, None, ("split", "column")),
    "manifest": Layout("a manifest", _read_manifest, "file"),
}

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def detect(source: str) -> Format:
    """Return the layout of a source.

    Raises:
        BadSource: there is no such file or folder, and its name is no hub id; or it is a file of
            an unknown kind.
    """
    path = Path(source)
    if path.is_dir():
        return _of_folder(path)
    if path.is_file():
        return _of_file(path)
    if _HUB_ID.fullmatch(source) and not path.suffix:
        return "huggingface"
    raise BadSource(
        f"{source} must be a folder with audio below it, a file that names audio, or a dataset "
        "OWNER/NAME of the hub, found nothing there"
    )


def read(source: Source, layout: Format) -> Entries:
    """Yield the utterances of a source.

    Raises:
        BadSource: it is not what it is read as, or the settings ask for what is of no use there.
    """
    path, form = source.path, LAYOUTS[layout]
    for option in ("config", "split", "column"):
        if getattr(source.settings, option) and option not in form.options:
            readers = sorted(name for name, of in LAYOUTS.items() if option in of.options)
            raise BadSource(
                f"--{option} is for {', '.join(readers)}, found {form.description}: leave it out, "
                "or choose another --format"
            )
    if layout != "huggingface" and not path.exists():
        raise BadSource(f"{path} must be {form.description}, found nothing there")
    if form.kind is not None and not (path.is_file() if form.kind == "file" else path.is_dir()):
        raise BadSource(f"{path} must be {form.description}, found no {form.kind}")
    return form.read(source)


def _of_folder(folder: Path) -> Format:
    here = {path.name for path in folder.iterdir()}
    if "wav.scp" in here:
        return "kaldi"
    if "dataset_dict.json" in here or {"dataset_info.json", "state.json"} <= here:
        return "huggingface"
    if lhotse_files(folder):
        return "lhotse"
    if locale_folders(folder):
        return "commonvoice"
    if any(any(folder.glob("*/" * depth + "*.trans.txt")) for depth in range(4)):
        return "librispeech"
    suffixes = {path.suffix.lower() for path in folder.rglob("*") if path.name[0] != "."}
    if ".parquet" in suffixes:
        return "huggingface" if "README.md" in here else "parquet"
    if ".tar" in suffixes and not suffixes & {*AUDIO_SUFFIXES, *TABLE_SUFFIXES}:
        return "webdataset"
    return "folder"


def _of_file(path: Path) -> Format:
    if path.name.endswith(".jsonl.gz"):
        return "lhotse"
    suffix = path.suffix.lower()
    if suffix in JSON_SUFFIXES:
        keys = {*Table(path, ImportSettings()).names}
        if keys >= {"recording", "supervisions"} or "sources" in keys or "tracks" in keys:
            return "lhotse"
        return "manifest" if keys >= {"id", "audio"} else "table"
    if suffix in TABLE_SUFFIXES:
        return "table"
    if suffix == ".tar":
        return "webdataset"
    if suffix == ".parquet":
        return "parquet"
    raise BadSource(
        f"{path} must be a folder with audio below it, or a file that ends in "
        f"{', '.join(TABLE_SUFFIXES)}, .json, .jsonl.gz, .tar or .parquet, found another file"
    )
