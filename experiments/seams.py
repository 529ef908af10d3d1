"""Where chunks meet: how much they share, how long they are, and how their texts are joined."""

from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

from distilwhisper.checks import NOT_EMPTY, ruled
from distilwhisper.corpus.batches import load_readable
from distilwhisper.corpus.records import Utterance, read_manifest
from distilwhisper.decoding.alignment import TimedWindow
from distilwhisper.decoding.chunks import JoinedText
from distilwhisper.decoding.segments import TimedWord
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.decoding.transcription import Transcription
from distilwhisper.plotting import draw_panels
from distilwhisper.run.stages import fingerprint
from distilwhisper.speech.arrays import Sound, to_samples
from distilwhisper.speech.recording import HeldRecording
from distilwhisper.speech.units import WINDOW_S, samples_to_seconds
from distilwhisper.text.normalize import scoring_rule
from distilwhisper.text.wer import align_words
from experiments.cells import Arm, EvalSet, with_reference
from experiments.context import Context
from experiments.experiment import Outcome, experiment
from experiments.figures import wer_line
from experiments.results import Result, Row, interval_notes, score_texts
from experiments.settings import Settings
from experiments.tables import REPETITIONS, WER, Column, Table, Value, fact, less, rate

# Edges of the bins of a word's distance to the nearest seam; the last bin has no end.
DISTANCES_S = (0.0, 1.0, 2.0, 4.0, 8.0)
DISTANCES = ("within 1 s", "1 to 2 s", "2 to 4 s", "4 to 8 s", "over 8 s")


@dataclass(frozen=True)
class ChunkWords:
    """The words of one chunk, on the recording's clock."""

    start_s: float
    stop_s: float
    words: tuple[TimedWord, ...]


def join_at_middle(chunks: Sequence[ChunkWords]) -> list[TimedWord]:
    """Join chunks by time alone: each word is of the chunk whose share of the time it lies in.

    A chunk's share ends in the middle of what it has in common with the next one. This is the
    plainest rule there is: it looks at no text.

    Args:
        chunks: in order of time.
    """
    edges_s = [-1.0, *seams_s(chunks), float("inf")]
    shares = zip(edges_s, chunks, edges_s[1:], strict=False)
    return [
        word
        for first_s, chunk, stop_s in shares
        for word in chunk.words
        if first_s <= (word.start_s + word.end_s) / 2 < stop_s
    ]


def seams_s(chunks: Sequence[ChunkWords]) -> list[float]:
    """Return the middles of what neighbouring chunks have in common."""
    return [(before.stop_s + chunk.start_s) / 2 for before, chunk in pairwise(chunks)]


def join_by_words(chunks: Sequence[ChunkWords]) -> list[TimedWord]:
    """Join chunks as decoding does."""
    text = JoinedText()
    for chunk in chunks:
        text.add(chunk.words, start_s=chunk.start_s, stop_s=chunk.stop_s)
    return [word for _, word in text.words()]


JOINS: Mapping[str, Callable[[Sequence[ChunkWords]], list[TimedWord]]] = {
    "common run": join_by_words,
    "middle": join_at_middle,
}


@dataclass(frozen=True)
class OverlapSettings(Settings):
    """Of this experiment."""

    seam_chunks_s: tuple[float, ...] = ruled((30.0, 15.0), NOT_EMPTY)
    """Lengths of chunks."""
    overlaps_s: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)
    """What neighbours share, beside the default of a third."""


@dataclass(frozen=True)
class _Cut:
    """One way to cut and join the long recordings."""

    model: str
    chunk_s: float
    overlap_s: float
    join: str

    def __str__(self) -> str:
        return f"{self.model}, {self.chunk_s:g} s, {self.overlap_s:.3g} s shared, {self.join}"


@dataclass(frozen=True)
class _Decoded:
    """The chunks of a recording, with the words of each."""

    utterance: Utterance
    audio_s: float
    chunks: list[ChunkWords]


