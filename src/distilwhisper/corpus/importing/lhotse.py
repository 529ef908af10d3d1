"""Lhotse's manifests: recordings and supervisions, or cuts, as JSON lines, gzipped or not.

Read here are the forms that a file of sound can be had from: recordings whose one source is a
file, untransformed, and cuts of one track. What does not fit is named and left out.

Source: lhotse-speech/lhotse: ``lhotse/audio/recording.py``, ``lhotse/supervision.py``,
``lhotse/cut/mono.py``.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from distilwhisper.corpus.importing.entries import (
    BadSource,
    Entries,
    Entry,
    Source,
    Unusable,
    known_language,
    located,
    others_of,
)
from distilwhisper.corpus.importing.tables import Row, json_rows
from distilwhisper.corpus.records import Utterance

_ENDINGS = (".jsonl", ".jsonl.gz")
# Of a supervision; what else it holds is kept as it is.
_READ = "id recording_id start duration channel text speaker language alignment custom".split()


def read_lhotse(source: Source) -> Entries:
    """Yield the utterances of a Lhotse manifest, or of all that lie in a folder.

    Every supervision is an utterance, and so is a recording or a cut that has none. Audio paths
    are relative to the manifest's folder, or else to the current one.

    Args:
        source: cuts, or a folder with cuts, or with recordings and supervisions whose names differ
            by that word alone.

    Raises:
        BadSource: there are no such files.
    """
    manifests = lhotse_files(source.path)
    if not manifests:
        raise BadSource(
            f"{source.path} must be or hold Lhotse's cuts or recordings (files called "
            "*cuts*.jsonl.gz or *recordings*.jsonl.gz, or without .gz), found none; of recordings "
            "name the folder"
        )
    for manifest in manifests:
        if "cuts" in manifest.name:
            cuts = json_rows(manifest, source, str(manifest))
        else:
            cuts = _as_cuts(manifest, source)
        for where, cut in cuts:
            with source.problem_at(where):
                try:
                    utterances = list(_utterances(cut, manifest.parent))
                except Unusable:
                    raise
                except (AttributeError, KeyError, TypeError, ValueError) as error:
                    raise Unusable(f"must be as Lhotse writes it, found: {error!r}") from error
                yield from (Entry(where, utterance) for utterance in utterances)


def lhotse_files(source: Path) -> list[Path]:
    """Return the manifests of cuts in a folder, or else those of recordings; or that one file."""
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    files = [path for path in files if path.name.endswith(_ENDINGS)]
    cuts = [path for path in files if "cuts" in path.name]
    return cuts or [path for path in files if "recordings" in path.name]


def _as_cuts(recordings: Path, source: Source) -> Iterator[tuple[str, Row]]:
    """Yield recordings as cuts: one for each supervision in the file that is called alike."""
    supervisions = recordings.with_name(recordings.name.replace("recordings", "supervisions"))
    parts: dict[str, list[tuple[str, Row]]] = {}
    if supervisions.exists():
        for where, part in json_rows(supervisions, source, str(supervisions)):
            parts.setdefault(str(part.get("recording_id")), []).append((where, part))
    for where, row in json_rows(recordings, source, str(recordings)):
        cut = {"id": row.get("id"), "type": "MonoCut", "recording": row, "start": 0.0}
        own = parts.pop(str(row.get("id")), None)
        if own is None:
            yield where, cut
        for place, part in own or ():
            yield place, {**cut, "id": part.get("id"), "supervisions": [part]}
    for name, lost in parts.items():
        message = f"no recording is called {name!r} in {recordings.name}"
        for where, _ in lost:
            source.add_problem(where, "transcript without audio", message)


def _utterances(row: Row, folder: Path) -> Iterator[Utterance]:
    """Yield the utterances of a cut.

    Raises:
        Unusable: it is a mix of several, or its recording is no file of sound.
        AttributeError, KeyError, TypeError, ValueError: it is no cut.
    """
    if row["type"] not in ("MonoCut", "MultiCut"):
        raise _unfit(f"a cut must be of one recording, found {row['id']!r}, a {row['type']}")
    if row.get("recording") is None:
        raise _unfit(f"a cut must have its recording, found {row['id']!r} with features alone")
    source = _source(row["recording"])
    audio = located(source["source"], folder)
    start_s = float(row["start"])
    duration_s = float(row["duration"]) if "duration" in row else None
    supervisions = row.get("supervisions") or []
    if not supervisions:
        yield Utterance(
            id=row["id"],
            audio=audio,
            start_s=start_s,
            duration_s=duration_s,
            recording=row["recording"]["id"],
            channel=_channel(row["id"], row.get("channel"), source["channels"]),
            extra=others_of(row.get("custom") or {}, ()),
        )
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
    """Return the one source of a recording: a file and the numbers of its channels.

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
    return sources[0]


def _channel(id_: str, channel: int | Sequence[int] | None, channels: Sequence[int]) -> int | None:
    """Return the one channel of a file that an utterance is in, counted from 0; None for all.

    Its own are as the manifest numbers them, None for all; the file's are in the file's order.

    Raises:
        Unusable: it is in several, and not in all.
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
