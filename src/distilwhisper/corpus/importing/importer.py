"""Other people's data to manifests: read, opened, stored where it must be, cut, counted."""

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache, partial
from heapq import nsmallest
from itertools import islice
from operator import itemgetter
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeVar

from distilwhisper.corpus.importing.entries import BadSource, Entries, Entry, Problem
from distilwhisper.corpus.importing.layouts import LAYOUTS, detect, read
from distilwhisper.corpus.importing.settings import ImportSettings
from distilwhisper.corpus.importing.shards import stored
from distilwhisper.corpus.importing.summary import ImportSummary
from distilwhisper.corpus.records import Utterance, audio_from, manifest_row
from distilwhisper.corpus.store import write_jsonl
from distilwhisper.languages import language_code
from distilwhisper.progress import SECONDS_BETWEEN_LINES, say
from distilwhisper.run.stages import fingerprint
from distilwhisper.speech.audio import LENGTH_TOLERANCE_S, AudioFacts, probe_audio
from distilwhisper.speech.sources import CorruptAudio, NamedBytes
from distilwhisper.speech.units import WINDOW_S

N_THREADS = 8  # they wait for disks more than they compute
N_AHEAD = 2 * N_THREADS
N_REMEMBERED = 4096  # files whose facts are kept, for the spans to come

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def import_data(
    source: str | PathLike[str], out: str | PathLike[str], settings: ImportSettings | None = None
) -> ImportSummary:
    """Make a manifest of data in any of the layouts that people have.

    The manifest appears whole, at the end. Audio stays where it is; only what lies in no file of
    its own (Parquet, Hugging Face) is stored, once, in ``NAME.audio/`` beside ``NAME.jsonl``.
    What could not be used is not in the manifest but in the summary, and listed in
    ``NAME.problems.jsonl``.

    Args:
        source: a folder or file, or the hub id of a dataset.
        out: the manifest, a .jsonl file; it replaces one that is there.
        settings: what the source is, and how to read it.

    Raises:
        BadSource: the source is not what it is taken for, or holds nothing.
        UnreadableSource: it cannot be read to its end.
        ValueError: ``out`` is no .jsonl file, or the source itself.
        MissingExtra: a package is missing that this source, or the cutting of it, needs.
        StoreError: the disk is full, or ``out`` cannot be written.
    """
    source, out, settings = fspath(source), Path(out), settings or ImportSettings()
    if out.suffix != ".jsonl":
        raise ValueError(f"a manifest must be a .jsonl file, found {out}")
    if out.resolve() == Path(source).resolve():
        raise ValueError(f"--out must not be the source, found {out} for both")
    layout = settings.format or detect(source)
    entries = read(source, layout, settings, out)
    if settings.format is None:
        say(f"data: {source} is taken for {LAYOUTS[layout].description}; --format names another")
    tally = ImportSummary()
    before = fingerprint(out) if out.is_file() else None
    write_jsonl(out, _rows(entries, source, out, settings, tally))
    if before not in (None, fingerprint(out)):
        say(f"data: {out} has changed: what was made of it before is of other data")
    listed = out.with_suffix(".problems.jsonl")
    listed.unlink(missing_ok=True)  # of an earlier import
    rows = [{"path": p.where, "kind": p.kind, "problem": p.message} for p in tally.problems]
    if rows:
        write_jsonl(listed, rows)
    return tally


def _rows(
    entries: Entries, source: str, out: Path, settings: ImportSettings, tally: ImportSummary
) -> Iterator[dict[str, Any]]:
    """Yield the lines of the manifest, and count all that goes by."""
    probe = lru_cache(N_REMEMBERED)(probe_audio)
    if settings.cut is not None:
        from distilwhisper.speech.vad import load_silero

        load_silero()  # where it is missing, nothing is begun
    logged_at = time.monotonic()
    with ThreadPoolExecutor(N_THREADS) as pool:
        probed = _in_order(pool, lambda item: _probed(item, probe), _in_language(entries, settings))
        chosen = _chosen(probed, settings, tally)
        in_files = stored(chosen, out.with_suffix(".audio"))
        for item, pieces in _in_order(pool, _pieces if settings.cut else _whole, in_files):
            if isinstance(item, Problem):
                tally.problems.append(item)
                continue
            if pieces != [item.utterance]:
                tally.n_cut += 1
                tally.n_texts_lost += item.utterance.text is not None
            for utterance in pieces:
                row = _row(item.where, utterance, out, tally)
                if isinstance(row, Problem):
                    tally.problems.append(row)
                else:
                    assert item.facts is not None
                    tally.add(utterance, item.facts)
                    yield row
            if time.monotonic() - logged_at >= SECONDS_BETWEEN_LINES:
                logged_at = time.monotonic()
                say(f"data: {tally.n_utterances} utterances, {tally.seconds / 3600:.1f} h so far")
    if not tally.n_utterances and not tally.problems:
        n_longer = tally.n_left_out
        longer = f" but {n_longer} that are longer than --max-seconds" if n_longer else ""
        raise BadSource(f"{source} must hold at least one utterance, found none{longer}")


