"""Stage 4: train the student's decoder on what the teacher said and how sure it was.

The teacher's encoder runs once per batch, without gradients, and serves both decoders; where the
recipe says so its outputs are kept on disk, and then it runs once per utterance.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file, save
from torch import Tensor

from distilwhisper.corpus.batches import (
    IGNORE,
    Drawn,
    Example,
    Mixture,
    TokenBatch,
    decoder_sequence,
    example_generator,
    keeps_previous,
    keeps_timestamps,
    load_utterances,
    load_windows,
    token_batch,
    with_prompt,
)
from distilwhisper.corpus.packing import Fill
from distilwhisper.corpus.records import Manifest, Utterance
from distilwhisper.corpus.store import write_atomic
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.model.checkpoint import Checkpoint
from distilwhisper.model.whisper import Whisper
from distilwhisper.progress import progress_bar, say
from distilwhisper.run import MetricsLog
from distilwhisper.speech.audio import FRAMES_PER_WINDOW, HOP_SAMPLES, WINDOW_S
from distilwhisper.speech.augment import (
    Augmentation,
    AugmentSettings,
    augment_samples,
    draw_augmentation,
    mask_mel,
)
from distilwhisper.speech.mel import log_mel, stack_windows
from distilwhisper.text.normalize import normalizer_for
from distilwhisper.text.tokens import Tokenizer
from distilwhisper.text.wer import ErrorCounts, word_errors
from distilwhisper.training.encoder_cache import EncoderCache
from distilwhisper.training.loss import clip_gradients, distillation_sums, learning_rate
from distilwhisper.training.state import Progress, checkpoints, load_state, save_state


@dataclass(frozen=True)
class TrainingSettings:
    """The paper's hyper-parameters (table 15) as defaults."""

    steps: int = 80_000
    """Updates of the weights."""
    batch_size: int = 256
    """Utterances per update."""
    micro_batch_size: int = 16
    """Utterances that go through the network at a time; less memory, the same result."""
    peak_lr: float = 1e-4
    """Learning rate at the end of the warm-up; it falls to zero linearly."""
    warmup_steps: int = 500
    """Updates of linear warm-up."""
    kl_weight: float = 0.8
    """Weight of the KL divergence between teacher and student (eq. 6)."""
    pl_weight: float = 1.0
    """Weight of the cross-entropy on pseudo-labels (eq. 6)."""
    temperature: float = 2.0
    """Softens both distributions of the KL term."""
    timestamp_probability: float = 0.5
    """How often a label keeps its timestamps, drawn anew every epoch."""
    prompt_probability: float = 0.0
    """How often a window is given the text that precedes it, drawn anew every epoch."""
    prompt_gap_s: float = 3.0
    """Longest silence across which an utterance precedes the next of its recording."""
    source_weights: tuple[tuple[str, float], ...] = ()
    """Sources of the utterances with the share of the windows that each gets, up to a common
    factor; none: every utterance counts alike."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    clip_norm: float = 1.0
    """Gradients are scaled down together beyond this norm."""
    checkpoint_every: int = 5_000
    """Updates between checkpoints; each is validated, and the best one becomes the student."""
    log_every: int = 25
    """Updates between rows of metrics.jsonl."""
    pack_s: float = 0.0
    """Utterances are packed into windows of at most this length, at most 30; 0: a window holds one
    utterance."""
    pack_fill: Fill = "varied"
    """To lengths drawn evenly, so that the student hears short windows too; or "full"."""
    pack_pause_s: float = 0.5
    """Silence between packed utterances."""
    pack_across_recordings: bool = False
    """Pack utterances together that are not known to be of one recording or one speaker."""
    cache_encoder: bool = False
    """Keep the frozen encoder's outputs on disk instead of computing them every epoch."""
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    seed: int = 0
    """Of the data order and of all that is drawn for an example."""

    def __post_init__(self) -> None:
        faults = [
            f"{name} must be at least {least}, found {getattr(self, name)}"
            for name, least in _AT_LEAST.items()
            if getattr(self, name) < least
        ]
        faults += [
            f"{name} must lie in [0, 1], found {getattr(self, name)}"
            for name in ("timestamp_probability", "prompt_probability")
            if not 0 <= getattr(self, name) <= 1
        ]
        if self.pack_s > WINDOW_S:
            faults.append(f"pack_s must be at most {WINDOW_S:g}, found {self.pack_s:g}")
        if any(weight <= 0 for _, weight in self.source_weights):
            faults.append("source_weights must be above zero: leave the others' utterances out")
        if len(dict(self.source_weights)) < len(self.source_weights):
            faults.append("source_weights must name every source once")
        if self.cache_encoder and self.augment.is_on:
            faults.append(
                "cache_encoder keeps what the encoder made of the sound as it is: switch it off, "
                "or everything in augment"
            )
        if self.temperature <= 0 or self.clip_norm <= 0 or self.peak_lr <= 0:
            faults.append("temperature, clip_norm and peak_lr must be above zero")
        if faults:
            raise ValueError("; ".join(faults))


