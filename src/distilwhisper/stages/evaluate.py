"""Stage 5: the errors of a model, utterance by utterance, and its speed.

    OUT/shard-00000.jsonl  one hypothesis per utterance, in the manifest's order
    OUT/timing/00000.json  seconds of audio and of computing, of a shard
    OUT/scores.jsonl       errors per utterance
    OUT/summary.json       their sums

Decoding writes the first two and can be interrupted; scoring is a second pass over them, so a new
metric needs no new decoding. No utterance is ever left out: one that cannot be read is scored as
an empty hypothesis, and reported.

Several models on several sets, with several noises, are as many such folders side by side:

    OUT/MODEL/SET          and SET+NOISE, each as above
    OUT/comparison.json    rates with intervals, means over the sets, differences, worst utterances
    OUT/figures/           error rates against speed
"""

import json
import re
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from distilwhisper.corpus.batches import load_utterances
from distilwhisper.corpus.records import Utterance, in_language, read_manifest
from distilwhisper.corpus.store import read_jsonl, shard_path, write_shard
from distilwhisper.decoding.slots import Counts
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.engines import DecodingJob, ShardedSet, run_stage
from distilwhisper.evaluation.comparison import Comparison, Evaluation, compare, draw_comparison
from distilwhisper.evaluation.degradation import Degradation, Degrader
from distilwhisper.evaluation.scoring import COST, EvaluationSummary, score, summary_line
from distilwhisper.files import write_atomic
from distilwhisper.model.checkpoint import count_parameters, read_config
from distilwhisper.model.hub import resolve_model
from distilwhisper.model.layout import require_whole
from distilwhisper.progress import Advance, say
from distilwhisper.run.files import write_json
from distilwhisper.run.locks import lock_folder
from distilwhisper.run.stages import fingerprint, open_stage
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.recording import HeldRecording
from distilwhisper.speech.units import WINDOW_SAMPLES, samples_to_seconds
from distilwhisper.stages.settings import EvaluateSettings, Workers
from distilwhisper.text.transcript import Transcript

Thing = TypeVar("Thing")


class EvaluationTask(NamedTuple):
    """A set to be transcribed, how, and the folder of the results."""

    manifest: Path
    settings: EvaluateSettings
    out: Path


def evaluate_tasks(
    model: str,
    tasks: Sequence[EvaluationTask],
    workers: Workers | None = None,
    *,
    force: bool = False,
) -> list[EvaluationSummary]:
    """Transcribe sets and score them, going on where a run before stopped; return a summary each.

    All are decoded alike, into folders that differ; the model is loaded once at most.
    """
    workers = workers or Workers()
    hardware, draft = workers.hardware, workers.draft
    for task in tasks:
        _check_is_no_model(task.manifest)
    paths = {"model": resolve_model(model)}
    if draft is not None:
        paths["draft"] = resolve_model(draft)
    names = {name: str(path.absolute()) for name, path in paths.items()}
    prints = {name: fingerprint(path) for name, path in paths.items()}
    n_parameters = count_parameters(read_config(paths["model"]))
    decoding, unread = tasks[0].settings.decoding, {task.manifest for task in tasks}
    manifests = {path: in_language(read_manifest(path), decoding.language) for path in unread}
    with ExitStack() as stack:
        sets = []
        for task in tasks:
            manifest, noise = manifests[task.manifest], task.settings.degradation
            inputs = {"manifest": fingerprint(task.manifest), **prints}
            if noise is not None and noise.source is not None:
                inputs["noise"] = fingerprint(noise.source)
            table = {**asdict(task.settings), **asdict(hardware), "draft": draft}
            stack.enter_context(lock_folder(task.out))
            whole = partial(require_whole, *paths.values())
            open_stage(task.out, settings=table, inputs=inputs, force=force, check=whole)
            if noise is not None:
                Degrader(noise, manifest)  # what it refuses is known before anything is decoded
            size, seed = task.settings.shard_size, task.settings.noise_seed
            sets.append(EvaluationSet(manifest, task.out.absolute(), size, noise, seed))
        job = DecodingJob(
            tuple(sets), names["model"], decoding, hardware, names.get("draft"), warms_up=True
        )
        n_silent = sum(run_stage("evaluate", job, workers.engine))
        if n_silent:
            noises = ", ".join(dict.fromkeys(str(one.noise) for one in sets if one.noise))
            say(f"evaluate: {n_silent} utterances are silent, and were left without {noises}")
        return [one.score(n_parameters) for one in sets]


