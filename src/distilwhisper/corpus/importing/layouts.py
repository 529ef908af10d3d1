"""What a source is, by what lies there, and who reads it."""

import re
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

from distilwhisper.corpus.importing.commonvoice import locale_folders, read_commonvoice
from distilwhisper.corpus.importing.entries import AUDIO_SUFFIXES, BadSource, Found
from distilwhisper.corpus.importing.folder import read_folder
from distilwhisper.corpus.importing.huggingface import read_huggingface
from distilwhisper.corpus.importing.kaldi import read_kaldi
from distilwhisper.corpus.importing.lhotse import lhotse_files, read_lhotse
from distilwhisper.corpus.importing.librispeech import read_librispeech
from distilwhisper.corpus.importing.manifests import read_manifest_lines
from distilwhisper.corpus.importing.parquet import read_parquet
from distilwhisper.corpus.importing.settings import Format, ImportSettings
from distilwhisper.corpus.importing.tables import (
    JSON_SUFFIXES,
    TABLE_SUFFIXES,
    table_entries,
    table_names,
)
from distilwhisper.corpus.importing.webdataset import read_webdataset

DESCRIPTIONS: Mapping[Format, str] = {
    "folder": "a folder of audio",
    "table": "a table that names audio",
    "kaldi": "a Kaldi data directory",
    "librispeech": "LibriSpeech's layout",
    "commonvoice": "Common Voice's layout",
    "huggingface": "a Hugging Face dataset",
    "lhotse": "Lhotse manifests",
    "webdataset": "WebDataset shards",
    "parquet": "Parquet files",
    "manifest": "a manifest",
}

# Who can do something with what is asked.
OPTIONS: Mapping[str, frozenset[Format]] = {
    "config": frozenset({"huggingface"}),
    "split": frozenset({"commonvoice", "huggingface", "parquet"}),
    "column": frozenset({"commonvoice", "folder", "huggingface", "parquet", "table", "webdataset"}),
}
_FILES: frozenset[Format] = frozenset({"table", "manifest"})
_FOLDERS: frozenset[Format] = frozenset({"commonvoice", "folder", "kaldi", "librispeech"})

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def detect(source: str) -> Format:
    """Return what a source is.

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


def read(source: str, layout: Format, settings: ImportSettings, *, out: Path) -> Found:
    """Yield the utterances of a source.

    Args:
        source: as the user gave it.
        layout: what it is read as.
        settings: what its reader may need.
        out: the manifest to be.

    Raises:
        BadSource: it is not what it is read as, or the settings ask for what is of no use there.
    """
    path = Path(source)
    for option, readers in OPTIONS.items():
        if getattr(settings, option) and layout not in readers:
            raise BadSource(
                f"--{option} is for {', '.join(sorted(readers))}, found {DESCRIPTIONS[layout]}: "
                "leave it out, or choose another --format"
            )
    if layout != "huggingface" and not path.exists():
        raise BadSource(f"{source} must be {DESCRIPTIONS[layout]}, found nothing there")
    if (layout in _FILES and not path.is_file()) or (layout in _FOLDERS and not path.is_dir()):
        kind = "file" if layout in _FILES else "folder"
        raise BadSource(f"{source} must be {DESCRIPTIONS[layout]}, found no {kind}")
    readers_of: Mapping[Format, Found] = {
        "folder": read_folder(path, settings, out=out),
        "table": table_entries(path, path.parent, settings),
        "kaldi": read_kaldi(path),
        "librispeech": read_librispeech(path),
        "commonvoice": read_commonvoice(path, settings),
        "huggingface": read_huggingface(source, settings),
        "lhotse": read_lhotse(path),
        "webdataset": read_webdataset(path, settings),
        "parquet": read_parquet(path, settings),
        "manifest": read_manifest_lines(path),
    }
    return readers_of[layout]  # generators: the others have not begun


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
    depths = (folder.glob("*/" * depth + "*.trans.txt") for depth in range(4))
    if any(True for _ in chain.from_iterable(depths)):
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
        keys = {*table_names(path, ImportSettings())}
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
