"""Timings of arms in turn, so that what else a machine does falls on all of them alike."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch

from distilwhisper.corpus.batches import load_readable
from distilwhisper.corpus.records import Utterance, read_manifest
from distilwhisper.decoding.slots import Counts
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.progress import progress_bar
from distilwhisper.run.record import cpu_model
from distilwhisper.run.stages import fingerprint
from distilwhisper.speech.audio import Samples
from distilwhisper.stages.evaluate import decode_timed
from experiments.cells import Arm, EvalSet
from experiments.context import Context
from experiments.results import Key, Result, Row, score_texts
from experiments.settings import TimingSettings

NOTE = (
    "Times: medians over rounds in which all arms took turns, on a machine that may have been "
    "shared; a few per cent mean nothing."
)


@dataclass(frozen=True)
class Timing:
    """An arm's times, one a round, and its texts."""

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

    @property
    def facts(self) -> dict[str, Any]:
        """What summary.json says of the arm beside its errors."""
        return {
            "rtf": self.rtf,
            "seconds": self.seconds,
            "audio_s": self.audio_s,
            "acceptance": self.counts.acceptance if self.counts.drafted else None,
            "tokens_per_step": self.counts.tokens_per_step,
        }


def time_arms(
    context: Context[TimingSettings], arms: Sequence[Arm], sets: Sequence[EvalSet]
) -> dict[str, Timing]:
    """Time arms in turn, round by round; a round that is stored is not run again.

    The first utterances of every set are decoded, as many as the settings say, after one that is
    not counted: on a GPU after all of them, for every shape that is new is captured as a graph
    first. Reading files is left out; the device is waited for.

    Args:
        context: of :class:`TimingSettings`.
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
    pieces = cache(lambda: [piece for on in sets for piece in _pieces(on, n_first[on.name])])
    rounds = []
    with progress_bar("timing", settings.rounds * len(arms), "turns") as advance:
        for number in range(settings.rounds):
            turns = context.remember(
                "timings",
                {**key, "round": number},
                lambda: [_turn(context.transcriber(arm), pieces()) for arm in arms],
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


def speed(times: Mapping[str, Timing], against: str) -> Callable[[Result], float]:
    """Return what makes a column of how many times as fast as an arm the arms of results are."""
    return lambda result: times[result.arm].speed_against(times[against])


def timed_results(
    context: Context[TimingSettings],
    arms: Mapping[Key, Arm],
    times: Mapping[str, Timing],
    *,
    against: Callable[[Key], Key] | None = None,
) -> dict[Key, Result]:
    """Sum up the texts of arms that were timed on the short sets, and what they cost."""
    rows = {key: timed_rows(arm.name, times[arm.name], context.short) for key, arm in arms.items()}
    more = {key: times[arm.name].facts for key, arm in arms.items()}
    return context.summarise(rows, against=against, more=more)


def timed_rows(arm: str, timing: Timing, sets: Sequence[EvalSet]) -> list[Row]:
    """Return the texts of a timed arm beside the references."""
    rows = []
    for on in sets:
        texts = [
            (utterance, timing.texts[name])
            for utterance in read_manifest(on.manifest).utterances
            if (name := f"{on.name}: {utterance.id}") in timing.texts and utterance.text is not None
        ]
        rows += score_texts(arm, on.name, texts)
    return rows


def _pieces(on: EvalSet, n_first: int) -> list[tuple[str, Utterance, Samples]]:
    """Read the first utterances of a set; each with the name of its text."""
    manifest = read_manifest(on.manifest)
    loaded = load_readable(manifest, manifest.utterances[:n_first])
    return [(f"{on.name}: {utterance.id}", utterance, samples) for utterance, samples in loaded]


def _turn(
    transcriber: Transcriber, pieces: Sequence[tuple[str, Utterance, Samples]]
) -> dict[str, Any]:
    sound = [(utterance, samples) for _, utterance, samples in pieces]
    on_gpu = transcriber.checkpoint.model.device.type == "cuda"
    decode_timed(transcriber, sound if on_gpu else sound[:1])
    decoded = decode_timed(transcriber, sound)
    names = [name for name, _, _ in pieces]
    return {
        "audio_s": decoded.audio_s,
        "compute_s": decoded.compute_s,
        "counts": asdict(decoded.cost),
        "texts": {n: text for n, (text, _) in zip(names, decoded.texts, strict=True)},
    }


def _gpus() -> list[str]:
    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
