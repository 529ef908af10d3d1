"""Stage 5: how well a model hears, utterance by utterance, and how fast.

    OUT/shard-00000.jsonl  one hypothesis per utterance, in the manifest's order
    OUT/timing/00000.json  seconds of audio and of computing, of a shard
    OUT/scores.jsonl       errors per utterance
    OUT/summary.json       their sums

Decoding writes the first two and can be interrupted; scoring is a second pass over them, so a new
metric needs no new decoding. No utterance is ever left out: one that cannot be read counts as one
of which nothing was heard, and is named.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distilwhisper.corpus.batches import load_utterances
from distilwhisper.corpus.records import Manifest, Utterance, read_manifest
from distilwhisper.corpus.store import (
    read_jsonl,
    shard_path,
    write_atomic,
    write_jsonl,
    write_shard,
)
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.slots import Counts
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.engines import DecodingJob, EngineSettings, run_shards
from distilwhisper.evaluation.degradation import Degradation, Degrader
from distilwhisper.model.checkpoint import count_parameters
from distilwhisper.model.hardware import Hardware
from distilwhisper.model.hub import resolve_model
from distilwhisper.progress import Advance, progress_bar, say
from distilwhisper.run import fingerprint, lock_folder, open_stage
from distilwhisper.speech.audio import (
    SAMPLE_RATE_HZ,
    WINDOW_SAMPLES,
    Samples,
    samples_to_seconds,
)
from distilwhisper.speech.recording import HeldRecording
from distilwhisper.text.normalize import normalizer_for, uses_spaces
from distilwhisper.text.transcript import Transcript
from distilwhisper.text.wer import ErrorCounts, character_errors, repeated_ngrams, word_errors

COST = ("tokens", "row_steps", "drafted", "accepted", "layers")  # of decoding: Counts


@dataclass(frozen=True)
class EvaluateSettings:
    """How a model is judged."""

    decoding: DecodingSettings = field(default_factory=DecodingSettings)
    """How audio becomes text."""
    shard_size: int = 64
    """Utterances per shard: what a killed run loses at most."""
    noise: str | None = None
    """What the sound goes through first, as KIND[:LEVEL][@PATH]: white:10, pink:0, babble:5,
    recorded:10@FOLDER (dB of speech over noise), reverberation:0.6 (seconds of RT60) or
    reverberation@FOLDER, codec:opus-6k, codec:mp3-16k, codec:mulaw, clipping:12 (dB)."""
    noise_seed: int = 0
    """Of what is drawn for the noise of each utterance; the same for all models and levels."""

    def __post_init__(self) -> None:
        faults = []
        if self.shard_size < 1:
            faults.append(f"shard_size must be at least 1, found {self.shard_size}")
        if self.noise is not None:
            try:
                Degradation.parse(self.noise)
            except ValueError as error:
                faults.append(str(error))
        if faults:
            raise ValueError("; ".join(faults))


@dataclass(frozen=True)
class EvaluationSummary:
    """Sums over a whole set; rates are fractions."""

    n_utterances: int
    n_without_reference: int  # transcribed, not scored
    failed: dict[str, str]  # utterance id to what went wrong; scored as if nothing was heard
    audio_s: float
    compute_s: float  # mel, encoder and decoder; reading the files is left out
    tokens: int  # decoded, over all attempts
    row_steps: int  # passes of the decoder that a window took part in, summed over the windows
    drafted: int  # tokens proposed by a draft
    accepted: int  # of these
    layers: int  # decoder layers used over all tokens, where early exit counts them
    n_parameters: int
    unit: str  # "word"; "character" where any language of the set is written without spaces
    errors: ErrorCounts
    repeated_5_grams: int  # over all hypotheses joined

    @property
    def cost(self) -> Counts:
        """What decoding cost, with its rates; passes over several windows are not known."""
        return Counts(**{name: getattr(self, name) for name in COST})

    @property
    def rtfx(self) -> float:
        """Seconds of audio per second of computing."""
        return self.audio_s / self.compute_s if self.compute_s else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return what summary.json holds: the sums, and the rates made of them."""
        counts = self.errors
        rates = {"wer": counts.wer, "ser": counts.ser, "der": counts.der, "ier": counts.ier}
        defined = {k: v if counts.words else None for k, v in rates.items()}
        cost = {
            "acceptance": self.cost.acceptance if self.drafted else None,
            "tokens_per_step": self.cost.tokens_per_step if self.row_steps else None,
            "layers_per_token": self.cost.layers_per_token if self.layers else None,
        }
        return {**asdict(self), **defined, **cost, "rtfx": round(self.rtfx, 2)}


