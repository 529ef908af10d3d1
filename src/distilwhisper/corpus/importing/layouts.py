"""Layouts with rules of their own, and which one a source has.

    DIRECTORY/wav.scp, text, segments, utt2spk, utt2lang         Kaldi: lines that begin with a key
    SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt                    LibriSpeech, beside its audio
    LOCALE/clips/, LOCALE/train.tsv, ...                         Common Voice
    cuts.jsonl.gz; recordings.jsonl.gz, supervisions.jsonl.gz    Lhotse

Of Kaldi's files only wav.scp must be there. Of Lhotse's manifests are read the forms that a file of
sound can be had from: recordings whose one source is a file, untransformed, and cuts of one track.

Source: lhotse-speech/lhotse: ``lhotse/audio/recording.py``, ``lhotse/supervision.py``,
``lhotse/cut/mono.py``.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, TypeAlias

from distilwhisper.corpus.importing.arrow import read_huggingface, read_parquet
from distilwhisper.corpus.importing.entries import (
    AUDIO_SUFFIXES,
    JSON_SUFFIXES,
    TABLE_SUFFIXES,
    BadSource,
    Entries,
    Entry,
    Row,
    Source,
    Table,
    Unusable,
    json_rows,
    known_language,
    located,
    nfc,
    others_of,
    read_table,
    utterance_from,
)
from distilwhisper.corpus.importing.folder import files_below, read_folder, read_webdataset
from distilwhisper.corpus.importing.settings import Format, ImportSettings
from distilwhisper.corpus.records import Utterance, audio_in, manifest_lines, utterance_of

# A manifest of ours, and Common Voice


def _read_manifest(source: Source) -> Entries:
    """Yield the utterances of a manifest of ours; its audio paths are relative to its folder."""
    folder = source.path.parent.absolute()
    for path, number, line in manifest_lines(source.path):
        with source.problem_at(where := f"{path}:{number}"):
            utterance = utterance_of(line)
            audio, language = audio_in(folder, utterance.audio), known_language(utterance.language)
            yield Entry(where, replace(utterance, audio=audio, language=language))


def _read_commonvoice(source: Source) -> Entries:
    """Yield the utterances of one split of Common Voice, locale by locale, in the tables' order."""
    split = source.settings.split or "train"
    locales = _locales(source.path)
    for folder in locales:
        if not (folder / f"{split}.tsv").is_file():
            held = ", ".join(sorted(path.stem for path in folder.glob("*.tsv")))
            raise BadSource(f"--split {split} must be a table in {folder}, found {held or 'none'}")
    for folder in locales:
        yield from read_table(source, folder / f"{split}.tsv", folder / "clips")


def _locales(source: Path) -> list[Path]:
    """Return Common Voice's folders, with clips/ and tables: the source, or those in it."""
    return [
        folder
        for folder in (source, *sorted(source.iterdir()))
        if (folder / "clips").is_dir() and any(folder.glob("*.tsv"))
    ]


# Kaldi and LibriSpeech

_Lines: TypeAlias = dict[str, tuple[str, str]]  # the place of a line and the rest of it, by its key


def _keyed_lines(source: Source, path: Path, name: str) -> _Lines:
    """Return the lines of a text file by their first word; none where there is no file."""
    lines: _Lines = {}
    raw = path.read_bytes().splitlines() if path.exists() else []
    for number, line in enumerate(raw, start=1):
        with source.problem_at(where := f"{name}:{number}", "must be UTF-8 text, found"):
            key, *words = line.decode("utf-8-sig").split() or [""]
            if nfc(key) in lines:
                raise Unusable(f"names {key} a second time")
            if key:
                lines[nfc(key)] = where, " ".join(words)
    return lines


def _add_without_audio(source: Source, lines: _Lines) -> None:
    """Make a problem of every line that is of no audio."""
    for key, (where, _) in lines.items():
        message = f"must name an utterance that has audio, found {key!r}"
        source.add_problem(where, "transcript without audio", message)


