"""Lhotse's manifests: recordings and supervisions, or cuts, as JSON lines, gzipped or not.

Read here are the forms that a file of sound can be had from: recordings whose one source is a
file, untransformed, and cuts of one track. What does not fit is named and left out.

Source: lhotse-speech/lhotse: ``lhotse/audio/recording.py``, ``lhotse/supervision.py``,
``lhotse/cut/mono.py``.
"""

import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from zlib import error as ZlibError

from distilwhisper.corpus.importing.entries import (
    BadSource,
    Found,
    Unusable,
    entries_of,
    known_language,
    located,
    others_of,
    problem_of,
)
from distilwhisper.corpus.records import Utterance

Row: TypeAlias = Mapping[str, Any]

_ENDINGS = (".jsonl", ".jsonl.gz")
# Of a supervision; what else it holds is kept as it is.
_READ = frozenset(
    "id recording_id start duration channel text speaker language alignment custom".split()
)


def read_lhotse(source: Path) -> Found:
    """Yield the utterances of a Lhotse manifest, or of all that lie in a folder.

    Every supervision is an utterance, and so is a recording or a cut that has none. Audio paths
    are relative to the manifest's folder, or else to the current one.

    Args:
        source: cuts, or a folder with cuts, or with recordings and supervisions whose names differ
            by that word alone.

    Raises:
        BadSource: there are no such files.
    """
    manifests = lhotse_files(source)
    if not manifests:
        raise BadSource(
            f"{source} must be or hold Lhotse's cuts or recordings (files called *cuts*.jsonl.gz "
            "or *recordings*.jsonl.gz, or without .gz), found none; of recordings name the folder"
        )
    for manifest in manifests:
        if "cuts" in manifest.name:
            cuts_of = _checked(partial(_cut, folder=manifest.parent))
            yield from entries_of(_rows(manifest), cuts_of)
        else:
            yield from _recordings(manifest)


def lhotse_files(source: Path) -> list[Path]:
    """Return cuts and recordings, of a folder or that one file; where there are cuts only these."""
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    files = [path for path in files if path.name.endswith(_ENDINGS)]
    cuts = [path for path in files if "cuts" in path.name]
    return cuts or [path for path in files if "recordings" in path.name]


class _Audio(NamedTuple):
    path: str
    channels: tuple[int, ...]  # their numbers in the manifest, in the order of the file


def _recordings(manifest: Path) -> Found:
    audio: dict[str, _Audio | Unusable] = {}
    silent: dict[str, str] = {}  # places of recordings that no supervision has spoken of yet

    def supervised(row: Row) -> list[Utterance]:
        silent.pop(row["recording_id"], None)
        known = audio.get(row["recording_id"])
        if known is None:
            raise Unusable(
                f"no recording is called {row['recording_id']!r} in {manifest.name}",
                "transcript without audio",
            )
        return [_supervised(row, row["id"], known, start_s=0.0, end_s=None)]

    for where, row in _rows(manifest):
        if isinstance(row, Unusable):
            yield problem_of(where, row)
            continue
        try:
            audio[row["id"]] = _audio(row, manifest.parent)
        except Unusable as unfit:
            audio[row["id"]] = unfit
        except (KeyError, TypeError, ValueError) as error:
            yield problem_of(where, _not_of_lhotse(error))
            continue
        silent[row["id"]] = where
    supervisions = manifest.with_name(manifest.name.replace("recordings", "supervisions"))
    if supervisions.exists():
        yield from entries_of(_rows(supervisions), _checked(supervised))
    yield from entries_of(
        ((where, id_) for id_, where in silent.items()),
        lambda id_: [Utterance(id=id_, audio=_fit(audio[id_]).path)],
    )


def _checked(made: Callable[[Row], Iterable[Utterance]]) -> Callable[[Row], list[Utterance]]:
    """Return the function whose errors say that a row is not as Lhotse writes it."""

    def checked(row: Row) -> list[Utterance]:
        try:
            return list(made(row))
        except Unusable:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise _not_of_lhotse(error) from error

    return checked