def evaluate_model(
    model: str,
    manifest_path: Path,
    out: Path,
    settings: EvaluateSettings,
    *,
    hardware: Hardware | None = None,
    draft: str | None = None,
    engine: EngineSettings | None = None,
    force: bool = False,
) -> EvaluationSummary:
    """Transcribe a set and score it, going on where a run before stopped.

    Args:
        model: folder or hub id.
        manifest_path: utterances with references; longer ones than 30 s are cut into chunks.
        out: folder of the results.
        settings: how to decode.
        hardware: device and dtype.
        draft: model that drafts for this one: the same text, at another speed.
        engine: which processes do it.
        force: begin anew where settings or inputs have changed.
    """
    hardware, engine = hardware or Hardware(), engine or EngineSettings()
    manifest = read_manifest(manifest_path)
    folder = resolve_model(model)
    noise = None if settings.noise is None else Degradation.parse(settings.noise)
    inputs = {"manifest": manifest_path, "model": folder}
    if noise is not None and noise.source is not None:
        inputs["noise"] = noise.source
        noise = replace(noise, source=noise.source.absolute())
    job = EvaluateJob(
        manifest=manifest,
        model=folder.absolute(),
        out=out.absolute(),
        decoding=settings.decoding,
        shard_size=settings.shard_size,
        hardware=hardware,
        draft=None if draft is None else resolve_model(draft).absolute(),
        noise=noise,
        noise_seed=settings.noise_seed,
    )
    with lock_folder(out):
        open_stage(
            out,
            settings={**asdict(settings), **asdict(hardware), "draft": draft},
            inputs={name: fingerprint(path) for name, path in inputs.items()},
            force=force,
        )
        _decode_missing(job, engine)
        return score(
            manifest,
            [row for i in range(job.n_shards) for row in read_jsonl(shard_path(out, i))],
            [_read_timing(out, i) for i in range(job.n_shards)],
            out,
            n_parameters=count_parameters(folder),
        )


def score(
    manifest: Manifest,
    rows: Sequence[dict[str, Any]],
    timing: Sequence[dict[str, float]],
    out: Path,
    *,
    n_parameters: int,
) -> EvaluationSummary:
    """Count the errors of stored hypotheses and write scores.jsonl and summary.json.

    Args:
        manifest: with the references.
        rows: one hypothesis per utterance.
        timing: of each shard, what decoding it took.
        out: where the results go.
        n_parameters: of the model, for the record.
    """
    by_id = {utterance.id: utterance for utterance in manifest.utterances}
    spaced = all(uses_spaces(_language(by_id[row["id"]], row)) for row in rows)
    scored = [
        _score_row(by_id[row["id"]], row, spaced=spaced)
        for row in rows
        if by_id[row["id"]].text is not None
    ]
    total = ErrorCounts(0, 0, 0, 0)
    for row in scored:
        total += ErrorCounts(**row["errors"])
    summary = EvaluationSummary(
        n_utterances=len(rows),
        n_without_reference=len(rows) - len(scored),
        failed={row["id"]: row["error"] for row in rows if row["error"]},
        audio_s=round(sum(t["audio_s"] for t in timing), 3),
        compute_s=round(sum(t["compute_s"] for t in timing), 3),
        **{name: int(sum(t[name] for t in timing)) for name in COST},
        n_parameters=n_parameters,
        unit="word" if spaced else "character",
        errors=total,
        repeated_5_grams=repeated_ngrams(row["hypothesis"] for row in scored),
    )
    write_jsonl(out / "scores.jsonl", scored)
    write_atomic(out / "summary.json", json.dumps(summary.to_dict(), indent=2) + "\n")
    return summary


def _language(utterance: Utterance, row: dict[str, Any]) -> str:
    """Return the reference's language where it is known, else the one that was heard."""
    return utterance.language or row["language"] or "en"


def _score_row(utterance: Utterance, row: dict[str, Any], *, spaced: bool) -> dict[str, Any]:
    """Normalise both sides alike and count words, or characters."""
    normalize = normalizer_for(_language(utterance, row))
    reference, hypothesis = normalize(utterance.text or ""), normalize(row["text"])
    count = word_errors if spaced else character_errors
    return {
        "id": utterance.id,
        "reference": reference,
        "hypothesis": hypothesis,
        "errors": asdict(count(reference, hypothesis)),
    }


def _decode_missing(job: "EvaluateJob", engine: EngineSettings) -> None:
    """Write the shards of hypotheses, and their timing, that are not there."""
    missing = [i for i in range(job.n_shards) if not job.is_done(i)]
    if not missing:
        return
    n_left = sum(len(job.shard(i)) for i in missing)
    say(
        f"evaluate: {n_left} of {len(job.manifest.utterances)} utterances "
        f"({engine.where(job.hardware)})"
    )
    with progress_bar("evaluate", n_left, "utterances") as advance:
        n_silent = sum(run_shards(job, missing, engine, on_progress=advance))
    if n_silent:
        say(f"evaluate: {n_silent} utterances are silent, and were left without {job.noise}")