def _read_kaldi(source: Source) -> Entries:
    """Yield the utterances of a Kaldi data directory, in the order of segments, else of wav.scp.

    Paths are relative to the directory, or else to the current folder.
    """
    folder = source.path
    if not (folder / "wav.scp").is_file():
        raise BadSource(f"{folder} must be a Kaldi data directory, found no wav.scp in it")
    recordings, segments, *beside = (
        _keyed_lines(source, folder / name, f"{folder / name}")
        for name in ("wav.scp", "segments", "text", "utt2spk", "utt2lang")
    )
    has_segments = (folder / "segments").exists()
    for key, (where, value) in (segments if has_segments else recordings).items():
        text, speaker, language = (lines.pop(key, ("", ""))[1] for lines in beside)
        row = {"id": key, "text": text, "speaker": speaker, "language": language}
        with source.problem_at(where):
            if has_segments:
                row |= _segment(nfc(value))
            name = row.get("recording", key)
            if name not in recordings:
                raise Unusable(f"must name a recording of wav.scp, found {name!r}", "audio missing")
            audio = recordings[name][1]
            if not audio:
                raise Unusable(f"must name the audio of {name} in wav.scp")
            _check_is_file(audio)
            fields = {name: name for name in row}
            yield Entry(where, utterance_from(row, fields, key, located(audio, folder)))
    for lines in beside:
        _add_without_audio(source, lines)


def _segment(value: str) -> dict[str, str]:
    """Return recording and times; an end below zero is that of the recording."""
    if len(value.split()) != 3:
        raise Unusable(f"must be: utterance recording start end, in seconds; found {value!r}")
    name, start, end = value.split()
    return {"recording": name, "start": start, **({} if end.startswith("-") else {"end": end})}


def _check_is_file(audio: str) -> None:
    """Refuse an entry of wav.scp that is a command, or a part of an archive."""
    if audio.endswith("|") or audio == "-" or re.search(r":\d+$", audio):
        named = [word for word in audio.split() if Path(word).suffix.lower() in AUDIO_SUFFIXES]
        way_out = "write the sound out and name the file"
        if len(named) == 1:
            way_out = f"name {named[0]} itself, if the command does no more than decode it"
        must = "must be a file of sound, neither a command nor a part of an archive"
        raise Unusable(f"{must}, found {audio!r}; {way_out}", "unsupported")


def _read_librispeech(source: Source) -> Entries:
    """Yield the utterances of a folder of LibriSpeech, chapter by chapter.

    Speaker and recording are those of the path, and so is the source: the folder above the
    speaker's, if it is not the source itself. Audio without a line has no text.
    """
    paths = sorted(map(PurePosixPath, files_below(source)), key=lambda path: (path.parent, path))
    for folder, in_folder in groupby(paths, key=attrgetter("parent")):
        chapter_files = [*in_folder]
        lines: _Lines = {}
        for path in chapter_files:
            if path.name.endswith(".trans.txt"):
                lines |= _keyed_lines(source, source.path / path, str(path))
        speaker, chapter = (source.path.absolute() / folder).parts[-2:]
        for path in chapter_files:
            if path.suffix.lower() not in AUDIO_SUFFIXES:
                continue
            _, text = lines.pop(nfc(path.stem), ("", ""))
            utterance = Utterance(
                id=path.stem,
                audio=f"{source.path.absolute()}/{path}",
                text=text or None,
                speaker=speaker,
                recording=f"{speaker}-{chapter}",
                source="/".join(folder.parts[:-2]) or None,
            )
            yield Entry(str(path), utterance)
        _add_without_audio(source, lines)


# Lhotse

# Of a supervision; what else it holds is kept as it is.
_READ = "id recording_id start duration channel text speaker language alignment custom".split()


def _read_lhotse(source: Source) -> Entries:
    """Yield the utterances of a Lhotse manifest, or of all that lie in a folder.

    Every supervision is an utterance, and so is a recording or a cut that has none. Audio paths
    are relative to the manifest's folder, or else to the current one. Recordings and supervisions
    are files whose names differ by that word alone.
    """
    manifests = _lhotse_files(source.path)
    if not manifests:
        raise BadSource(
            f"{source.path} must be or hold Lhotse's cuts or recordings (*cuts*.jsonl.gz or "
            "*recordings*.jsonl.gz, or without .gz), found none; of recordings name the folder"
        )
    must = "must be as Lhotse writes it, which fails at"
    errors = AttributeError, KeyError, TypeError, ValueError
    for manifest in manifests:
        read = json_rows if "cuts" in manifest.name else _as_cuts
        for where, cut in read(manifest, source):
            with source.problem_at(where, must, errors=errors):
                utterances = list(_utterances(cut, manifest.parent))
                yield from (Entry(where, utterance) for utterance in utterances)