@experiment("overlap", needs=("long",), settings=OverlapSettings)
def overlap(context: Context[OverlapSettings]) -> Outcome:
    """What chunks share, their length and the join, against errors, repetitions and cost."""
    rows: dict[_Cut, list[Row]] = {}
    more: dict[_Cut, dict[str, Any]] = {}
    for model in context.distilled:
        for chunk_s in context.settings.seam_chunks_s:
            for overlap_s in _overlaps_s(context, chunk_s):
                arm = context.arm(model, long_form="chunked", chunk_s=chunk_s, overlap_s=overlap_s)
                decoded = {on.name: _decode_set(context, arm, on) for on in context.long}
                for join in JOINS:
                    cut = _Cut(model.name, chunk_s, overlap_s, join)
                    rows[cut] = _score(cut, decoded)
                    more[cut] = _measure([one for of in decoded.values() for one in of], join)
    results = context.summarise(
        rows, against=lambda cut: replace(cut, overlap_s=cut.chunk_s / 3), more=more
    )
    by_join = context.summarise(rows, against=lambda cut: replace(cut, join="common run"))
    differences = {result.arm: result.difference for result in by_join.values()}
    table = Table(
        "Overlap: what neighbouring chunks share, against errors and cost",
        of="model, chunk, overlap, join",
        columns=(
            WER,
            less("that of a third shared", 1),
            Column("less the common run's, points", lambda r: differences[r.arm], percent=True),
            Column("IER, %", rate("ier"), percent=True),
            *REPETITIONS,
            *(
                Column(f"errors {far} of a seam, %", _errors_at(place), percent=True)
                for place, far in enumerate(DISTANCES)
            ),
            Column("seconds in chunks a second", fact("chunk_seconds"), 2),
            Column("seconds in windows a second", fact("window_seconds"), 2),
        ),
        rows={str(cut): result for cut, result in results.items()},
        notes=(
            "Joins: the longest common run of words in the overlap, or plain concatenation at its "
            "middle; both of the same chunks. Errors by distance: over the reference's words that "
            "lie so far from the nearest middle of an overlap, by the hypothesis's times.",
            f"Cost: chunks as they are, and as windows of {WINDOW_S:g} s, which a chunk is encoded "
            "in. A part of a chunk that was decoded again, and kept, counts as a chunk; attempts "
            "that failed are not counted.",
            *interval_notes(results.values()),
        ),
    )
    panels = {
        f"{model.name}, {chunk_s:g} s chunks": [
            wer_line(
                f"join: {join}",
                {
                    overlap_s: results[_Cut(model.name, chunk_s, overlap_s, join)]
                    for overlap_s in _overlaps_s(context, chunk_s)
                },
            )
            for join in JOINS
        ]
        for model in context.distilled
        for chunk_s in context.settings.seam_chunks_s
    }
    figure = draw_panels(panels, x="overlap, s", y="WER, %")
    return Outcome(table, results, figure)


def _overlaps_s(context: Context[OverlapSettings], chunk_s: float) -> list[float]:
    """Return the overlaps to try, the default last."""
    return [*context.settings.overlaps_s, chunk_s / 3]


def _decode_set(context: Context[OverlapSettings], arm: Arm, on: EvalSet) -> list[_Decoded]:
    """Return an arm's chunks with their words, stored: joins are tried on the same words."""
    key = {
        **arm.of_set(on),
        "weights": context.fingerprint(arm.model),
        "recordings": fingerprint(on.manifest),
    }
    stored: dict[str, Any] = context.remember("chunks", key, partial(_decode, context, arm, on))
    utterances = {u.id: u for u in read_manifest(on.manifest).utterances}
    return [
        _Decoded(
            utterances[id_],
            recording["audio_s"],
            [
                ChunkWords(
                    chunk["start_s"],
                    chunk["stop_s"],
                    tuple(TimedWord(text, (), start_s, end_s, 0) for text, start_s, end_s in words),
                )
                for chunk in recording["chunks"]
                for words in [chunk["words"]]
            ],
        )
        for id_, recording in stored.items()
    ]


