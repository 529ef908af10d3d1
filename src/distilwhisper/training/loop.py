"""Stage 4: train the student's decoder on the teacher's labels and distributions.

    settings.py     what can be set             inputs.py       which windows, labels and sounds
    forcing.py      decoders given their text   source.py       states, of the networks or on disk
    loss.py         the objective               state.py        checkpoints
    validation.py   WER while it learns         ranks.py        several processes, one run
    tensorboard.py  metrics.jsonl, for those who like to watch

The teacher's encoder runs once per batch, without gradients, and serves both decoders where both
get the same sound; where the recipe says so its outputs are kept on disk, and then it runs once per
window.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, tee
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import torch
from safetensors.torch import load_file
from torch import Tensor

from distilwhisper.checks import check_rules
from distilwhisper.corpus.ahead import in_order
from distilwhisper.corpus.batches import IGNORE, Drawn, TokenBatch
from distilwhisper.corpus.records import Manifest
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.errors import DistilwhisperError
from distilwhisper.model.checkpoint import Checkpoint
from distilwhisper.model.whisper import Whisper
from distilwhisper.run.files import MetricsLog
from distilwhisper.training.forcing import forced_states
from distilwhisper.training.inputs import TrainingInput
from distilwhisper.training.loss import Objective, fused_sums, hidden_mse_sum
from distilwhisper.training.ranks import Ranks
from distilwhisper.training.settings import TrainingSettings
from distilwhisper.training.source import Loaded, StateSource, remove_caches
from distilwhisper.training.state import (
    Progress,
    checkpoints,
    load_state,
    save_progress,
    save_state,
    write_tensors,
)
from distilwhisper.training.validation import check_set, validation_wers

BEST = "best.safetensors"  # the weights that became the student
MICRO_BATCHES_AHEAD = 3  # at least, that are read before their turn


class NonFiniteLoss(DistilwhisperError, ArithmeticError):
    """The loss or its gradient is no number; the weights were left as they were."""


# Windows of one context, with their tokens; all that goes backward together.
MicroBatch: TypeAlias = Sequence[tuple[Sequence[Drawn], TokenBatch]]


class Learner(NamedTuple):
    """What a run changes, and where it tells how."""

    weights: dict[str, Tensor]  # that are trained, by name
    optimizer: torch.optim.AdamW
    log: MetricsLog | None  # of the first rank


@dataclass(frozen=True)
class Trainer:
    """A teacher, a student, and the run that makes one follow the other.

    Several processes may train together, each with a Trainer like this one. Each takes a part of
    every update's micro-batches; the first writes what is written.

    Raises:
        ValueError: teacher and student differ in vocabulary or mel bins; the teacher is in
            float16; a validation set holds no text, utterances over 30 s, or a language or task
            that the student does not know.
    """

    teacher: Whisper  # never changed; with ``cache_teacher`` its layers are given up
    student: Checkpoint  # its decoder is trained, in float32; its encoder if the settings say so
    inputs: TrainingInput
    out: Path  # for checkpoints, metrics.jsonl, and cached states while they are needed
    validation: Mapping[str, Manifest] = field(default_factory=dict)
    """Sets with references, by name; with none, the last weights win."""
    task: Literal["transcribe", "translate"] = "transcribe"
    """Of the student when it is validated."""
    ranks: Ranks = field(default_factory=Ranks)

    def __post_init__(self) -> None:
        teacher, student = self.teacher.config, self.student.model.config
        check_rules(
            self,
            *(
                f"teacher and student must have the same {name}: found {theirs} and {ours}; build "
                "the student from this teacher"
                for name in ("vocab_size", "n_mels")
                if (theirs := getattr(teacher, name)) != (ours := getattr(student, name))
            ),
            self.teacher.dtype == torch.float16
            and "the teacher must be in float32 or bfloat16, found float16, in which small "
            "gradients become 0 for want of loss scaling: load it in one of the two",
            self.inputs.settings.mse_weight > 0
            and (teacher.width != student.width or teacher.decoder_layers < student.decoder_layers)
            and "mse_weight pairs states of one width, and each student layer with a block of the "
            f"teacher's: found widths {teacher.width} and {student.width}, "
            f"{teacher.decoder_layers} and {student.decoder_layers} decoder layers; set it to 0",
        )
        transcriber = self._transcriber()
        for manifest in self.validation.values():
            check_set(manifest, transcriber)

    def fit(self, *, on_steps: Callable[[float], None] = lambda _: None) -> Progress:
        """Train to the last step, from the newest checkpoint if there is one.

        Returns where the run ended; ``student.model`` holds the best weights. ``on_steps`` is
        called with the number of updates just done, or found done.

        Raises:
            NonFiniteLoss: before the update, naming the step and the utterances.
        """
        weights = self._trained()
        optimizer = make_optimizer(weights.values(), self.inputs.settings)
        paths = checkpoints(self.out)
        progress = load_state(paths[-1], weights, optimizer) if paths else Progress(step=0)
        log = MetricsLog(self.out / "metrics.jsonl") if self.ranks.is_first else None
        if log:  # a resumed run writes again what follows
            without = None if progress.is_validated else "validation_wer"
            log.truncate_after(progress.step, without=without)
        learner = Learner(weights, optimizer, log)
        if not progress.is_validated:  # stopped between the two
            progress = self._validate(progress, learner)
        if progress.step < self.inputs.settings.steps:
            progress = self._learn(progress, learner, on_steps)
        else:
            on_steps(progress.step)
        best = load_file(self.out / BEST)
        for name, weight in weights.items():
            weight.data.copy_(best[name])
        self.ranks.wait()
        if self.ranks.is_first:
            remove_caches(self.out)
        return progress

    def _learn(
        self, progress: Progress, learner: Learner, on_steps: Callable[[float], None]
    ) -> Progress:
        settings, first, log = self.inputs.settings, progress.step, learner.log
        source = self.source  # fills the caches
        updates, ahead = tee(map(self._own, range(first, settings.steps)))
        reading = in_order(
            lambda part: source.read(*part),
            chain.from_iterable(chain.from_iterable(ahead)),
            n_threads=settings.data_workers,
            n_ahead=max(MICRO_BATCHES_AHEAD, settings.data_workers),  # one for each thread
        )
        on_steps(first)
        began = time.perf_counter()
        with closing(reading):
            for step, own in enumerate(updates, start=first):
                metrics = self._update(step, own, learner, reading)
                on_steps(1)
                n_done = step + 1
                is_last = n_done == settings.steps
                if log and (is_last or n_done % settings.log_every == 0):
                    epoch = round(n_done * settings.batch_size / len(self.inputs.examples), 4)
                    speed = (n_done - first) * settings.batch_size / (time.perf_counter() - began)
                    row = {"step": n_done, "epoch": epoch, **metrics}
                    log.append({**row, "windows_per_s": round(speed, 3)})
                if is_last or n_done % settings.checkpoint_every == 0:
                    # Written before it is validated: that may fail, and take long.
                    progress = replace(progress, step=n_done, is_validated=False)
                    if self.ranks.is_first:
                        save_state(self.out, progress, learner.weights, learner.optimizer)
                    progress = self._validate(progress, learner)
        return progress

    def _own(self, step: int) -> list[MicroBatch]:
        """Return the micro-batches of an update that fall to this rank."""
        inputs = self.inputs
        own = list(inputs.micro_batches(step))[self.ranks.rank :: self.ranks.n_ranks]
        return [[(windows, inputs.tokens(windows)) for windows in parts] for parts in own]

    # One update

    def _update(
        self, step: int, own: Sequence[MicroBatch], learner: Learner, reading: Iterator[Loaded]
    ) -> dict[str, float | None]:
        """Update the weights once, and return the row of metrics.

        Losses are per token: KL and PL in nats, temperature squared included; MSE summed over the
        student's layers. KL is None without a teacher.
        """
        settings, optimizer = self.inputs.settings, learner.optimizer
        lr = settings.learning_rate(step)
        for group in optimizer.param_groups:
            group["lr"] = lr
        own_tokens = sum(tokens.n_tokens for _, tokens in chain.from_iterable(own))
        n_tokens = int(self.ranks.total(own_tokens)[0])
        share = settings.teacher_share(step)
        sums = torch.zeros(4, dtype=torch.float64)
        is_faulty = []
        optimizer.zero_grad(set_to_none=True)
        for micro_batch in own:
            losses = self._losses(micro_batch, reading, share)
            (losses[0] / n_tokens).backward()  # type: ignore[no-untyped-call]
            values = torch.stack([value.detach().cpu().double() for value in losses])
            is_faulty.append(not values.isfinite().all())
            sums += values
        weights = list(learner.weights.values())
        for weight in weights:
            if weight.grad is None:  # nothing has flowed back to it on this rank
                weight.grad = torch.zeros_like(weight)
        self.ranks.add_up([weight.grad for weight in weights if weight.grad is not None])
        # No token counts where every window is skipped.
        loss, kl, pl, mse = (total / max(n_tokens, 1) for total in self.ranks.total(*sums.tolist()))
        norm = torch.nn.utils.clip_grad_norm_(weights, settings.clip_norm).item()
        if not all(map(math.isfinite, (loss, kl, pl, mse, norm))):
            raise self._non_finite(step, kl, pl, norm, is_faulty)
        optimizer.step()
        row = {"loss": loss, "kl": kl if settings.kl_weight else None, "pl": pl}
        if settings.mse_weight:
            row["mse"] = mse
        return {**row, "grad_norm": norm, "lr": lr, "n_tokens": n_tokens}

    def _losses(
        self, micro_batch: MicroBatch, reading: Iterator[Loaded], share: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return a micro-batch's loss, KL, PL and MSE, summed over its tokens.

        Gradients flow through the loss alone. ``share`` of the teacher's weights is left.
        """
        settings, device = self.inputs.settings, self.teacher.device
        student = self.student.model.decoder
        weights = settings.kl_weight * share, settings.pl_weight
        objective = Objective(*weights, settings.temperature, settings.divergence)
        # Of the tokens that count, from every part: the vocabulary is gone through once for all.
        ours, theirs, wanted = [], [], []
        mse = torch.zeros((), device=device)
        with self._autocast():
            for windows, tokens in micro_batch:
                loaded = next(reading)
                inputs, labels = tokens.inputs.to(device), tokens.labels.to(device)
                mask = labels != IGNORE
                for_teacher, for_student = self.source.encode(windows, loaded)
                states = forced_states(
                    student, for_student, inputs, checkpointed=settings.checkpoint_activations
                )
                ours.append(states.final[mask])
                wanted.append(labels[mask])
                if settings.asks_teacher:
                    teacher = self.source.teacher_states(tokens, for_teacher, loaded)
                    theirs.append(teacher.final)
                    if settings.mse_weight:
                        mse = mse + hidden_mse_sum(states.at(mask).layers, teacher.layers)
            taught = torch.cat(theirs) if settings.kl_weight else None
            embedding = self.teacher.decoder.embed_tokens.weight
            sums = fused_sums(
                torch.cat(ours), self._projection, taught, embedding, torch.cat(wanted), objective
            )
        return sums.loss + settings.mse_weight * share * mse, sums.kl, sums.pl, mse

    @cached_property
    def _projection(self) -> Tensor:
        """The student's embedding as the loss takes it; cast once where it does not change."""
        weight = self.student.model.decoder.embed_tokens.weight
        return weight.to(self.teacher.dtype) if self.inputs.settings.freeze_embeddings else weight

    @cached_property
    def source(self) -> StateSource:
        """Where states come from; the caches on disk are filled first."""
        teacher, student = self.teacher, self.student.model
        shares = not self.inputs.settings.train_encoder and student.encoder.equals(teacher.encoder)
        source = StateSource(teacher, student, self.inputs, shares_encoder=shares)
        with self._autocast():
            return source.kept(self.out, self.ranks)

    # Checkpoints

    def _trained(self) -> dict[str, Tensor]:
        """Return what is trained, by name; all else of the student takes no gradient."""
        model, settings = self.student.model, self.inputs.settings
        model.requires_grad_(False)
        model.decoder.requires_grad_(True)
        model.decoder.embed_tokens.requires_grad_(not settings.freeze_embeddings)
        model.decoder.embed_positions.requires_grad_(not settings.freeze_positions)
        if settings.train_encoder:
            model.encoder.requires_grad_(True)
            model.encoder.embed_positions.requires_grad_(False)  # sinusoids, never learnt
        return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}

    def _validate(self, progress: Progress, learner: Learner) -> Progress:
        """Validate the newest checkpoint; the best mean of the sets' WERs becomes the student.

        Of equals it is the latest: small sets tie often, and its learning rate is the lowest.
        """
        wers = validation_wers(self._transcriber(), self.validation, self.ranks)
        mean = sum(wers.values()) / len(wers) if wers else None
        is_best = mean is None or progress.best_wer is None or mean <= progress.best_wer
        progress = replace(progress, is_validated=True)
        if is_best:
            progress = replace(progress, best_wer=mean, best_step=progress.step)
        if learner.log:  # the first rank
            if mean is not None:
                row = {"step": progress.step, "validation_wer": mean, "wer_by_set": wers}
                learner.log.append(row)
            if is_best:
                write_tensors(self.out / BEST, learner.weights)
            save_progress(self.out, progress)  # last: until then, all of this is done again
        self.ranks.wait()
        return progress

    def _transcriber(self) -> Transcriber:
        """Return what transcribes the validation sets; its caches last no longer than itself."""
        task, margin_s = self.task, self.inputs.settings.validation_context_margin_s
        greedy = DecodingSettings(
            task=task, timestamps=False, temperature=(0.0,), context_margin_s=margin_s
        )
        return Transcriber(self.student, self.inputs.tokenizer, greedy)

    # Reporting

    def _non_finite(
        self, step: int, kl: float, pl: float, norm: float, is_faulty: Sequence[bool]
    ) -> NonFiniteLoss:
        """Return the error of an update, given which of this rank's micro-batches are at fault."""
        micro_batches = list(self.inputs.micro_batches(step))
        own = [0.0] * len(micro_batches)
        own[self.ranks.rank :: self.ranks.n_ranks] = map(float, is_faulty)
        faults = self.ranks.total(*own)
        ids = [
            utterance.id
            for micro_batch, fault in zip(micro_batches, faults, strict=True)
            if fault or not any(faults)  # the losses are numbers, and their gradient is none
            for window in chain.from_iterable(micro_batch)
            for utterance in self.inputs.examples[window.example].utterances
        ]
        return NonFiniteLoss(
            f"loss and gradient must be finite, found KL {kl}, PL {pl}, gradient norm {norm} at "
            f"step {step + 1}, utterances {', '.join(ids)}; the weights were not updated: look at "
            "these utterances, name those at fault in training.skip_utterances and run the same "
            "command again, which goes on from the newest checkpoint without them; if none is, "
            "begin anew with a lower peak_lr"
        )

    def _autocast(self) -> torch.autocast:
        """Products in the teacher's dtype; what is trained stays float32."""
        kind, dtype = self.teacher.device.type, self.teacher.dtype
        return torch.autocast(kind, dtype=dtype, enabled=dtype == torch.bfloat16)


def make_optimizer(weights: Iterable[Tensor], settings: TrainingSettings) -> torch.optim.AdamW:
    """Return an optimiser of float32 weights that is fused: one pass over the memory, not ten."""
    lr, decay = settings.peak_lr, settings.weight_decay
    return torch.optim.AdamW(
        list(weights), lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=decay, fused=True
    )