def _lhotse_files(source: Path) -> list[Path]:
    """Return the manifests of cuts in a folder, or else those of recordings; or that one file."""
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    files = [path for path in files if path.name.endswith((".jsonl", ".jsonl.gz"))]
    cuts = [path for path in files if "cuts" in path.name]
    return cuts or [path for path in files if "recordings" in path.name]


def _as_cuts(recordings: Path, source: Source) -> Iterator[tuple[str, Row]]:
    """Yield recordings as cuts: one for each supervision in the file that is called alike."""
    supervisions = recordings.with_name(recordings.name.replace("recordings", "supervisions"))
    parts: dict[str, list[tuple[str, Row]]] = {}
    for where, part in json_rows(supervisions, source) if supervisions.exists() else ():
        parts.setdefault(str(part.get("recording_id")), []).append((where, part))
    for where, row in json_rows(recordings, source):
        cut = {"id": row.get("id"), "type": "MonoCut", "recording": row, "start": 0.0}
        own = parts.pop(str(row.get("id")), None)
        if own is None:
            yield where, cut
        for place, part in own or ():
            yield place, {**cut, "id": part.get("id"), "supervisions": [part]}
    for name, lost in parts.items():
        for where, _ in lost:
            message = f"no recording is called {name!r} in {recordings.name}"
            source.add_problem(where, "transcript without audio", message)


def _utterances(row: Row, folder: Path) -> Iterator[Utterance]:
    """Yield the utterances of a cut; where it is none, a KeyError, TypeError or the like."""
    id_, recording = row["id"], row.get("recording")
    if row["type"] not in ("MonoCut", "MultiCut"):
        raise _unfit(f"a cut must be of one recording, found {id_!r}, a {row['type']}")
    if recording is None:
        raise _unfit(f"a cut must have its recording, found {id_!r} with features alone")
    source = _source(recording)
    audio = located(source["source"], folder)
    start_s = float(row["start"])
    duration_s = float(row["duration"]) if "duration" in row else None
    supervisions = row.get("supervisions") or []
    if not supervisions:
        channel = _channel(id_, row.get("channel"), source["channels"])
        extra = others_of(row.get("custom") or {}, ())
        whole = Utterance(id_, audio, start_s, duration_s, recording=recording["id"])
        yield replace(whole, channel=channel, extra=extra)
    for part in supervisions:
        id_ = row["id"] if len(supervisions) == 1 else part["id"]
        # It may reach out of its cut.
        begin_s = max(start_s + float(part["start"]), start_s)
        end_s = start_s + float(part["start"]) + float(part["duration"])
        end_s = end_s if duration_s is None else min(end_s, start_s + duration_s)
        if not begin_s < end_s < float("inf"):
            raise ValueError(f"{id_!r} lasts from {begin_s} to {end_s} s")
        yield Utterance(
            id=id_,
            audio=audio,
            start_s=round(begin_s, 6),
            duration_s=round(end_s - begin_s, 6),
            text=" ".join((part.get("text") or "").split()) or None,
            speaker=part.get("speaker"),
            recording=part["recording_id"],
            language=known_language(part.get("language")),
            channel=_channel(id_, part.get("channel", 0), source["channels"]),
            extra=others_of({**(part.get("custom") or {}), **part}, _READ),
        )


def _source(recording: Row) -> Row:
    """Return the one source of a recording: a file and the numbers of its channels."""
    kinds = [source["type"] for source in recording["sources"]]
    changes = [str(change.get("name")) for change in recording.get("transforms") or ()]
    if kinds != ["file"] or changes:
        raise _unfit(
            f"recording {recording['id']!r} must be one file as it is, found "
            f"{', '.join(kinds + changes) or 'none'}; save it as a file of its own"
        )
    return recording["sources"][0]


def _channel(id_: str, channel: int | Sequence[int] | None, channels: Sequence[int]) -> int | None:
    """Return the one channel of a file that an utterance is in, counted from 0; None for all.

    Its own are as the manifest numbers them, None for all; the file's are in the file's order.
    """
    wanted = {channel} if isinstance(channel, int) else set(channel or channels)
    if wanted == {*channels}:
        return None
    if len(wanted) > 1 or not wanted <= {*channels}:
        raise _unfit(
            f"{id_!r} must be in one channel of its file or in all, found {sorted(wanted)} of "
            f"{sorted(channels)}; write channels to files of their own"
        )
    return channels.index(wanted.pop())


def _unfit(message: str) -> Unusable:
    return Unusable(message, "unsupported")