def _check_is_no_model(manifest: Path) -> None:
    is_hub_id = not manifest.exists() and len(manifest.parts) == 2 and not manifest.suffix
    if (manifest / "config.json").is_file() or is_hub_id:
        kind = "neither file nor folder" if is_hub_id else "a model"
        raise ValueError(
            f"{manifest} must be a set, found {kind}: models to compare with go behind the sets, "
            f"as --against {manifest}"
        )


def evaluate_all(
    models: Sequence[str],
    manifests: Sequence[Path],
    noises: Sequence[str | None],
    out: Path,
    settings: EvaluateSettings,
    workers: Workers | None = None,
    *,
    force: bool = False,
) -> Comparison:
    """Evaluate every model on every set with every noise, and put the results side by side.

    Models and sets are called by the last parts of their paths that differ. Of several models the
    second is the one that all others are compared with; a draft is for the first alone. The noise
    of the settings gives way to each of ``noises``; None leaves the sound as it is. Each
    evaluation goes on where it stopped; one that is done is scored anew, without its model.

    Raises:
        ValueError: a model, a set or a noise is named twice.
    """
    if not (models and manifests and noises):
        raise ValueError("name at least one model, one set, and one noise or None")
    workers = workers or Workers()
    stems = [str(path).removesuffix(".jsonl") for path in manifests]
    sets, names = _by_name("set", short_names(stems), manifests), short_names(models)
    if workers.draft is not None:
        names[0] += f"+{short_names([workers.draft])[0]}"
    model_of = _by_name("model", names, models)
    settings_with = {noise: replace(settings, noise=noise) for noise in noises}
    suffixes = ["" if noise is None else f"+{_as_file_name(noise)}" for noise in noises]
    evaluations = [
        Evaluation(name, set_, noise, out / name / f"{set_}{suffix}")
        for name in model_of
        for set_ in sets
        for suffix, noise in _by_name("noise", suffixes, noises).items()
    ]
    if (out / "stage.json").exists():
        raise ValueError(
            f"{out} must be new or hold a comparison, found a single evaluation's stage.json: "
            "name another folder"
        )
    with lock_folder(out):
        for name, model in model_of.items():
            here = [evaluation for evaluation in evaluations if evaluation.model == name]
            tasks = [EvaluationTask(sets[e.set], settings_with[e.noise], e.folder) for e in here]
            summaries = evaluate_tasks(model, tasks, workers, force=force)
            workers = replace(workers, draft=None)  # it was for the first
            for evaluation, summary in zip(here, summaries, strict=True):
                say(summary_line(f"evaluate: {evaluation}", summary))
        baseline = names[1] if len(names) > 1 else None
        comparison = compare(evaluations, folder=out, baseline=baseline)
        write_json(out / "comparison.json", comparison.to_dict())
        draw_comparison(comparison, out / "figures")
    return comparison


def short_names(paths: Sequence[str]) -> list[str]:
    """Call every path or hub id by its fewest last parts that no other has."""
    parts = [Path(path).absolute().parts for path in paths]
    names = []
    for own in parts:
        n = 1
        while sum(own[-n:] == other[-n:] for other in set(parts)) > 1:
            n += 1
        names.append(_as_file_name("-".join(own[-n:])))
    return names