def _cut(row: Row, folder: Path) -> Iterator[Utterance]:
    """Yield what is said in a cut: a span of one recording.

    Raises:
        Unusable: it is a mix of several, or its recording is no file of sound.
        KeyError, TypeError, ValueError: it is no cut.
    """
    if row["type"] not in ("MonoCut", "MultiCut"):
        raise _unfit(f"a cut must be of one recording, found {row['id']!r}, a {row['type']}")
    if row.get("recording") is None:
        raise _unfit(f"a cut must have its recording, found {row['id']!r} with features alone")
    audio = _audio(row["recording"], folder)
    start_s, length_s = float(row["start"]), float(row["duration"])
    supervisions = row.get("supervisions") or []
    if not supervisions:
        yield Utterance(
            id=row["id"],
            audio=audio.path,
            start_s=start_s,
            duration_s=length_s,
            recording=row["recording"]["id"],
            channel=_channel(row["id"], row.get("channel"), audio),
            extra=others_of(row.get("custom") or {}, ()),
        )
    for said in supervisions:
        id_ = row["id"] if len(supervisions) == 1 else said["id"]
        yield _supervised(said, id_, audio, start_s=start_s, end_s=start_s + length_s)


def _supervised(
    row: Row, id_: str, audio: _Audio | Unusable, *, start_s: float, end_s: float | None
) -> Utterance:
    """Return the utterance of a supervision.

    Args:
        row: the supervision; it may reach out of its cut.
        id_: of the utterance.
        audio: of its recording.
        start_s: of its cut, in the recording; 0 where there is no cut.
        end_s: of its cut; None where there is no cut.
    """
    audio = _fit(audio)
    begin_s = max(start_s + float(row["start"]), start_s)
    stop_s = start_s + float(row["start"]) + float(row["duration"])
    stop_s = stop_s if end_s is None else min(stop_s, end_s)
    if not begin_s < stop_s < float("inf"):
        raise ValueError(f"{id_!r} lasts from {begin_s} to {stop_s} s")
    return Utterance(
        id=id_,
        audio=audio.path,
        start_s=round(begin_s, 6),
        duration_s=round(stop_s - begin_s, 6),
        text=" ".join((row.get("text") or "").split()) or None,
        speaker=row.get("speaker"),
        recording=row["recording_id"],
        language=known_language(row.get("language")),
        channel=_channel(id_, row.get("channel", 0), audio),
        extra=others_of({**(row.get("custom") or {}), **row}, _READ),
    )


def _audio(recording: Row, folder: Path) -> _Audio:
    """Return the one file of a recording.

    Raises:
        Unusable: it has several, or none, or what is meant is a change of it.
    """
    sources: Sequence[Row] = recording["sources"]
    kinds = [source["type"] for source in sources]
    if kinds != ["file"]:
        raise _unfit(
            f"recording {recording['id']!r} must have one source, a file, found "
            f"{', '.join(kinds) or 'none'}; save it as a file of its own"
        )
    if recording.get("transforms"):
        names = [str(change.get("name")) for change in recording["transforms"]]
        raise _unfit(
            f"recording {recording['id']!r} must be as its file is, found {', '.join(names)}; "
            "import what it was made of, or save the audio"
        )
    path = located(sources[0]["source"], folder)
    return _Audio(path, tuple(sources[0]["channels"]))


def _channel(id_: str, channel: int | Sequence[int] | None, audio: _Audio) -> int | None:
    """Return the one channel of a file that an utterance is in, counted from 0; None for all.

    Raises:
        Unusable: it is in several, and not in all.
    """
    wanted = {channel} if isinstance(channel, int) else set(channel or audio.channels)
    if wanted == {*audio.channels}:
        return None
    if len(wanted) > 1 or not wanted <= {*audio.channels}:
        raise _unfit(
            f"{id_!r} must be in one channel of its file or in all, found {sorted(wanted)} of "
            f"{sorted(audio.channels)}; write channels to files of their own"
        )
    return audio.channels.index(wanted.pop())


def _fit(audio: _Audio | Unusable) -> _Audio:
    if isinstance(audio, Unusable):
        raise audio
    return audio


def _rows(manifest: Path) -> Iterator[tuple[str, Row | Unusable]]:
    """Yield where each line is, and what it holds or what is wrong with it."""
    number = 0
    with gzip.open(manifest) if manifest.suffix == ".gz" else manifest.open("rb") as file:
        try:
            for number, line in enumerate(file, start=1):
                where = f"{manifest}:{number}"
                try:
                    row = json.loads(line)
                except ValueError as error:
                    yield where, Unusable(f"must be one JSON object, {error}")
                    continue
                is_object = isinstance(row, dict)
                yield where, row if is_object else Unusable("must be one JSON object")
        except (OSError, EOFError, ZlibError) as error:
            unread = Unusable(f"cannot be read on from here: {error}", "unreadable")
            yield f"{manifest}:{number + 1}", unread


def _not_of_lhotse(error: Exception) -> Unusable:
    return Unusable(f"must be as Lhotse writes it, found: {error!r}")


def _unfit(message: str) -> Unusable:
    """Return why what a manifest describes is no file of sound, or not one that can be read so."""
    return Unusable(message, "unsupported")
