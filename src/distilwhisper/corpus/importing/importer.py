"""Speech in any layout to a manifest: read, opened, stored where needed, cut, counted."""

import hashlib
import io
import json
import math
import posixpath
import re
import tarfile
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from heapq import nsmallest
from itertools import chain, islice
from os import PathLike, fspath
from pathlib import Path
from statistics import median
from typing import Any

from distilwhisper.corpus.ahead import in_order
from distilwhisper.corpus.importing.entries import (
    BadSource,
    Entries,
    Entry,
    Problem,
    Source,
    Unusable,
    span_id,
)
from distilwhisper.corpus.importing.folder import files_below
from distilwhisper.corpus.importing.layouts import LAYOUTS, detect, read
from distilwhisper.corpus.importing.settings import ImportSettings
from distilwhisper.corpus.records import Utterance, audio_from, manifest_row, read_manifest
from distilwhisper.corpus.store import write_jsonl
from distilwhisper.files import replacing, sync
from distilwhisper.languages import language_code
from distilwhisper.progress import SECONDS_BETWEEN_LINES, say
from distilwhisper.run.locks import lock_folder
from distilwhisper.run.stages import fingerprint
from distilwhisper.speech.audio import (
    LENGTH_TOLERANCE_S,
    AudioFacts,
    Choice,
    probe_audio,
    stream_samples,
)
from distilwhisper.speech.sources import NamedBytes, digest_of
from distilwhisper.speech.units import WINDOW_S, samples_to_seconds

# Of files that people correct by hand; Kaldi's have no ending. They are read whole.
_TRANSCRIPTS = frozenset((".csv", ".json", ".jsonl", ".scp", ".tsv", ".txt", ""))
N_REMEMBERED = 4096  # files whose facts are kept, for the spans to come


def import_data(
    source: str | PathLike[str], out: str | PathLike[str], settings: ImportSettings | None = None
) -> "ImportSummary":
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
    origin = Source(Path(source), settings, out)
    entries = read(origin, layout)
    if settings.format is None:
        say(f"data: {source} is taken for {LAYOUTS[layout].description}; --format names another")
    tally = ImportSummary(problems=origin.problems)
    before = fingerprint(out) if out.is_file() else None
    write_jsonl(out, _rows(entries, origin, tally))
    if before not in (None, fingerprint(out)):
        say(f"data: {out} has changed: what was made of it before is of other data")
    problem_list = out.with_suffix(".problems.jsonl")
    problem_list.unlink(missing_ok=True)  # of an earlier import
    rows = [{"path": p.where, "kind": p.kind, "problem": p.message} for p in tally.problems]
    if rows:
        write_jsonl(problem_list, rows)
    return tally


def source_fingerprints(source: Path, *, skip: Path) -> dict[str, str]:
    """Return fingerprints of a source, by name, for a repeated run to compare.

    A source is a folder, less the one to skip, that of the run; or a manifest with the files that
    it names. Of sound, which may be large, the size counts, and what it holds at its beginning,
    middle and end; of transcripts all that they hold. A copy is the same source.
    """
    if source.is_dir():
        below = (source / name for name in files_below(Source(source, ImportSettings(), skip)))
        own = skip.resolve()
        # A link may lead nowhere, or to itself.
        files = [path for path in below if path.is_file() and own not in path.resolve().parents]
        texts = [path for path in files if path.suffix.lower() in _TRANSCRIPTS]
    else:
        manifest = read_manifest(source)
        audio = {manifest.audio_source(u).partition(".tar#") for u in manifest.utterances}
        named = {Path(path + (sign and ".tar")) for path, sign, _ in audio}
        files, texts = [source, *(path for path in named if path.is_file())], [source]

    def facts(path: Path) -> str:
        with path.open("rb") as file:
            return f"{path} {digest_of(file).hex()}"

    return {
        "source": str(source.resolve()),
        "number of files in the source": str(len(files)),
        "transcripts in the source": _digest(f"{p} {fingerprint(p)}" for p in texts),
        "sound in the source": _digest(in_order(facts, {*files} - {*texts})),
    }


def _digest(lines: Iterable[str]) -> str:
    whole = "\n".join(sorted(lines)).encode("utf-8", "surrogateescape")
    return hashlib.sha256(whole).hexdigest()