def _as_file_name(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", text)


def _by_name(kind: str, names: Sequence[str], things: Sequence[Thing]) -> dict[str, Thing]:
    if len(set(names)) < len(names):
        raise ValueError(
            f"every {kind} must be named once, found {', '.join(map(str, things))}, which would "
            f"be called {', '.join(names)}"
        )
    return dict(zip(names, things, strict=True))


@dataclass(frozen=True)
class EvaluationSet(ShardedSet):
    """Utterances to be transcribed and scored, with noise or without."""

    noise: Degradation | None
    noise_seed: int

    def left(self, number: int) -> Sequence[Utterance]:
        """Return the utterances of a shard that is not there, or without its timing."""
        is_done = shard_path(self.out, number).exists() and self._timing_path(number).exists()
        return () if is_done else self.shard(number)

    def _timing_path(self, number: int) -> Path:
        return self.out / "timing" / f"{number:05d}.json"

    @cached_property
    def degrader(self) -> Degrader | None:
        """What spoils the sound; None where nothing does."""
        noise = self.noise
        return None if noise is None else Degrader(noise, self.manifest, self.noise_seed)

    def write(self, transcriber: Transcriber, number: int, on_progress: Advance) -> int:
        """Decode a shard, and return how many of its utterances are too silent for noise."""
        utterances, degrader = self.shard(number), self.degrader
        n_before = 0 if degrader is None else degrader.n_silent
        by_length = sorted(utterances, key=lambda u: (u.duration_s or 0.0, u.id))
        rows: dict[str, dict[str, Any]] = {}
        pieces = []
        for utterance, samples in load_utterances(self.manifest, by_length):
            if isinstance(samples, Exception):
                error = str(samples)
                rows[utterance.id] = {"text": "", "language": utterance.language, "error": error}
            else:
                samples = samples if degrader is None else degrader.apply(samples, utterance)
                pieces.append((utterance, samples))
        done = decode_timed(transcriber, pieces)
        for (utterance, _), (text, language) in zip(pieces, done.texts, strict=True):
            rows[utterance.id] = {"text": text, "language": language, "error": None}
        cost = {name: getattr(done.cost, name) for name in COST}
        timing = {"audio_s": done.audio_s, "compute_s": done.compute_s, **cost}
        write_atomic(self._timing_path(number), json.dumps(timing) + "\n")
        write_shard(shard_path(self.out, number), [{"id": u.id, **rows[u.id]} for u in utterances])
        on_progress(len(rows), done.audio_s)
        return 0 if degrader is None else degrader.n_silent - n_before

    def score(self, n_parameters: int) -> EvaluationSummary:
        """Score what all shards hold."""
        numbers = range(self.n_shards)
        rows = [row for number in numbers for row in read_jsonl(shard_path(self.out, number))]
        timings = [json.loads(self._timing_path(number).read_text()) for number in numbers]
        return score(self.manifest, rows, timings, self.out, n_parameters=n_parameters)


class TimedTexts(NamedTuple):
    """The hypotheses of some utterances, and what decoding them took."""

    texts: list[tuple[str, str | None]]  # of each: text and language
    audio_s: float
    compute_s: float
    cost: Counts


def decode_timed(
    transcriber: Transcriber, pieces: Sequence[tuple[Utterance, Samples]]
) -> TimedTexts:
    """Decode utterances, those longer than a window in the transcriber's long form, and time it.

    Their sound is there, so that reading it is not timed; their languages hold.
    """
    sounds = [samples for _, samples in pieces]
    languages = [utterance.language for utterance, _ in pieces]
    short = [place for place, samples in enumerate(sounds) if len(samples) <= WINDOW_SAMPLES]
    long = [place for place, samples in enumerate(sounds) if len(samples) > WINDOW_SAMPLES]
    before, began = transcriber.counts, _now(transcriber)
    windows = transcriber.decode(
        [sounds[place] for place in short], languages=[languages[place] for place in short]
    )
    texts = {place: (w.text, w.language) for place, w in zip(short, windows, strict=True)}
    recordings = (HeldRecording(sounds[place]) for place in long)
    of_long = (languages[place] for place in long)
    for number, transcript in transcriber.transcribe_all(recordings, languages=of_long):
        if not isinstance(transcript, Transcript):
            raise transcript
        texts[long[number]] = transcript.text, transcript.language
    compute_s, cost = _now(transcriber) - began, transcriber.counts - before
    audio_s = sum(samples_to_seconds(len(samples)) for samples in sounds)
    return TimedTexts([texts[place] for place in range(len(pieces))], audio_s, compute_s, cost)


def _now(transcriber: Transcriber) -> float:
    """Return the clock once the device has finished its work."""
    if transcriber.checkpoint.model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
