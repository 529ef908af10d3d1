"""Stage 4: train the student's decoder on what the teacher said and how sure it was.

The teacher's encoder runs once per batch, without gradients, and serves both decoders; where the
recipe says so its outputs are kept on disk, and then it runs once per utterance.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from distilwhisper.corpus.batches import (
    IGNORE,
    Example,
    TokenBatch,
    decoder_sequence,
    epoch_order,
    keeps_timestamps,
    load_utterances,
    token_batch,
)
from distilwhisper.corpus.records import Manifest, Utterance
from distilwhisper.corpus.store import write_atomic
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.model.checkpoint import Checkpoint
from distilwhisper.model.whisper import Whisper
from distilwhisper.run import MetricsLog
from distilwhisper.speech.audio import WINDOW_S
from distilwhisper.text.normalize import normalizer_for
from distilwhisper.text.tokens import Tokenizer
from distilwhisper.text.wer import ErrorCounts, word_errors
from distilwhisper.training.forcing import forced_states
from distilwhisper.training.fused import Objective, fused_sums
from distilwhisper.training.loss import (
    Divergence,
    clip_gradients,
    hidden_mse_sum,
    learning_rate,
)
from distilwhisper.training.source import StateSource, remove_caches, same_weights
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
    """Weight of the KL divergence between teacher and student (eq. 6); 0 asks no teacher."""
    pl_weight: float = 1.0
    """Weight of the cross-entropy on pseudo-labels (eq. 6)."""
    mse_weight: float = 0.0
    """Weight of the squared distance between hidden states (eq. 10-12)."""
    temperature: float = 2.0
    """Softens both distributions of the KL term."""
    divergence: Divergence = "forward-kl"
    """What stands in the place of the paper's KL(teacher || student)."""
    teacher_annealing: bool = False
    """Let kl_weight and mse_weight fall linearly to 0, so that the labels teach alone in the end
    (arXiv:1907.04829)."""
    train_encoder: bool = False
    """Train the student's encoder too; the teacher then hears through its own."""
    freeze_positions: bool = False
    """Leave the decoder's position embeddings as they are."""
    checkpoint_activations: bool = False
    """Make the activations inside layers again in the backward pass; less memory, more time."""
    timestamp_probability: float = 0.5
    """How often a label keeps its timestamps, drawn anew every epoch."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    clip_norm: float = 1.0
    """Gradients are scaled down together beyond this norm."""
    checkpoint_every: int = 5_000
    """Updates between checkpoints; each is validated, and the best one becomes the student."""
    log_every: int = 25
    """Updates between rows of metrics.jsonl."""
    pack_s: float = 0.0
    """Utterances are packed into windows of varied length up to this one, at most 30; 0: a window
    holds one utterance."""
    pack_pause_s: float = 0.5
    """Silence between packed utterances."""
    pack_across_recordings: bool = False
    """Pack utterances together that are not known to be of one recording or one speaker."""
    cache_encoder: bool = False
    """Keep frozen encoders' outputs on disk instead of computing them every epoch."""
    cache_teacher: bool = False
    """Keep the teacher's last hidden states on disk too, and train without its layers in memory."""
    seed: int = 0
    """Of the data order and the timestamp draws."""

    def __post_init__(self) -> None:
        faults = [
            f"{name} must be at least {least}, found {getattr(self, name)}"
            for name, least in _AT_LEAST.items()
            if getattr(self, name) < least
        ]
        if not 0 <= self.timestamp_probability <= 1:
            faults.append(
                f"timestamp_probability must lie in [0, 1], found {self.timestamp_probability}"
            )
        if self.pack_s > WINDOW_S:
            faults.append(f"pack_s must be at most {WINDOW_S:g}, found {self.pack_s:g}")
        if self.temperature <= 0 or self.clip_norm <= 0 or self.peak_lr <= 0:
            faults.append("temperature, clip_norm and peak_lr must be above zero")
        if not (self.kl_weight or self.pl_weight or self.mse_weight):
            faults.append("one of kl_weight, pl_weight and mse_weight must be above zero")
        if self.teacher_annealing and not self.pl_weight:
            faults.append("teacher_annealing ends with the labels alone: pl_weight must be above 0")
        if self.cache_teacher and (self.mse_weight or not self.kl_weight):
            faults.append(
                "cache_teacher keeps what kl_weight asks of the teacher, its last states alone: "
                f"kl_weight must be above 0 and mse_weight 0, found {self.kl_weight:g} and "
                f"{self.mse_weight:g}"
            )
        if faults:
            raise ValueError("; ".join(faults))

    @property
    def asks_teacher(self) -> bool:
        """Whether anything is learnt from the teacher's states."""
        return self.kl_weight > 0 or self.mse_weight > 0

    def teacher_share(self, step: int) -> float:
        """Return what is left of ``kl_weight`` and ``mse_weight`` at a step, counted from 0."""
        return 1 - step / self.steps if self.teacher_annealing else 1.0