def _rows(entries: Entries, source: Source, tally: "ImportSummary") -> Iterator[dict[str, Any]]:
    """Yield the lines of the manifest, and count all that goes by."""
    settings, out = source.settings, source.out
    if settings.cut is not None:
        from distilwhisper.speech.vad import load_silero  # here: all else needs no torch

        load_silero()  # where it is missing, nothing is begun
    language = None if settings.language is None else language_code(settings.language)
    probe = partial(_probed, probe=lru_cache(N_REMEMBERED)(probe_audio), language=language)
    probed = (entry for _, entry in source.usable(probe, entries))
    in_files = stored(_chosen(probed, settings, tally), out.with_suffix(".audio"))
    whole = ((entry, [entry.utterance]) for entry in in_files)
    logged_at = time.monotonic()
    for entry, pieces in source.usable(_cut_at_pauses, in_files) if settings.cut else whole:
        assert entry.facts is not None
        if pieces != [entry.utterance]:
            tally.n_cut += 1
            tally.n_texts_lost += entry.utterance.text is not None
        for utterance in pieces:
            with source.problem_at(entry.where):
                row = _row(utterance, out, tally)
                tally.add(utterance, entry.facts)
                yield row
        if time.monotonic() - logged_at >= SECONDS_BETWEEN_LINES:
            logged_at = time.monotonic()
            say(f"data: {tally.n_utterances} utterances, {tally.seconds / 3600:.1f} h so far")
    if not tally.n_utterances and not tally.problems:
        n_longer = tally.n_left_out
        longer = f" but {n_longer} that are longer than --max-seconds" if n_longer else ""
        raise BadSource(f"{source.path} must hold at least one utterance, found none{longer}")


def _probed(item: Entry, probe: Callable[[str], AudioFacts], language: str | None) -> Entry:
    """Open an entry's sound, and see that it lies in it; give it a language if it names none."""
    utterance, audio = item.utterance, item.utterance.audio
    if item.data is None and (Path(audio).is_fifo() or Path(audio).is_char_device()):
        raise ValueError(f"its audio must be a file, found a pipe or a device: {audio}")
    facts = probe(audio) if item.data is None else probe_audio(NamedBytes(item.data, audio))
    if utterance.channel is not None and utterance.channel >= facts.n_channels:
        must = f"must have a channel {utterance.channel}, counted from 0, found {facts.n_channels}"
        raise Unusable(f"{audio}: {must}", "unsupported")
    start_s, duration_s = utterance.start_s, utterance.duration_s
    left_s = round(facts.duration_s - start_s, 3)
    if left_s <= 0 or (duration_s or 0) > left_s + LENGTH_TOLERANCE_S:
        until = "the end" if duration_s is None else f"{start_s + duration_s:.3f} s"
        raise Unusable(
            f"{audio}: must last at least a millisecond from {start_s:.3f} s, and to {until}, "
            f"found a sound of {facts.duration_s:.3f} s",
            "span outside the sound",
        )
    known = replace(
        utterance,
        duration_s=left_s if duration_s is None else duration_s,
        language=language if utterance.language is None else utterance.language,
    )
    return item._replace(utterance=known, facts=facts)


def _chosen(entries: Entries, settings: ImportSettings, tally: "ImportSummary") -> Entries:
    """Leave out what is too long, and all but the first or a sample, as the settings ask."""

    def is_short(item: Entry) -> bool:
        is_longer = (item.utterance.duration_s or 0) > (settings.max_seconds or math.inf)
        tally.n_left_out += is_longer
        return not is_longer

    def draw(placed: tuple[int, Entry]) -> bytes:
        """Return what an utterance is drawn by: the same wherever it lies in the source."""
        what = f"{settings.seed or 0}/{placed[1].utterance.id}"
        return hashlib.blake2b(what.encode("utf-8", "surrogatepass"), digest_size=16).digest()

    short = filter(is_short, entries)
    if settings.sample is None:
        return islice(short, settings.first)
    drawn = nsmallest(settings.sample, enumerate(short), key=draw)
    return (item for _, item in sorted(drawn))  # in their order: no two have one place


def _cut_at_pauses(item: Entry) -> list[Utterance]:
    """Return the speech of a long utterance in pieces that a window holds; a shorter one as it is.

    Pieces have no text, their span in their ids, and the utterance as recording if it has none.
    """
    from distilwhisper.speech.vad import speech_pieces

    utterance = item.utterance
    if (utterance.duration_s or 0) <= WINDOW_S:
        return [utterance]
    blocks = stream_samples(
        utterance.audio,
        start_s=utterance.start_s,
        duration_s=utterance.duration_s,
        choice=Choice(channel=utterance.channel),
    )
    piece, pieces = replace(utterance, text=None, recording=utterance.recording or utterance.id), []
    for span in speech_pieces(blocks):
        start_s = round(utterance.start_s + samples_to_seconds(span.start), 6)
        duration_s = samples_to_seconds(span.stop - span.start)
        id_ = span_id(utterance.id, start_s, duration_s)
        pieces.append(replace(piece, id=id_, start_s=start_s, duration_s=duration_s))
    if not pieces:
        raise Unusable(f"{utterance.audio}: nobody speaks in it", "no speech")
    return pieces