# All layouts


class Layout(NamedTuple):
    """A way in which people store speech."""

    description: str  # for people
    read: Callable[[Source], Entries]  # yields the utterances
    kind: Literal["file", "folder", "file or folder"] = "file or folder"  # what a source must be
    options: tuple[str, ...] = ()  # settings that the reader has a use for


LAYOUTS: Mapping[Format, Layout] = {
    "folder": Layout("a folder of audio", read_folder, "folder", ("column",)),
    "table": Layout("a table that names audio", read_table, "file", ("column",)),
    "kaldi": Layout("a Kaldi data directory", _read_kaldi, "folder"),
    "librispeech": Layout("LibriSpeech", _read_librispeech, "folder"),
    "commonvoice": Layout("Common Voice", _read_commonvoice, "folder", ("split", "column")),
    "huggingface": Layout(
        "a Hugging Face dataset", read_huggingface, options=("config", "split", "column")
    ),
    "lhotse": Layout("Lhotse manifests", _read_lhotse),
    "webdataset": Layout("WebDataset shards", read_webdataset, options=("column",)),
    "parquet": Layout("Parquet files", read_parquet, options=("split", "column")),
    "manifest": Layout("a manifest", _read_manifest, "file"),
}


def read(source: Source, layout: Format) -> Entries:
    """Yield the utterances of a source.

    Raises:
        BadSource: it is not what it is read as, or lacks what the settings name; or a setting is of
            no use there.
        UnreadableSource: a dataset is not there, or cannot be read to its end.
        MissingExtra: the package that reads it is not installed.
    """
    path, form = source.path, LAYOUTS[layout]
    for option in ("config", "split", "column"):
        if getattr(source.settings, option) and option not in form.options:
            readers = sorted(name for name, of in LAYOUTS.items() if option in of.options)
            raise BadSource(
                f"--{option} is for {', '.join(readers)}, found {form.description}: leave it out, "
                "or choose another --format"
            )
    is_kind = {"file": path.is_file, "folder": path.is_dir, "file or folder": path.exists}
    if layout != "huggingface" and not is_kind[form.kind]():
        raise BadSource(f"{path} must be {form.description}, found no {form.kind} there")
    return form.read(source)


def detect(source: str) -> Format:
    """Return the layout of a source.

    What is no file or folder nor a hub id, or a file of an unknown kind, is a BadSource.
    """
    path = Path(source)
    found: Format | None = None
    if path.is_dir():
        found = _of_folder(path)
    elif path.is_file():
        found = _of_file(path)
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not path.suffix:
        found = "huggingface"
    if found is None:
        raise BadSource(
            f"{source} must be a folder with audio below it, a file that ends in "
            f"{', '.join(TABLE_SUFFIXES)}, .json, .jsonl.gz, .tar or .parquet, or a dataset "
            f"OWNER/NAME of the hub, found {'another file' if path.exists() else 'nothing there'}"
        )
    return found


def _of_folder(folder: Path) -> Format:
    here = {path.name for path in folder.iterdir()}
    if "wav.scp" in here:
        return "kaldi"
    if "dataset_dict.json" in here or {"dataset_info.json", "state.json"} <= here:
        return "huggingface"
    if _lhotse_files(folder):
        return "lhotse"
    if _locales(folder):
        return "commonvoice"
    if any(any(folder.glob("*/" * depth + "*.trans.txt")) for depth in range(4)):
        return "librispeech"
    suffixes = {path.suffix.lower() for path in folder.rglob("*") if path.name[0] != "."}
    if ".parquet" in suffixes:
        return "huggingface" if "README.md" in here else "parquet"
    if ".tar" in suffixes and not suffixes & {*AUDIO_SUFFIXES, *TABLE_SUFFIXES}:
        return "webdataset"
    return "folder"


def _of_file(path: Path) -> Format | None:
    suffix = path.suffix.lower()
    if suffix in JSON_SUFFIXES:
        keys = {*Table(path, ImportSettings()).names}
        if keys >= {"recording", "supervisions"} or "sources" in keys or "tracks" in keys:
            return "lhotse"
        return "manifest" if keys >= {"id", "audio"} else "table"
    if suffix in TABLE_SUFFIXES:
        return "table"
    others: dict[str, Format] = {".tar": "webdataset", ".parquet": "parquet"}
    return "lhotse" if path.name.endswith(".jsonl.gz") else others.get(suffix)