_AT_LEAST = {
    "steps": 1,
    "batch_size": 1,
    "micro_batch_size": 1,
    "warmup_steps": 0,
    "kl_weight": 0,
    "pl_weight": 0,
    "weight_decay": 0,
    "pack_s": 0,
    "pack_pause_s": 0,
    "prompt_gap_s": 0,
    "checkpoint_every": 1,
    "log_every": 1,
}


class NonFiniteLoss(ArithmeticError):
    """The loss or its gradient is no number; the weights were left as they were."""


@dataclass(frozen=True)
class TrainingData:
    """What a run learns from, and what it is judged by while it learns."""

    manifest: Manifest
    examples: Sequence[Example]
    validation: Manifest | None = None  # with references; none: the last weights win


@dataclass(frozen=True)
class StepMetrics:
    """One update, summed over its micro-batches and divided once."""

    kl: float  # nats per token, temperature squared included
    pl: float  # nats per token
    grad_norm: float
    lr: float
    n_tokens: int


@dataclass(frozen=True)
class Trainer:
    """A teacher, a student, and the run that makes one follow the other.

    Args:
        teacher: its encoder and decoder are never changed.
        student: its decoder is trained, in float32; its encoder is the teacher's and stays.
        tokenizer: of both.
        data: kept utterances and validation set.
        settings: hyper-parameters.
        out: the run's folder: checkpoints, metrics.jsonl, the encoder cache while it is needed.

    Raises:
        ValueError: teacher and student differ in vocabulary, mel bins or width, or there is
            nothing to learn from; a label is too long; the validation set holds no text, or
            utterances over 30 s.
    """

    teacher: Whisper
    student: Checkpoint
    tokenizer: Tokenizer
    data: TrainingData
    settings: TrainingSettings
    out: Path

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_mels", "width"):
            found = getattr(self.teacher.config, name), getattr(self.student.model.config, name)
            if found[0] != found[1]:
                raise ValueError(
                    f"teacher and student must have the same {name}: found {found[0]} and "
                    f"{found[1]}; build the student from this teacher"
                )
        if not self.data.examples:
            raise ValueError(
                "training needs at least one kept utterance, found none: raise filter.max_wer, or "
                "see why the labels were dropped in the verdicts' summary.json"
            )
        limit = self.student.model.config.max_tokens
        for example in self.data.examples:
            if not 2 <= len(example.token_ids) <= limit:
                raise ValueError(
                    f"a label must hold 2 to {limit} tokens, found {len(example.token_ids)} in "
                    f"{example.id!r}: filter again without it"
                )
        self._check_validation()
        _ = self._mixture  # its weights may be of other sources

    def _check_validation(self) -> None:
        """Find out now what would end the run at its first checkpoint."""
        if self.data.validation is None:
            return
        utterances = [u for u in self.data.validation.utterances if u.text]
        if not utterances:
            raise ValueError(
                f"{self.data.validation.path} must hold utterances with a text to validate by, "
                "found none"
            )
        too_long = [u.id for u in utterances if (u.duration_s or 0.0) > WINDOW_S]
        if too_long:
            raise ValueError(
                f"validation utterances must last at most {WINDOW_S:g} s, found {len(too_long)} "
                f"longer ones, first {too_long[0]!r}: leave them to the test set"
            )

    def fit(self, *, on_steps: Callable[[float], None] | None = None) -> Progress:
        """Train to the last step, from the newest checkpoint if there is one.

        Args:
            on_steps: called with the number of updates just done, or found done.

        Returns:
            Where the run ended; ``student.model`` holds the best weights.

        Raises:
            NonFiniteLoss: before the update, naming the step and the utterances.
        """
        trained = self._trained()
        optimizer = self._optimizer(trained)
        progress = self._resume(trained, optimizer)
        cache = self._filled_cache() if progress.step < self.settings.steps else None
        log = MetricsLog(self.out / "metrics.jsonl")
        log.truncate_after(progress.step)
        if on_steps:
            on_steps(progress.step)
        began, began_at = time.perf_counter(), progress.step
        for step in range(progress.step, self.settings.steps):
            metrics = self._update(step, trained, optimizer, cache)
            if on_steps:
                on_steps(1)
            if (step + 1) % self.settings.log_every == 0 or step + 1 == self.settings.steps:
                n_windows = (step + 1 - began_at) * self.settings.batch_size
                speed = n_windows / (time.perf_counter() - began)
                row = self._row(step + 1, metrics)
                log.append({**row, "windows_per_s": round(speed, 3)})
            progress = replace(progress, step=step + 1)
            if (step + 1) % self.settings.checkpoint_every == 0 or step + 1 == self.settings.steps:
                progress = self._checkpoint(progress, trained, optimizer, log)
        self._take_best(trained)
        EncoderCache(self._cache_folder, []).remove()
        return progress

    # One update

    def _update(
        self,
        step: int,
        trained: dict[str, Tensor],
        optimizer: torch.optim.AdamW,
        cache: EncoderCache | None,
    ) -> StepMetrics:
        settings = self.settings
        lr = learning_rate(
            step,
            peak=settings.peak_lr,
            warmup_steps=settings.warmup_steps,
            total_steps=settings.steps,
        )
        for group in optimizer.param_groups:
            group["lr"] = lr
        micro_batches = list(self._micro_batches(step))
        n_tokens = sum(tokens.n_tokens for _, tokens in micro_batches)
        kl = pl = 0.0
        optimizer.zero_grad(set_to_none=True)
        for drawn, tokens in micro_batches:
            sums_kl, sums_pl = self._sums(self._encoder_states(drawn, cache), tokens)
            loss = (settings.kl_weight * sums_kl + settings.pl_weight * sums_pl) / n_tokens
            loss.backward()  # type: ignore[no-untyped-call]
            kl += sums_kl.item() / n_tokens
            pl += sums_pl.item() / n_tokens
        norm = clip_gradients(list(trained.values()), settings.clip_norm)
        if not all(map(math.isfinite, (kl, pl, norm))):
            raise self._non_finite(step, micro_batches, kl, pl, norm)
        optimizer.step()
        return StepMetrics(kl, pl, norm, lr, n_tokens)

    def _sums(
        self, encoder_states: Float[Tensor, "batch frames width"], tokens: TokenBatch
    ) -> tuple[Tensor, Tensor]:
        device = self.teacher.device
        inputs, labels = tokens.inputs.to(device), tokens.labels.to(device)
        counted = labels != IGNORE
        with self._autocast():
            with torch.no_grad():
                teacher_logits = _logits(self.teacher, encoder_states, inputs, counted)
            student_logits = _logits(self.student.model, encoder_states, inputs, counted)
        sums = distillation_sums(
            student_logits,
            teacher_logits,
            labels[counted][None],
            temperature=self.settings.temperature,
        )
        return sums.kl, sums.pl

    @cached_property
    def _mixture(self) -> Mixture:
        sources = [example.utterances[0].source for example in self.data.examples]
        return Mixture(sources, dict(self.settings.source_weights), seed=self.settings.seed)

    def _micro_batches(self, step: int) -> Iterator[tuple[list[Drawn], TokenBatch]]:
        """Yield one update's examples; the stream of epochs goes on across updates."""
        size = self.settings.batch_size
        by_context: dict[int, list[Drawn]] = {}
        for place in range(step * size, (step + 1) * size):
            drawn = self._mixture.at(place)
            by_context.setdefault(self._augmentation(drawn).n_frames, []).append(drawn)
        for alike in by_context.values():
            for at in range(0, len(alike), self.settings.micro_batch_size):
                micro = alike[at : at + self.settings.micro_batch_size]
                yield micro, token_batch([self._sequence(d) for d in micro], self.tokenizer)

    def _sequence(self, drawn: Drawn) -> list[int]:
        settings, example = self.settings, self.data.examples[drawn.example]
        draw = {"seed": settings.seed, "epoch": drawn.epoch}
        timestamps = keeps_timestamps(
            example.id, probability=settings.timestamp_probability, **draw
        )
        sequence = decoder_sequence(
            example.token_ids,
            self.tokenizer,
            timestamps=timestamps,
            speed=self._augmentation(drawn).speed,
        )
        if not keeps_previous(example.id, probability=settings.prompt_probability, **draw):
            return sequence
        limit = self.student.model.config.max_tokens
        return with_prompt(sequence, example.previous, self.tokenizer, max_tokens=limit)

    def _augmentation(self, drawn: Drawn) -> Augmentation:
        settings, example = self.settings, self.data.examples[drawn.example]
        if not settings.augment.is_on:
            return Augmentation()
        generator = example_generator(example.id, seed=settings.seed, epoch=drawn.epoch)
        return draw_augmentation(settings.augment, generator, end_s=example.end_s)

    # The encoder

    def _encoder_states(self, drawn: Sequence[Drawn], cache: EncoderCache | None) -> Tensor:
        if cache is not None:
            return cache.read([d.example for d in drawn]).to(self.teacher.device)
        examples = [self.data.examples[d.example] for d in drawn]
        return self._encode(examples, [self._augmentation(d) for d in drawn])

    @torch.no_grad()
    def _encode(
        self, examples: Sequence[Example], augmentations: Sequence[Augmentation] = ()
    ) -> Tensor:
        return self.teacher.encoder(self._mel(examples, augmentations).to(self.teacher.dtype))

    def _mel(
        self, examples: Sequence[Example], augmentations: Sequence[Augmentation]
    ) -> Float[Tensor, "batch n_mels frames"]:
        """Return what the encoder hears; the augmentations, if any, agree in their frames."""
        windows = load_windows(self.data.manifest, examples)
        settings = self.settings.augment
        n_frames = FRAMES_PER_WINDOW
        if settings.is_on and augmentations:
            n_frames = augmentations[0].n_frames
            windows = [
                augment_samples(samples, augmentation, settings)
                for samples, augmentation in zip(windows, augmentations, strict=True)
            ]
        samples = stack_windows(windows)[:, : n_frames * HOP_SAMPLES]
        mel = log_mel(samples.to(self.teacher.device), n_mels=self.teacher.config.n_mels)
        if not augmentations or not (settings.time_mask_share or settings.frequency_mask_share):
            return mel
        rows = [
            mask_mel(row, augmentation, settings, n_sound_frames=-(-len(window) // HOP_SAMPLES))
            for row, augmentation, window in zip(mel, augmentations, windows, strict=True)
        ]
        return torch.stack(rows)

    def _filled_cache(self) -> EncoderCache | None:
        if not self.settings.cache_encoder:
            return None
        config, examples = self.teacher.config, self.data.examples
        cache = EncoderCache(self._cache_folder, examples)
        size = cache.n_bytes(
            max_frames=config.max_frames, width=config.width, dtype=self.teacher.dtype
        )
        say(
            f"train: keeping encoder outputs of {len(examples)} windows, {size / 1e9:.2f} GB, "
            f"in {cache.folder}"
        )
        with progress_bar("encode", len(examples), "windows") as advance:
            cache.fill(self._encode, on_progress=advance)
        return cache

    @property
    def _cache_folder(self) -> Path:
        return self.out / "encoder-cache"

    # Checkpoints and validation

    def _trained(self) -> dict[str, Tensor]:
        self.student.model.requires_grad_(False)
        self.student.model.decoder.requires_grad_(True)
        return {
            f"decoder.{name}": weight
            for name, weight in self.student.model.decoder.named_parameters()
        }

    def _optimizer(self, trained: Mapping[str, Tensor]) -> torch.optim.AdamW:
        return torch.optim.AdamW(
            list(trained.values()),
            lr=self.settings.peak_lr,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=self.settings.weight_decay,
            fused=self.teacher.device.type == "cpu",  # one pass over the memory instead of ten
        )

    def _resume(self, trained: Mapping[str, Tensor], optimizer: torch.optim.AdamW) -> Progress:
        found = checkpoints(self.out)
        return load_state(found[-1], trained, optimizer) if found else Progress(step=0)

    def _checkpoint(
        self,
        progress: Progress,
        trained: dict[str, Tensor],
        optimizer: torch.optim.AdamW,
        log: MetricsLog,
    ) -> Progress:
        wer = self._validation_wer()
        if wer is not None:
            log.append({"step": progress.step, "validation_wer": wer})
        if wer is None or progress.best_wer is None or wer < progress.best_wer:
            progress = replace(progress, best_wer=wer, best_step=progress.step)
            weights = {name: weight.detach().cpu() for name, weight in trained.items()}
            write_atomic(self._best_path, save(weights))
        save_state(self.out, progress, trained, optimizer)
        return progress

    def _validation_wer(self) -> float | None:
        """Return the student's WER on the validation set, decoded without timestamps.

        An utterance that cannot be read counts as one of which nothing was heard.
        """
        manifest = self.data.validation
        if manifest is None:
            return None
        transcriber = Transcriber(
            self.student, self.tokenizer, DecodingSettings(timestamps=False, temperatures=(0.0,))
        )
        spoken = [utterance for utterance in manifest.utterances if utterance.text]
        counts = ErrorCounts()
        for at in range(0, len(spoken), transcriber.settings.batch_size):
            batch = spoken[at : at + transcriber.settings.batch_size]
            for utterance, heard in zip(
                batch, self._heard(transcriber, manifest, batch), strict=True
            ):
                normalize = normalizer_for(utterance.language or "en")
                counts += word_errors(normalize(utterance.text or ""), normalize(heard))
        return counts.wer

    @staticmethod
    def _heard(
        transcriber: Transcriber, manifest: Manifest, utterances: Sequence[Utterance]
    ) -> list[str]:
        """Return what the student hears in some validation utterances, "" for unreadable ones."""
        loaded = list(load_utterances(manifest, utterances))
        readable = [(u, samples) for u, samples in loaded if not isinstance(samples, Exception)]
        windows = transcriber.decode(
            [samples for _, samples in readable], languages=[u.language for u, _ in readable]
        )
        texts = {u.id: window.text for (u, _), window in zip(readable, windows, strict=True)}
        return [texts.get(utterance.id, "") for utterance in utterances]

    def _take_best(self, trained: Mapping[str, Tensor]) -> None:
        best = load_file(self._best_path)
        for name, weight in trained.items():
            weight.data.copy_(best[name])

    @property
    def _best_path(self) -> Path:
        return self.out / "best.safetensors"

    # Reporting

    def _row(self, step: int, metrics: StepMetrics) -> dict[str, Any]:
        settings = self.settings
        return {
            "step": step,
            "epoch": round(step * settings.batch_size / len(self.data.examples), 4),
            "loss": settings.kl_weight * metrics.kl + settings.pl_weight * metrics.pl,
            "kl": metrics.kl,
            "pl": metrics.pl,
            "grad_norm": metrics.grad_norm,
            "lr": metrics.lr,
            "n_tokens": metrics.n_tokens,
        }

    def _non_finite(
        self,
        step: int,
        micro_batches: Sequence[tuple[Sequence[Drawn], TokenBatch]],
        kl: float,
        pl: float,
        norm: float,
    ) -> NonFiniteLoss:
        ids = [self.data.examples[d.example].id for drawn, _ in micro_batches for d in drawn]
        return NonFiniteLoss(
            f"loss and gradient must be finite, found KL {kl}, PL {pl}, gradient norm {norm} at "
            f"step {step + 1}, utterances {', '.join(ids[:8])}{' ...' if len(ids) > 8 else ''}; "
            "the weights were not updated: look at these utterances, or lower peak_lr"
        )

    def _autocast(self) -> torch.autocast:
        """Products in the teacher's dtype; what is trained stays float32."""
        dtype = self.teacher.dtype
        enabled = dtype in (torch.bfloat16, torch.float16)
        return torch.autocast(self.teacher.device.type, dtype=dtype, enabled=enabled)


def _logits(
    model: Whisper, encoder_states: Tensor, inputs: Tensor, counted: Bool[Tensor, "batch tokens"]
) -> Float[Tensor, "1 counted vocab"]:
    """Return the logits of the tokens that count: the vocabulary is too wide for padding."""
    states = model.decoder(inputs, model.decoder.cross_cache(encoder_states))
    return model.decoder.project(states[counted][None])