def _in_language(entries: Entries, settings: ImportSettings) -> Entries:
    """Yield entries, in the settings' language where they name none."""
    code = None if settings.language is None else language_code(settings.language)
    for item in entries:
        if isinstance(item, Entry) and item.utterance.language is None:
            item = item._replace(utterance=replace(item.utterance, language=code))
        yield item


def _probed(item: Entry | Problem, probe: Callable[[str], AudioFacts]) -> Entry | Problem:
    """Open an entry's sound, and see that the entry lies in it."""
    if isinstance(item, Problem):
        return item
    audio, utterance = item.utterance.audio, item.utterance
    try:
        facts = probe(audio) if item.data is None else probe_audio(NamedBytes(item.data, audio))
    except FileNotFoundError:
        return Problem(item.where, "audio missing", f"its audio must be a file, found no {audio}")
    except (CorruptAudio, OSError, ValueError) as error:  # a path can be none: ValueError
        return Problem(item.where, "audio unreadable", str(error))
    if utterance.channel is not None and utterance.channel >= facts.n_channels:
        must = f"must have a channel {utterance.channel}, counted from 0, found {facts.n_channels}"
        return Problem(item.where, "unsupported", f"{audio}: {must}")
    left_s = round(facts.duration_s - utterance.start_s, 3)
    duration_s = left_s if utterance.duration_s is None else utterance.duration_s
    if left_s <= 0 or duration_s > left_s + LENGTH_TOLERANCE_S:
        until = (
            "the end" if utterance.duration_s is None else f"{utterance.start_s + duration_s:.3f}"
        )
        message = (
            f"{audio}: must last at least a millisecond from {utterance.start_s:.3f} s, and to "
            f"{until} s, found a sound of {facts.duration_s:.3f} s"
        )
        return Problem(item.where, "span outside the sound", message)
    return item._replace(utterance=replace(utterance, duration_s=duration_s), facts=facts)


def _chosen(
    probed: Iterator[Entry | Problem], settings: ImportSettings, tally: ImportSummary
) -> Iterator[Entry | Problem]:
    """Leave out what is too long, and all but the first or a sample, as the settings ask."""
    probed = (item for item in probed if not _is_left_out(item, settings, tally))
    if settings.first is None and settings.sample is None:
        yield from probed
        return
    usable = enumerate(_without_problems(probed, tally))
    if settings.sample is None:
        drawn: Iterable[tuple[int, Entry]] = islice(usable, settings.first)
    else:
        key = partial(_draw, seed=settings.seed or 0)
        drawn = sorted(nsmallest(settings.sample, usable, key=key), key=itemgetter(0))
    yield from (item for _, item in drawn)


def _is_left_out(item: Entry | Problem, settings: ImportSettings, tally: ImportSummary) -> bool:
    if settings.max_seconds is None or isinstance(item, Problem):
        return False
    is_longer = item.length_s > settings.max_seconds
    tally.n_left_out += is_longer
    return is_longer


def _without_problems(probed: Iterable[Entry | Problem], tally: ImportSummary) -> Iterator[Entry]:
    for item in probed:
        if isinstance(item, Problem):
            tally.problems.append(item)
        else:
            yield item


def _draw(placed: tuple[int, Entry], *, seed: int) -> bytes:
    """Return what an utterance is drawn by: the same wherever it lies in the source."""
    what = f"{seed}/{placed[1].utterance.id}"
    return hashlib.blake2b(what.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _pieces(item: Entry | Problem) -> tuple[Entry | Problem, list[Utterance]]:
    """Cut what is too long for a window."""
    # Here, as it needs torch: manifests are made without it.
    from distilwhisper.corpus.importing.cutting import cut_at_pauses

    if isinstance(item, Problem) or item.length_s <= WINDOW_S:
        return _whole(item)
    try:
        pieces = cut_at_pauses(item.utterance)
    except (CorruptAudio, OSError) as error:
        return Problem(item.where, "audio unreadable", str(error)), []
    if not pieces:
        message = f"{item.utterance.audio}: nobody speaks in it"
        return Problem(item.where, "no speech", message), []
    return item, pieces


def _whole(item: Entry | Problem) -> tuple[Entry | Problem, list[Utterance]]:
    return item, [] if isinstance(item, Problem) else [item.utterance]


def _row(
    where: str, utterance: Utterance, out: Path, tally: ImportSummary
) -> dict[str, Any] | Problem:
    """Return an utterance as a line of the manifest, or why it cannot be one."""
    try:
        audio = audio_from(out.parent, utterance.audio)
        row = manifest_row(replace(utterance, audio=audio))
        json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except ValueError as error:  # infinity, or half a character, which not all JSON can hold
        return Problem(where, "bad line", f"no line of a manifest can hold it: {error}")
    if tally.knows(utterance.id):
        message = f"the id must be new, found {utterance.id!r} a second time"
        return Problem(where, "id taken", message)
    return row


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[_Item], _Result], items: Iterable[_Item]
) -> Iterator[_Result]:
    """Apply a function to items some ahead, and yield what comes out in their order."""
    pending: deque[Future[_Result]] = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) >= N_AHEAD:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
