"""Timings of arms in turn, so that what else a machine does falls on all of them alike."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from distilwhisper.corpus.batches import load_readable
from distilwhisper.corpus.records import Utterance, read_manifest
from distilwhisper.decoding.slots import Counts
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.progress import progress_bar
from distilwhisper.run.record import cpu_model
from distilwhisper.run.stages import fingerprint
from distilwhisper.speech.audio import WINDOW_SAMPLES, Samples, samples_to_seconds
from distilwhisper.speech.recording import HeldRecording
from distilwhisper.text.transcript import Transcript
from experiments.cells import Arm, EvalSet
from experiments.context import Context
from experiments.scores import Row, score_texts

NOTE = (
    "Times: medians over rounds in which all arms took turns, on a machine that may have been "
    "shared; a few per cent mean nothing."
)


@dataclass(frozen=True)
class Timing:
    """An arm's times, one a round, and what it said."""

    audio_s: float
    seconds: tuple[float, ...]
    counts: Counts  # of the first round
    texts: Mapping[str, str]  # "set: id" to text, of the first round

    @property
    def rtf(self) -> float:
        """The median of seconds of computing per second of audio."""
        return statistics.median(self.seconds) / self.audio_s

    def speed_against(self, other: "Timing") -> float:
        """Return how many times as fast as another arm, the median over rounds."""
        pairs = zip(self.seconds, other.seconds, strict=True)
        return statistics.median(theirs / ours for ours, theirs in pairs)

    @property
    def spread(self) -> float:
        """The longest round over the shortest."""
        return max(self.seconds) / min(self.seconds)


Piece = tuple[str, Utterance, Samples]  # the set's name, the utterance, its sound


def time_arms(context: Context, arms: Sequence[Arm], sets: Sequence[EvalSet]) -> dict[str, Timing]:
    """Time arms in turn, round by round; a round that is stored is not run again.

    The first utterances of every set are heard, as many as the settings say, after one that is not
    counted: on a GPU after all of them, for every shape that is new is captured as a graph first.
    Reading files is left out; the device is waited for.

    Args:
        context: of the settings.
        arms: of one round.
        sets: short or long.

    Raises:
        UnreadableRecording: one of them cannot be read.
    """
    settings = context.settings
    n_first = {
        **{on.name: settings.timed_utterances for on in context.short},
        **{on.name: settings.timed_recordings for on in context.long},
    }
    key = {
        "arms": [
            {
                **arm.key(),
                "weights": [context.fingerprint(m) for m in (arm.model, arm.draft) if m],
            }
            for arm in arms
        ],
        "sets": [(on.name, fingerprint(on.manifest), n_first[on.name]) for on in sets],
        "machine": [cpu_model(), *_gpus()],
        "n_threads": torch.get_num_threads(),
    }
    pieces = _Pieces(sets, n_first)
    rounds = []
    with progress_bar("timing", settings.rounds * len(arms), "turns") as advance:
        for number in range(settings.rounds):
            turns = context.remember(
                "timings",
                {**key, "round": number},
                lambda: [_turn(context.transcriber(arm), pieces.all) for arm in arms],
            )
            rounds.append(turns)
            advance(len(arms))
    return {
        arm.name: Timing(
            audio_s=turns[0]["audio_s"],
            seconds=tuple(turn["compute_s"] for turn in turns),
            counts=Counts(**turns[0]["counts"]),
            texts=turns[0]["texts"],
        )
        for arm, *turns in zip(arms, *rounds, strict=True)
    }


def timed_rows(arm: str, timing: Timing, sets: Sequence[EvalSet]) -> list[Row]:
    """Return what a timed arm said against what was said."""
    rows = []
    for on in sets:
        said = [
            (utterance, timing.texts[name])
            for utterance in read_manifest(on.manifest).utterances
            if (name := f"{on.name}: {utterance.id}") in timing.texts and utterance.text is not None
        ]
        rows += score_texts(arm, on.name, said)
    return rows


class _Pieces:
    """The sound to be heard, read when it is first asked for."""

    def __init__(self, sets: Sequence[EvalSet], n_first: Mapping[str, int]) -> None:
        self._sets, self._n_first = sets, n_first
        self._read: list[Piece] | None = None

    @property
    def all(self) -> list[Piece]:
        if self._read is None:
            self._read = [piece for on in self._sets for piece in self._of(on)]
        return self._read

    def _of(self, on: EvalSet) -> list[Piece]:
        manifest = read_manifest(on.manifest)
        first = manifest.utterances[: self._n_first[on.name]]
        return [
            (on.name, utterance, samples) for utterance, samples in load_readable(manifest, first)
        ]


def _turn(transcriber: Transcriber, pieces: Sequence[Piece]) -> dict[str, Any]:
    _hear(transcriber, pieces if _is_on_gpu(transcriber) else pieces[:1])
    before = transcriber.counts
    began = _now(transcriber)
    texts = _hear(transcriber, pieces)
    compute_s = _now(transcriber) - began
    return {
        "audio_s": sum(samples_to_seconds(len(samples)) for _, _, samples in pieces),
        "compute_s": compute_s,
        "counts": asdict(transcriber.counts - before),
        "texts": texts,
    }


def _hear(transcriber: Transcriber, pieces: Sequence[Piece]) -> dict[str, str]:
    """Return what is heard, as evaluation hears it: pieces of a window at most, and recordings."""
    short = [piece for piece in pieces if len(piece[2]) <= WINDOW_SAMPLES]
    long = [piece for piece in pieces if len(piece[2]) > WINDOW_SAMPLES]
    windows = transcriber.decode(
        [samples for _, _, samples in short], languages=[u.language for _, u, _ in short]
    )
    texts = {_name(piece): window.text for piece, window in zip(short, windows, strict=True)}
    transcripts = transcriber.transcribe_all(
        (HeldRecording(samples) for _, _, samples in long),
        languages=[u.language for _, u, _ in long],
    )
    for number, transcript in transcripts:
        if not isinstance(transcript, Transcript):
            raise transcript
        texts[_name(long[number])] = transcript.text
    return texts


def _name(piece: Piece) -> str:
    return f"{piece[0]}: {piece[1].id}"


def _now(transcriber: Transcriber) -> float:
    """Return the clock once the device has finished all that it was asked."""
    if _is_on_gpu(transcriber):
        torch.cuda.synchronize()
    return time.perf_counter()


def _is_on_gpu(transcriber: Transcriber) -> bool:
    return transcriber.checkpoint.model.device.type == "cuda"


def _gpus() -> list[str]:
    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
