"""One update of a student, ours and one of the published structure, for the training benchmarks.

The published step is written here on transformers' models after the structure of
``huggingface/distil-whisper: training/run_distillation.py``: the teacher's encoder runs once and
serves both decoders, labels are padded to 448, both models return logits of every position, and
the KL is made unreduced and masked, with torch's default AdamW. Ours is what ``training/loop.py``
does with the same batch, but for reading sound and making its mel. Where encoder outputs are
cached, they are on the device already: a run with ``cache_encoder`` reads them from files.
"""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from distilwhisper.corpus.batches import IGNORE, TokenBatch
from distilwhisper.model.whisper import Whisper
from distilwhisper.training.forcing import forced_states
from distilwhisper.training.loop import make_optimizer
from distilwhisper.training.loss import Objective, fused_sums
from distilwhisper.training.settings import TrainingSettings

KL_WEIGHT, PL_WEIGHT, TEMPERATURE = 0.8, 1.0, 2.0
LR, CLIP_NORM = 1e-5, 1.0
PUBLISHED, OURS, CACHED = "published structure", "ours", "ours, encoder outputs cached"
# Relative difference of the first loss and gradient norm of two sides, by number format.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.03}


class Disagreement(Exception):
    """Two sides compute different things: their times would mean nothing."""


@dataclass(frozen=True)
class Work:
    """A batch."""

    mel: Tensor  # (windows, n_mels, frames), of the teacher's dtype
    tokens: TokenBatch  # padded to the longest, on the models' device


@dataclass(frozen=True)
class Done:
    """What an update saw before it changed anything."""

    loss: Tensor
    grad_norm: float


class Side(Protocol):
    """A way to update a student."""

    def __call__(self, work: Work) -> Done:
        """Make one update."""


class Ours:
    """Our update.

    Args:
        teacher: of any number format; its encoder serves the student too.
        student: float32; changed.
        encoder_states: of the batch, on the device, where they are cached.
    """

    def __init__(
        self, teacher: Whisper, student: Whisper, encoder_states: Tensor | None = None
    ) -> None:
        self.teacher, self.student, self.encoder_states = teacher, student, encoder_states
        student.requires_grad_(False)
        student.decoder.requires_grad_(True)
        self.trained = list(student.decoder.parameters())
        self.optimizer = make_optimizer(self.trained, TrainingSettings(peak_lr=LR))
        self.objective = Objective(KL_WEIGHT, PL_WEIGHT, TEMPERATURE)

    def __call__(self, work: Work) -> Done:
        """Make one update."""
        counted = work.tokens.labels != IGNORE
        with torch.no_grad():
            heard = self.encoder_states
            if heard is None:
                heard = self.teacher.encoder(work.mel)
        with autocast(self.teacher):
            with torch.no_grad():
                taught = forced_states(self.teacher.decoder, heard, work.tokens.inputs)
            said = forced_states(self.student.decoder, heard, work.tokens.inputs)
            sums = fused_sums(
                said.final[counted],
                self.student.decoder.embed_tokens.weight,
                taught.final[counted],
                self.teacher.decoder.embed_tokens.weight,
                work.tokens.labels[counted],
                self.objective,
            )
        loss = sums.loss / work.tokens.n_tokens
        return update(loss, self.trained, self.optimizer)


class Published:
    """An update of the published structure, on transformers' models with the same weights.

    Args:
        teacher: its weights are shared.
        student: float32; its decoder's weights are shared and changed, its encoder is left out.
        eot: the id that pads.
        sot: the id that begins.
    """

    def __init__(self, teacher: Whisper, student: Whisper, *, eot: int, sot: int) -> None:
        self.teacher = as_transformers(teacher, eot=eot, sot=sot)
        self.student = as_transformers(student, eot=eot, sot=sot)
        self.student.model.encoder = self.teacher.model.encoder
        self.student.requires_grad_(False)
        self.student.model.decoder.requires_grad_(True)
        self.eot, self.autocast = eot, autocast(teacher)
        self.trained = [p for p in self.student.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=LR, weight_decay=0.0)

    def __call__(self, work: Work) -> Done:
        """Make one update."""
        longest = self.student.config.max_target_positions
        room = longest - work.tokens.labels.shape[1]
        inputs = F.pad(work.tokens.inputs, (0, room), value=self.eot)
        labels = F.pad(work.tokens.labels, (0, room), value=IGNORE)
        with torch.no_grad():
            heard = self.teacher.model.encoder(work.mel)
        with self.autocast:
            said = self.student(encoder_outputs=heard, decoder_input_ids=inputs, labels=labels)
            with torch.no_grad():
                taught = self.teacher(encoder_outputs=heard, decoder_input_ids=inputs)
            wanted = F.softmax(taught.logits / TEMPERATURE, dim=-1)
            found = F.log_softmax(said.logits / TEMPERATURE, dim=-1)
            kl = F.kl_div(found, wanted, reduction="none") * (labels != IGNORE)[..., None]
            kl = kl.sum() / (labels != IGNORE).sum() * TEMPERATURE**2
            loss = PL_WEIGHT * said.loss + KL_WEIGHT * kl
        return update(loss, self.trained, self.optimizer)