_AT_LEAST = {
    "steps": 1,
    "batch_size": 1,
    "micro_batch_size": 1,
    "warmup_steps": 0,
    "kl_weight": 0,
    "pl_weight": 0,
    "mse_weight": 0,
    "weight_decay": 0,
    "pack_s": 0,
    "pack_pause_s": 0,
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

    loss: float  # what was differentiated
    kl: float | None  # nats per token, temperature squared included; None: no teacher was asked
    pl: float  # nats per token
    mse: float | None  # per token, summed over the student's layers
    grad_norm: float
    lr: float
    n_tokens: int


class StepSums(NamedTuple):
    """Losses of a micro-batch, summed over its tokens."""

    loss: Tensor  # weighted; gradients flow through it alone
    kl: Tensor
    pl: Tensor
    mse: Tensor


@dataclass(frozen=True)
class Trainer:
    """A teacher, a student, and the run that makes one follow the other.

    Args:
        teacher: its weights are never changed; with ``cache_teacher`` its layers are given up once
            their states are on disk.
        student: its decoder is trained, in float32, and its encoder where the settings say so.
        tokenizer: of both.
        data: kept utterances and validation set.
        settings: hyper-parameters.
        out: the run's folder: checkpoints, metrics.jsonl, cached states while they are needed.

    Raises:
        ValueError: teacher and student differ in vocabulary or mel bins, or there is
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
        for name in ("vocab_size", "n_mels"):
            found = getattr(self.teacher.config, name), getattr(self.student.model.config, name)
            if found[0] != found[1]:
                raise ValueError(
                    f"teacher and student must have the same {name}: found {found[0]} and "
                    f"{found[1]}; build the student from this teacher"
                )
        if self.settings.mse_weight:
            self._check_layers()
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

    def _check_layers(self) -> None:
        teacher, student = self.teacher.config, self.student.model.config
        if teacher.width != student.width or teacher.decoder_layers < student.decoder_layers:
            raise ValueError(
                "mse_weight pairs states of one width, and each student layer with a block of the "
                f"teacher's: found widths {teacher.width} and {student.width}, "
                f"{teacher.decoder_layers} and {student.decoder_layers} decoder layers; set it to 0"
            )

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
        source = self._source() if progress.step < self.settings.steps else None
        log = MetricsLog(self.out / "metrics.jsonl")
        log.truncate_after(progress.step)
        if on_steps:
            on_steps(progress.step)
        began, began_at = time.perf_counter(), progress.step
        for step in range(progress.step, self.settings.steps):
            assert source is not None
            metrics = self._update(step, trained, optimizer, source)
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
        remove_caches(self.out)
        return progress

    # One update

    def _update(
        self,
        step: int,
        trained: dict[str, Tensor],
        optimizer: torch.optim.AdamW,
        source: StateSource,
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
        share = settings.teacher_share(step)
        totals = torch.zeros(4, dtype=torch.float64)
        optimizer.zero_grad(set_to_none=True)
        for indices, tokens in micro_batches:
            sums = self._sums(source, indices, tokens, share=share)
            (sums.loss / n_tokens).backward()  # type: ignore[no-untyped-call]
            totals += torch.stack([value.detach().double().cpu() for value in sums])
        loss, kl, pl, mse = (totals / n_tokens).tolist()
        norm = clip_gradients(list(trained.values()), settings.clip_norm)
        if not all(map(math.isfinite, (loss, kl, pl, mse, norm))):
            raise self._non_finite(step, micro_batches, kl, pl, norm)
        optimizer.step()
        return StepMetrics(
            loss=loss,
            kl=kl if settings.kl_weight else None,
            pl=pl,
            mse=mse if settings.mse_weight else None,
            grad_norm=norm,
            lr=lr,
            n_tokens=n_tokens,
        )

    def _sums(
        self, source: StateSource, indices: Sequence[int], tokens: TokenBatch, *, share: float
    ) -> StepSums:
        """Return the losses of a micro-batch; ``share`` of the teacher's weights is left."""
        settings, decoder = self.settings, self.student.model.decoder
        objective = Objective(
            settings.kl_weight * share,
            settings.pl_weight,
            settings.temperature,
            settings.divergence,
        )
        labels = tokens.labels.to(self.teacher.device)
        counted = labels != IGNORE
        with self._autocast():
            heard = source.heard(indices)
            taught = (
                source.taught(indices, tokens, heard.teacher) if settings.asks_teacher else None
            )
            said = forced_states(
                decoder,
                heard.student,
                tokens.inputs.to(self.teacher.device),
                checkpointed=settings.checkpoint_activations,
            )
            sums = fused_sums(
                said.final[counted],
                decoder.embed_tokens.weight,
                taught.final if taught is not None and settings.kl_weight else None,
                self.teacher.decoder.embed_tokens.weight,
                labels[counted],
                objective,
            )
        mse = torch.zeros_like(sums.pl)
        if taught is not None and settings.mse_weight:
            mse = hidden_mse_sum([states[counted] for states in said.layers], taught.layers)
        return StepSums(sums.loss + settings.mse_weight * share * mse, sums.kl, sums.pl, mse)

    def _micro_batches(self, step: int) -> Iterator[tuple[list[int], TokenBatch]]:
        """Yield one update's examples; the stream of epochs goes on across updates."""
        n_examples, size = len(self.data.examples), self.settings.batch_size
        places = range(step * size, (step + 1) * size)
        drawn = [(place // n_examples, place % n_examples) for place in places]
        orders = {
            epoch: epoch_order(n_examples, seed=self.settings.seed, epoch=epoch)
            for epoch in {epoch for epoch, _ in drawn}
        }
        chosen = [(orders[epoch][place], epoch) for epoch, place in drawn]
        for at in range(0, size, self.settings.micro_batch_size):
            micro = chosen[at : at + self.settings.micro_batch_size]
            sequences = [self._sequence(index, epoch) for index, epoch in micro]
            yield [index for index, _ in micro], token_batch(sequences, self.tokenizer)

    def _sequence(self, index: int, epoch: int) -> list[int]:
        example = self.data.examples[index]
        timestamps = keeps_timestamps(
            example.id,
            probability=self.settings.timestamp_probability,
            seed=self.settings.seed,
            epoch=epoch,
        )
        return decoder_sequence(example.token_ids, self.tokenizer, timestamps=timestamps)

    def _source(self) -> StateSource:
        """Return where states come from, with what is to be kept on disk made."""
        settings, teacher, student = self.settings, self.teacher, self.student.model
        source = StateSource(
            teacher,
            student,
            self.data.manifest,
            self.data.examples,
            shares_encoder=(
                not settings.train_encoder and same_weights(student.encoder, teacher.encoder)
            ),
            train_encoder=settings.train_encoder,
            asks_teacher=settings.asks_teacher,
            checkpointed=settings.checkpoint_activations,
        )
        with self._autocast():
            if settings.cache_encoder:
                source = source.with_encoder_caches(self.out)
            if settings.cache_teacher:
                batch = partial(token_batch, tokenizer=self.tokenizer)
                source = source.with_teacher_store(self.out, self._forms, batch)
        return source

    def _forms(self, index: int) -> list[tuple[int, ...]]:
        """Return all sequences that the run draws for an example, each once."""
        settings = self.settings
        n_epochs = math.ceil(settings.steps * settings.batch_size / len(self.data.examples))
        drawn = (tuple(self._sequence(index, epoch)) for epoch in range(n_epochs))
        return list(dict.fromkeys(drawn))

    # Checkpoints and validation

    def _trained(self) -> dict[str, Tensor]:
        """Return what is trained, by name; all else of the student takes no gradient."""
        model, settings = self.student.model, self.settings
        model.requires_grad_(False)
        model.decoder.requires_grad_(True)
        model.decoder.embed_positions.requires_grad_(not settings.freeze_positions)
        if settings.train_encoder:
            model.encoder.requires_grad_(True)
            model.encoder.embed_positions.requires_grad_(False)  # sinusoids, never learnt
        return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}

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
            "loss": metrics.loss,
            "kl": metrics.kl,
            "pl": metrics.pl,
            **({} if metrics.mse is None else {"mse": metrics.mse}),
            "grad_norm": metrics.grad_norm,
            "lr": metrics.lr,
            "n_tokens": metrics.n_tokens,
        }

    def _non_finite(
        self,
        step: int,
        micro_batches: Sequence[tuple[Sequence[int], TokenBatch]],
        kl: float,
        pl: float,
        norm: float,
    ) -> NonFiniteLoss:
        ids = [self.data.examples[i].id for indices, _ in micro_batches for i in indices]
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