def _row(utterance: Utterance, out: Path, tally: "ImportSummary") -> dict[str, Any]:
    """Return an utterance as a line of the manifest, if it can be one."""
    try:
        audio = audio_from(out.parent, utterance.audio)
        row = manifest_row(replace(utterance, audio=audio))
        json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except ValueError as error:  # infinity, half a character, or a path in another encoding
        raise Unusable(f"no line of a manifest, JSON in UTF-8, can hold it: {error}") from error
    if not tally.is_new("id", utterance.id):
        raise Unusable(f"the id must be new, found {utterance.id!r} a second time", "id taken")
    return row


# Sound that lies in no file of its own, stored once in plain tars. A shard is named after its
# content, so that what an earlier manifest points at is never rewritten, and an import that is done
# again makes the same files. Nothing here deletes a finished shard.

SHARD_BYTES = 1 << 30


def stored(entries: Entries, folder: Path, *, shard_bytes: int = SHARD_BYTES) -> Entries:
    """Yield entries in order, with all of their sound in files.

    Entries wait until their shard, which ends with the sound that reaches its size, has its name.

    Raises:
        StoreError: the disk is full, or the folder cannot be written.
        FolderInUse: another import writes there.
    """
    index = 0
    for entry in entries:
        if entry.data is None:
            yield entry
            continue
        with lock_folder(folder):
            members = _written(chain([entry], entries), folder, index, shard_bytes)
        yield from members
        index += 1


def _written(entries: Entries, folder: Path, index: int, shard_bytes: int) -> list[Entry]:
    """Write a shard, and return the entries up to its end, in which its members are named."""
    placed: list[tuple[Entry, str]] = []  # each with its member, if it is stored
    digest = hashlib.blake2b(digest_size=6)
    n_bytes = n_members = 0
    unnamed = folder / ".shard.tar"
    with replacing(unnamed) as file, tarfile.TarFile(fileobj=file, mode="w") as tar:
        for entry in entries:
            name = ""
            if entry.data is not None:
                suffix = posixpath.splitext(entry.utterance.audio)[1].lower()
                suffix = suffix if re.fullmatch(r"\.[a-z0-9]{1,5}", suffix) else ""
                info = tarfile.TarInfo(name := f"{n_members:06d}{suffix}")
                info.size = len(entry.data)
                tar.addfile(info, io.BytesIO(entry.data))
                digest.update(f"{name} {info.size} ".encode() + entry.data)
                n_members, n_bytes = n_members + 1, n_bytes + info.size
            placed.append((entry._replace(data=None), name))
            if n_bytes >= shard_bytes:
                break
    shard = unnamed.replace(folder / f"audio-{index:05d}-{digest.hexdigest()}.tar").absolute()
    sync(folder)
    return [
        e._replace(utterance=replace(e.utterance, audio=f"{shard}#{name}")) if name else e
        for e, name in placed
    ]


# What an import finds, counted as it goes by

BIN_S = 5  # of the lengths in the summary
_N_BINS = int(WINDOW_S) // BIN_S
_BINS = *(f"  {BIN_S * i} to {BIN_S * (i + 1)} s" for i in range(_N_BINS)), f"  over {WINDOW_S:g} s"
_BAR = 30  # characters of the fullest bin
_COUNTS = ("n_cut", "n_texts_lost", "n_left_out", "n_same_audio", "n_same_text")
_N_NAMED = 10  # of sources and languages, in the table