def _decode(context: Context[OverlapSettings], arm: Arm, on: EvalSet) -> dict[str, Any]:
    transcriber = context.transcriber(arm)
    decoded = {}
    for utterance, samples in load_readable(read_manifest(on.manifest), with_reference(on)):
        chunks = decode_chunks(transcriber, samples, language=utterance.language)
        decoded[utterance.id] = {
            "audio_s": samples_to_seconds(len(samples)),
            "chunks": [
                {
                    "start_s": chunk.start_s,
                    "stop_s": chunk.end_s,
                    "words": [(word.text, word.start_s, word.end_s) for word in chunk.words],
                }
                for chunk in chunks
            ],
        }
    return decoded


def decode_chunks(
    transcriber: Transcriber, sound: Sound, *, language: str | None = None
) -> list[TimedWindow]:
    """Return the windows of each chunk of a recording, not yet joined.

    Args:
        transcriber: whose settings hold, but that long recordings are cut into chunks.
        sound: mono, 16 kHz, of any length.
        language: of the recording; none: the settings' language, or else detected.

    Raises:
        ValueError: there is no sample, or one is NaN.
    """
    chunked = replace(transcriber, settings=replace(transcriber.settings, long_form="chunked"))
    one = Transcription(chunked, HeldRecording(to_samples(sound, "the recording")), language)
    for _ in chunked.run(one.tasks):
        pass
    return one.windows


def _score(cut: _Cut, decoded: Mapping[str, Sequence[_Decoded]]) -> list[Row]:
    join = JOINS[cut.join]
    return [
        row
        for on, recordings in decoded.items()
        for row in score_texts(
            str(cut), on, [(one.utterance, _text(join(one.chunks))) for one in recordings]
        )
    ]


def _errors_at(place: int) -> Callable[[Result], Value]:
    return lambda result: (result.more or {})["errors_by_distance"][place]


def _text(words: Sequence[TimedWord]) -> str:
    return "".join(word.text for word in words).strip()


def _measure(decoded: Sequence[_Decoded], join: str) -> dict[str, Any]:
    """Return an arm's error rates by distance from a seam, and its cost."""
    errors, n_words = [0] * len(DISTANCES_S), [0] * len(DISTANCES_S)
    for one in decoded:
        words, seams = JOINS[join](one.chunks), seams_s(one.chunks)
        for at_s, is_error, is_word in timed_errors(one.utterance, words):
            apart_s = min((abs(at_s - seam) for seam in seams), default=float("inf"))
            place = bisect(DISTANCES_S, apart_s) - 1
            errors[place] += is_error
            n_words[place] += is_word
    audio_s = sum(one.audio_s for one in decoded)
    chunks = [chunk for one in decoded for chunk in one.chunks]
    return {
        "errors_by_distance": [e / n if n else None for e, n in zip(errors, n_words, strict=True)],
        "words_by_distance": n_words,
        "distances_s": DISTANCES_S,
        "chunk_seconds": sum(chunk.stop_s - chunk.start_s for chunk in chunks) / audio_s,
        "window_seconds": len(chunks) * WINDOW_S / audio_s,
    }


def timed_errors(
    utterance: Utterance, words: Sequence[TimedWord]
) -> Iterator[tuple[float, bool, bool]]:
    """Yield the time of each step of the way from reference to hypothesis.

    A missed word is dated as the last word of the hypothesis before it. Where words are not spaced,
    each character is one.

    Args:
        utterance: with the reference.
        words: the hypothesis, timed.

    Yields:
        Seconds in the recording; whether it is an error; whether it is a word of the reference.
    """
    split = scoring_rule(utterance.text, utterance.language).split
    alone = [(part, (word.start_s + word.end_s) / 2) for word in words for part in split(word.text)]
    # The normaliser makes other words of a whole text than of its words alone, such as numbers.
    hypothesis = " ".join(split(_text(words)))
    times_s = [0.0, *(at_s for _, at_s in alone)]
    dated, place = [], 0
    for step in align_words(" ".join(part for part, _ in alone), hypothesis):
        place += step.reference is not None
        if step.hypothesis is not None:
            dated.append(times_s[place])
    at_s, place = 0.0, 0
    for step in align_words(" ".join(split(utterance.text or "")), hypothesis):
        if step.hypothesis is not None:
            at_s, place = dated[place], place + 1
        yield at_s, step.kind != "equal", step.reference is not None