@dataclass(frozen=True)
class EvaluateJob(DecodingJob):
    """What every process that evaluates must know; an engine's job."""

    noise: Degradation | None
    noise_seed: int

    def is_done(self, number: int) -> bool:
        """Tell whether a shard is there, with its timing."""
        return shard_path(self.out, number).exists() and _timing_path(self.out, number).exists()

    def start(self) -> Callable[[int, Advance], int]:
        """Load the model and warm it up; return what decodes a shard.

        That returns how many utterances have no sound for the noise to be under.
        """
        degrader = None
        if self.noise is not None:
            degrader = Degrader(self.noise, self.manifest, self.noise_seed)
        transcriber = self.load()
        _warm_up(transcriber)
        return partial(self._write, transcriber, degrader)

    def _write(
        self,
        transcriber: Transcriber,
        degrader: Degrader | None,
        number: int,
        on_progress: Advance,
    ) -> int:
        n_before = 0 if degrader is None else degrader.n_silent
        rows, timing = _decode_shard(transcriber, degrader, self.manifest, self.shard(number))
        write_atomic(_timing_path(self.out, number), json.dumps(timing) + "\n")
        write_shard(shard_path(self.out, number), rows)
        on_progress(len(rows), timing["audio_s"])
        return 0 if degrader is None else degrader.n_silent - n_before


def _decode_shard(
    transcriber: Transcriber,
    degrader: Degrader | None,
    manifest: Manifest,
    utterances: Sequence[Utterance],
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    by_length = sorted(utterances, key=lambda u: (u.duration_s or 0.0, u.id))
    loaded = list(load_utterances(manifest, by_length))
    rows = {
        utterance.id: _row(utterance, "", utterance.language, error=str(problem))
        for utterance, problem in loaded
        if isinstance(problem, Exception)
    }
    heard = [(u, samples) for u, samples in loaded if not isinstance(samples, Exception)]
    if degrader is not None:
        heard = [(u, degrader.apply(samples, u)) for u, samples in heard]
    short = [(u, samples) for u, samples in heard if len(samples) <= WINDOW_SAMPLES]
    long = [(u, samples) for u, samples in heard if len(samples) > WINDOW_SAMPLES]
    before = transcriber.counts
    began = _now(transcriber)
    windows = transcriber.decode(
        [samples for _, samples in short], languages=[u.language for u, _ in short]
    )
    for (utterance, _), window in zip(short, windows, strict=True):
        rows[utterance.id] = _row(utterance, window.text, window.language)
    recordings = (HeldRecording(samples) for _, samples in long)
    languages = (utterance.language for utterance, _ in long)
    for number, transcript in transcriber.transcribe_all(recordings, languages=languages):
        if not isinstance(transcript, Transcript):
            raise transcript
        utterance = long[number][0]
        rows[utterance.id] = _row(utterance, transcript.text, transcript.language)
    compute_s = _now(transcriber) - began
    audio_s = sum(samples_to_seconds(len(samples)) for _, samples in heard)
    cost = transcriber.counts - before
    timing = {
        "audio_s": audio_s,
        "compute_s": compute_s,
        **{name: getattr(cost, name) for name in COST},
    }
    return [rows[u.id] for u in utterances], timing


def _row(
    utterance: Utterance, text: str, language: str | None, *, error: str | None = None
) -> dict[str, Any]:
    return {"id": utterance.id, "text": text, "language": language, "error": error}


def _warm_up(transcriber: Transcriber) -> None:
    silence: Samples = np.zeros(SAMPLE_RATE_HZ, dtype=np.float32)
    transcriber.decode([silence])


def _now(transcriber: Transcriber) -> float:
    """Return the clock once the device has finished all that it was asked."""
    if transcriber.checkpoint.model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _timing_path(out: Path, number: int) -> Path:
    return out / "timing" / f"{number:05d}.json"


def _read_timing(out: Path, number: int) -> dict[str, float]:
    timing: dict[str, float] = json.loads(_timing_path(out, number).read_text())
    return timing


def summary_line(name: str, summary: EvaluationSummary) -> str:
    """Return a result in one line, for people."""
    counts = summary.errors
    rate = f"{100 * counts.wer:.1f} %" if counts.words else "no references"
    return (
        f"{name}: {'WER' if summary.unit == 'word' else 'CER'} {rate} "
        f"({counts.substitutions} S, {counts.deletions} D, {counts.insertions} I of "
        f"{counts.words}), {summary.n_utterances} utterances, RTFx {summary.rtfx:.1f}, "
        f"{summary.n_parameters / 1e6:.1f} M parameters{_drafting(summary)}"
    )


def _drafting(summary: EvaluationSummary) -> str:
    if not summary.drafted:
        return ""
    return (
        f", {100 * summary.cost.acceptance:.0f} % of the draft accepted, "
        f"{summary.cost.tokens_per_step:.1f} tokens a step"
    )