def autocast(teacher: Whisper) -> torch.autocast:
    """Return the mixed precision that goes with a teacher."""
    half = teacher.dtype == torch.bfloat16
    return torch.autocast(teacher.device.type, dtype=torch.bfloat16, enabled=half)


def update(loss: Tensor, trained: list[Tensor], optimizer: torch.optim.Optimizer) -> Done:
    """Change the weights once."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(trained, CLIP_NORM).item()
    optimizer.step()
    return Done(loss.detach(), norm)


def as_transformers(model: Whisper, *, eot: int, sot: int) -> Any:
    """Return transformers' network on the same weights."""
    import transformers

    base = {"pad_token_id": eot, "bos_token_id": eot, "eos_token_id": eot}
    sizes = {k: v for k, v in model.config.to_hf(base).items() if k != "num_hidden_layers"}
    config = transformers.WhisperConfig(**sizes, decoder_start_token_id=sot, dropout=0.0)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        network: Any = transformers.WhisperForConditionalGeneration(config)
    weights = dict(model.named_weights())
    weights["proj_out.weight"] = weights["model.decoder.embed_tokens.weight"]
    network.load_state_dict(weights, strict=True, assign=True)
    network.tie_weights()
    return network.eval()  # no dropout in the published recipe either


def check_same(first: Mapping[str, Done], dtype: torch.dtype) -> None:
    """Hold the first updates of all sides against one another.

    Raises:
        Disagreement: loss or gradient norm differ by more than the number format explains.
    """
    reference, *others = first
    for name in others:
        for what in ("loss", "grad_norm"):
            a, b = float(getattr(first[reference], what)), float(getattr(first[name], what))
            if not abs(a - b) <= TOLERANCE[dtype] * abs(a):
                raise Disagreement(
                    f"{what} must be the same to {TOLERANCE[dtype]:g} of it, found {a:.6g} "
                    f"({reference}) and {b:.6g} ({name})"
                )


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    name: str
    n_windows: int
    seconds: tuple[float, ...]  # of each round
    peak_bytes: int | None
    times_faster: float | None = None  # than the published structure: median of the rounds' ratios

    @property
    def windows_per_s(self) -> float:
        """The median of the rounds."""
        return self.n_windows / statistics.median(self.seconds)

    def as_json(self) -> dict[str, Any]:
        """Return all that is known."""
        return {**asdict(self), "windows_per_s": self.windows_per_s}


def take_turns(
    sides: Mapping[str, Callable[[], object]],
    device: torch.device,
    *,
    n_rounds: int,
    deadline: float = float("inf"),
) -> dict[str, tuple[float, ...]]:
    """Time sides in turn (A B A B ...), each of them warm, until a point of ``time.monotonic``."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(n_rounds):
        round_s = sum(taken[-1] for taken in seconds.values()) if number else 0.0
        if time.monotonic() + round_s > deadline:
            break
        for name, side in sides.items():
            seconds[name].append(timed(side, device))
    return {name: tuple(taken) for name, taken in seconds.items()}


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that some work takes, until the device is done with it."""
    synchronize(device)
    started = time.monotonic()
    work()
    synchronize(device)
    return time.monotonic() - started


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rows_of(
    seconds: Mapping[str, tuple[float, ...]], peaks: Mapping[str, int | None], n_windows: int
) -> list[Row]:
    """Return the table's rows; ratios are taken round by round."""
    return [
        Row(
            name,
            n_windows,
            taken,
            peaks[name],
            times_faster=statistics.median(
                theirs / ours for theirs, ours in zip(seconds[PUBLISHED], taken, strict=True)
            ),
        )
        for name, taken in seconds.items()
    ]


def table(rows: Sequence[Row]) -> str:
    """Return the table as Markdown."""
    lines = [
        "| step | windows/s (spread) | times faster | peak GB |",
        "|---|---|---|---|",
    ]
    for row in rows:
        speeds = [row.n_windows / seconds for seconds in row.seconds]
        peak = "" if row.peak_bytes is None else f"{row.peak_bytes / 1e9:.2f}"
        lines.append(
            f"| {row.name} | {row.windows_per_s:.2f} ({min(speeds):.2f}-{max(speeds):.2f}) "
            f"| {row.times_faster:.2f} | {peak} |"
        )
    return "\n".join(lines)


def release(device: torch.device) -> None:
    """Give back the memory of what is no longer used."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