@dataclass
class ImportSummary:
    """What an import finds; of each utterance it keeps a length and three hashes."""

    n_with_text: int = 0  # utterances that have a reference
    n_cut: int = 0  # long recordings that were cut into pieces
    n_texts_lost: int = 0  # of these, how many had a text
    n_left_out: int = 0  # longer than they may be
    n_same_audio: int = 0  # utterances whose audio an earlier one has, by the bytes of the file
    n_same_text: int = 0  # utterances whose text and length an earlier one has
    languages: Counter[str] = field(default_factory=Counter)  # utterances by language
    seconds_of: dict[str, float] = field(default_factory=dict)  # audio by source
    # Utterances by the rate of their files, in Hz
    sample_rates: Counter[int] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)  # what could not be used
    seconds: float = 0.0  # of audio
    _lengths: "array[float]" = field(default_factory=lambda: array("d"))
    _hashes: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))  # by kind

    def is_new(self, kind: str, what: str) -> bool:
        """Keep a 64-bit hash, and return whether it is the first of its kind.

        That two of ten million texts share one is less likely than 1 in 100,000.
        """
        n_before = len(self._hashes[kind])
        self._hashes[kind].add(hash(what))
        return len(self._hashes[kind]) > n_before

    def add(self, utterance: Utterance, facts: AudioFacts) -> None:
        """Count an utterance, which has a duration."""
        length_s, source = utterance.duration_s or 0.0, utterance.source
        self.seconds += length_s
        self._lengths.append(length_s)
        span = f"{utterance.start_s} {length_s} {utterance.channel}"
        self.n_same_audio += not self.is_new("sound", f"{facts.digest.hex()} {span}")
        if utterance.text is not None:
            self.n_with_text += 1
            self.n_same_text += not self.is_new("text", f"{length_s:.3f} {utterance.text}")
        if utterance.speaker is not None:
            self.is_new("speaker", utterance.speaker)
        if utterance.language is not None:
            self.languages[utterance.language] += 1
        if source is not None:
            self.seconds_of[source] = self.seconds_of.get(source, 0.0) + length_s
        self.sample_rates[facts.sample_rate_hz] += 1

    @property
    def n_utterances(self) -> int:
        """Lines of the manifest."""
        return len(self._lengths)

    @property
    def n_by_length(self) -> list[int]:
        """Utterances of each 5 s up to 30 s, each with its upper end, and of all longer ones."""
        bins = Counter(min(max(-int(-s // BIN_S) - 1, 0), _N_BINS) for s in self._lengths)
        return [bins[number] for number in range(_N_BINS + 1)]

    @property
    def lengths_s(self) -> tuple[float, float, float]:
        """Length of the shortest utterance, the middle one and the longest; 0 if there is none."""
        all_s = self._lengths or array("d", [0.0])
        return round(min(all_s), 3), round(median(all_s), 3), round(max(all_s), 3)

    @property
    def failed(self) -> dict[str, str]:
        """What could not be used, by place."""
        failed: dict[str, str] = {}
        for where, _, message in self.problems:
            failed[where] = f"{failed[where]}; {message}" if where in failed else message
        return failed

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as JSON can hold it; problems are counted by kind."""
        by_source = Counter(self.seconds_of).most_common()
        return {
            "n_utterances": self.n_utterances,
            "n_with_text": self.n_with_text,
            "n_speakers": len(self._hashes["speaker"]),
            "hours": self.seconds / 3600,
            **dict(zip(("min_s", "median_s", "max_s"), self.lengths_s, strict=True)),
            "n_by_length": self.n_by_length,
            **{name: getattr(self, name) for name in _COUNTS},
            "languages": dict(self.languages.most_common()),
            "sources": {source: seconds / 3600 for source, seconds in by_source},
            "sample_rates": dict(self.sample_rates.most_common()),
            "problems": dict(Counter(problem.kind for problem in self.problems).most_common()),
        }

    def __str__(self) -> str:
        return (
            f"{self.n_utterances} utterances, {self.seconds / 3600:.2f} h ({self._range()}); "
            f"{self.n_with_text} with text, {self.n_utterances - self.n_with_text} without; "
            f"{len(self.problems)} problems"
        )

    def _range(self) -> str:
        low_s, middle_s, high_s = self.lengths_s
        return f"{low_s:.2f} to {high_s:.2f} s, median {middle_s:.2f} s"

    def table(self) -> str:
        """Return the summary for a person to read."""
        summary, n_long = self.to_dict(), self.n_by_length[-1]
        hours = {source: round(hours, 2) for source, hours in summary["sources"].items()}
        texts = f", {self.n_texts_lost} of them without the text they had"
        fullest = max(self.n_by_length) or 1
        lines = {
            "utterances": f"{self.n_utterances}, {self.n_with_text} with text",
            "hours": f"{summary['hours']:.2f}",
            "speakers": str(summary["n_speakers"] or "not named"),
            "languages": _shares(summary["languages"], "utterances"),
            "sources": _shares(hours, "h"),
            "sample rates": _shares({f"{k} Hz": n for k, n in summary["sample_rates"].items()}),
            "length": self._range(),
            **{
                name: f"{n:>9} {'#' * -(-_BAR * n // fullest)}"
                for name, n in zip(_BINS, self.n_by_length, strict=True)
            },
            "duplicates": f"{self.n_same_audio} of audio, {self.n_same_text} of text and length",
            "problems": _shares(summary["problems"]),
            "cut": self.n_cut and f"{self.n_cut} long recordings{texts * bool(self.n_texts_lost)}",
            "left out": self.n_left_out and f"{self.n_left_out} longer than --max-seconds",
            "too long": n_long and f"{n_long} over {WINDOW_S:.0f} s: see --cut, or --max-seconds",
        }
        return "\n".join(f"{name:<14}{value}".rstrip() for name, value in lines.items() if value)


def _shares(of: Mapping[str, float], unit: str = "") -> str:
    """Return names and numbers in a line, the first few of them."""
    named = [f"{name} {n:g} {unit}".rstrip() for name, n in list(of.items())[:_N_NAMED]]
    more = [f"and {len(of) - _N_NAMED} more"] if len(of) > _N_NAMED else []
    return ", ".join([*named, *more]) or "none"
