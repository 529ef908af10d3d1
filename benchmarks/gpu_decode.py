"""Decoding on one GPU: labelling, distilled transcription and drafts, with large-v2's shape.

    python benchmarks/gpu_decode.py --out gpu_decode.json
    python benchmarks/gpu_decode.py --tiny --device cpu --out smoke.json

No file is read: the weights are random, and so is the sound. Three things are planted, because
random weights say nothing that two programs could agree on, never end, and never guess alike:

*  What follows what. A token's embedding has two halves: a word of its own, and the word of its
   successor, drawn at random. The first decoder layer copies the second half over the first, the
   last norm reads that half alone, and all layers add a little noise of their own. So the likeliest
   token leads by a wide margin, whatever the rounding, and two programs must say the same tokens.
   All products have their full shapes. The agreement of tokens thus shows that rows, caches and
   rules are in order; that the network equals its references is shown by the tests.
*  How long a window is. The end is suppressed, and each window is cut off at a length of its own,
   drawn around 110 tokens, spread such that the longest of 64 is 1.6 times the mean.
*  How often a draft is right. The draft, two layers on the same encoder, has the target's successor
   for a share of all tokens (--agreement) and another one for the rest, so its guesses are right or
   wrong row by row, independently. It says what a draft that agrees so often gains; how often a
   trained one agrees, only a trained one tells.

Sides that are compared take turns (A B A B ...) after a warm-up; tokens are compared before any
time is taken. Encoder included, if nothing else is said; log-mel is not. The floor is arithmetic
for one H100 (798 TFLOP/s in bfloat16, 3.0 TB/s), so its share is given on an H100 alone. Memory is
that of one side in its first run, beside the weights: what it allocates at most, and what it keeps
in the end, the memory of captured graphs included.

"transformers" is ``generate`` itself, without its tokenizer and the bookkeeping of its Whisper
class, in static batches; "compiled" is its static cache, whose steps it compiles on a GPU.
"""

import argparse
import datetime
import gc
import importlib.metadata
import json
import platform
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from distilwhisper.decoding.rules import DecodingRules
from distilwhisper.decoding.search import Search
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.slots import Hypothesis, Job, SpecialTokens
from distilwhisper.decoding.windows import GPU_ADMIT_SHARE
from distilwhisper.model.hardware import Hardware
from distilwhisper.model.roofline import window_s
from distilwhisper.model.whisper import Whisper, WhisperConfig, sinusoids
from distilwhisper.plan import model_sizes
from distilwhisper.speech.units import WINDOW_S

ROOT = Path(__file__).resolve().parent.parent

SEED = 0
STUDENT_LAYERS = 2
N_ROUNDS = 3

# The planted succession: the copy is this much louder than the word that it overwrites, a layer's
# own output this much quieter than its input, and the right token's logit about this high: well
# above the others, yet with a probability that the noise of every layer moves.
COPY_GAIN = 8.0
LAYER_GAIN = 0.1
LOGIT = 14.0
MAX_LOGPROB_GAP = 0.1  # nats per token between two programs; bfloat16 rounds logits to 0.06

MEAN_TOKENS = 110
TOKENS_SPREAD = 28.0  # standard deviation
FEWEST_TOKENS, MOST_TOKENS = 16, 220

# Ids counted from the first special one, as in the multilingual vocabulary.
SOT, ENGLISH, TRANSCRIBE, NO_SPEECH, NO_TIMESTAMPS, N_SPECIAL = 1, 2, 102, 105, 106, 107

COMPILE_S = 120.0  # that compiling may take, warm-up included: it cannot be stopped half-way


class Disagreement(Exception):
    """Two sides say different tokens: their times would mean nothing."""


class OutOfTime(Exception):
    """What is left of the budget holds no round."""


# ------------------------------------------------------------------------------------------------
# Sizes


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    name: str
    teacher: WhisperConfig
    n_text: int  # ids below the first special one, which is the end of text
    batch: int  # of labelling and of distilled transcription
    draft_batches: tuple[int, ...]
    windows_per_slot: int  # so that slots are refilled
    n_single: int  # windows of the latency at batch 1
    mean_tokens: int = MEAN_TOKENS

    @property
    def student(self) -> WhisperConfig:
        """The sizes of the distilled model."""
        return replace(self.teacher, decoder_layers=STUDENT_LAYERS)

    @property
    def special(self) -> SpecialTokens:
        """The ids that a search needs."""
        return SpecialTokens(self.n_text + SOT, self.n_text, self.n_text + NO_SPEECH)

    @property
    def prompt(self) -> tuple[int, ...]:
        """English, transcribed, without timestamps."""
        return tuple(self.n_text + at for at in (SOT, ENGLISH, TRANSCRIBE, NO_TIMESTAMPS))


LARGE_V2 = Scale(
    "large-v2",
    model_sizes("openai/whisper-large-v2"),
    n_text=50257,
    batch=64,
    draft_batches=(1, 16, 64),
    windows_per_slot=4,
    n_single=8,
)
TINY = Scale(
    "tiny",
    WhisperConfig(
        vocab_size=300 + N_SPECIAL,
        n_mels=8,
        width=128,
        encoder_layers=1,
        encoder_heads=2,
        encoder_ffn=128,
        decoder_layers=4,
        decoder_heads=2,
        decoder_ffn=128,
        max_frames=20,
    ),
    n_text=300,
    batch=4,
    draft_batches=(1, 3),
    windows_per_slot=2,
    n_single=2,
    mean_tokens=10,
)


# ------------------------------------------------------------------------------------------------
# Weights and windows


@dataclass(frozen=True)
class Models:
    """The teacher and its student, which share an encoder."""

    teacher: Whisper
    student: Whisper


def build_models(
    scale: Scale, *, agreement: float, device: torch.device, dtype: torch.dtype
) -> Models:
    """Make random weights with a planted succession.

    Args:
        scale: the sizes.
        agreement: share of the tokens that have the same successor in both.
        device: where they are made and stay.
        dtype: of the weights.
    """
    random = torch.Generator(device).manual_seed(SEED)
    theirs = successors(scale.n_text, scale.teacher.vocab_size, seed=SEED)
    ours = disturbed(theirs, agreement=agreement, seed=SEED + 1)
    words = torch.randn(
        scale.teacher.vocab_size, scale.teacher.width // 2, generator=random, device=device
    )
    teacher = random_model(scale.teacher, random, dtype)
    plant(teacher, words, theirs.to(device))
    student = random_model(scale.student, random, dtype)
    plant(student, words, ours.to(device))
    student.encoder = teacher.encoder
    return Models(teacher, student)


def successors(n_text: int, vocab_size: int, *, seed: int) -> Tensor:
    """Return what follows each token: texts are permuted, and all others lead to a text."""
    random = torch.Generator().manual_seed(seed)
    others = torch.randint(n_text, (vocab_size - n_text,), generator=random)
    return torch.cat([torch.randperm(n_text, generator=random), others])


def disturbed(follows: Tensor, *, agreement: float, seed: int) -> Tensor:
    """Return successors that are the same for a share of the tokens, and others for the rest."""
    random = torch.Generator().manual_seed(seed)
    differs = torch.rand(len(follows), generator=random) >= agreement
    shifted = follows.roll(1)
    # Two specials may lead to the same text; they are read in prompts only.
    return torch.where(differs, shifted, follows)


@torch.no_grad()
def random_model(config: WhisperConfig, random: torch.Generator, dtype: torch.dtype) -> Whisper:
    """Return a network of random weights that keeps the size of what runs through it."""
    with torch.device("meta"):
        model = Whisper(config).to(dtype)
    model.to_empty(device=random.device)
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            weight.fill_(1.0 if name.endswith("norm.weight") else 0.0)
            if name.endswith(".bias") and "norm" not in name:
                weight.normal_(std=0.01, generator=random)
        else:
            is_output = name.endswith(("out_proj.weight", "fc2.weight"))
            gain = LAYER_GAIN if is_output else 1.0
            weight.normal_(std=gain * weight[0].numel() ** -0.5, generator=random)
    model.encoder.embed_positions.weight.copy_(sinusoids(config.max_frames, config.width))
    return model.eval().requires_grad_(False)


@torch.no_grad()
def plant(model: Whisper, words: Tensor, follows: Tensor) -> None:
    """Have a model say each token's successor.

    Args:
        model: changed in place.
        words: random numbers for every token, half as wide as the model.
        follows: the successor of every token.
    """
    decoder = model.decoder
    half = words.shape[1]
    decoder.embed_tokens.weight.copy_(torch.cat([words[follows], words], dim=1))
    first = decoder.layers[0]
    eye = torch.eye(half, device=words.device)
    # gelu(x) - gelu(-x) = x: a feed-forward block that copies.
    first.fc1.weight[: 2 * half] = 0
    first.fc1.bias[: 2 * half] = 0
    first.fc1.weight[:half, :half] = eye
    first.fc1.weight[half : 2 * half, :half] = -eye
    first.fc2.weight[:, : 2 * half] = 0
    first.fc2.weight[half:, :half] = COPY_GAIN * eye
    first.fc2.weight[half:, half : 2 * half] = -COPY_GAIN * eye
    # Behind the last norm the copied half has numbers of about the square root of two.
    decoder.layer_norm.weight[:half] = 0
    decoder.layer_norm.weight[half:] = LOGIT / (half * 2**0.5)


@dataclass(frozen=True)
class Workload:
    """Windows to be decoded."""

    mel: Tensor  # (windows, n_mels, frames)
    prompts: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]  # tokens that each window says

    @property
    def mean_tokens(self) -> float:
        """Tokens of a window."""
        return statistics.fmean(self.lengths)


def make_workload(model: Whisper, scale: Scale, n_windows: int, *, ragged: bool) -> Workload:
    """Return seeded windows.

    Each prompt ends in a text token of its own, so that no two windows say the same.
    """
    random = torch.Generator().manual_seed(SEED + 2)
    starts = torch.randint(scale.n_text, (n_windows,), generator=random).tolist()
    lengths = (scale.mean_tokens,) * n_windows
    if ragged:
        lengths = draw_lengths(n_windows, mean=scale.mean_tokens, seed=SEED + 3)
    shape = (n_windows, scale.teacher.n_mels, 2 * scale.teacher.max_frames)
    noise = torch.Generator(model.device).manual_seed(SEED + 4)
    mel = torch.randn(shape, generator=noise, device=model.device, dtype=model.dtype)
    return Workload(mel, tuple((*scale.prompt, start) for start in starts), lengths)


def draw_lengths(n_windows: int, *, mean: int, seed: int) -> tuple[int, ...]:
    """Return ragged lengths around a mean, the same for the same seed."""
    scale = mean / MEAN_TOKENS
    random = torch.Generator().manual_seed(seed)
    drawn = mean + scale * TOKENS_SPREAD * torch.randn(n_windows, generator=random)
    least, most = max(1, round(scale * FEWEST_TOKENS)), round(scale * MOST_TOKENS)
    return tuple(drawn.round().long().clamp(least, most).tolist())


# ------------------------------------------------------------------------------------------------
# The sides


@dataclass(frozen=True)
class Decoded:
    """What one side said, window by window."""

    token_ids: tuple[tuple[int, ...], ...]
    avg_logprobs: tuple[float, ...] | None = None  # where the side tells


class Side(Protocol):
    """A way to decode windows."""

    def __call__(self, work: Workload) -> Decoded:
        """Decode all of them."""


class EagerSearch(Search):
    """A search that captures nothing, to hold the captured one against."""

    def _is_capturable(self, n: int) -> bool:
        return False


@dataclass
class Ours:
    """Our search, fed as :class:`~distilwhisper.decoding.windows.WindowDecoder` feeds it.

    It lives as long as its side: what it has captured serves the next round.
    """

    model: Whisper
    search: Search
    draft: Whisper | None = None
    encoder_states: Tensor | None = None  # given where decoding alone is timed

    @torch.inference_mode()
    def __call__(self, work: Workload) -> Decoded:
        """Decode windows, each admitted as soon as enough slots are free."""
        waiting = deque(range(len(work.lengths)))
        found: dict[int, Hypothesis] = {}
        while len(found) < len(work.lengths):
            if waiting and self._should_admit():
                n_new = min(len(waiting), self.search.n_free)
                self._admit(work, [waiting.popleft() for _ in range(n_new)])
            found.update(self.search.step())
        ordered = [found[number] for number in range(len(found))]
        return Decoded(
            tuple(hypothesis.token_ids for hypothesis in ordered),
            tuple(hypothesis.avg_logprob for hypothesis in ordered),
        )

    def _should_admit(self) -> bool:
        if self.model.device.type != "cuda":
            return self.search.n_free > 0
        return self.search.n_free >= max(1, GPU_ADMIT_SHARE * self.search.n_slots)

    def _admit(self, work: Workload, numbers: Sequence[int]) -> None:
        states = (
            self.model.encoder(work.mel[list(numbers)])
            if self.encoder_states is None
            else self.encoder_states[list(numbers)]
        )
        jobs = []
        for number, one in zip(numbers, states, strict=True):
            jobs.append(
                Job(
                    number,
                    one,
                    work.prompts[number],
                    work.lengths[number],
                    draft_states=None if self.draft is None else one,
                )
            )
        self.search.admit(jobs)


def make_ours(
    model: Whisper,
    scale: Scale,
    n_slots: int,
    *,
    draft: Whisper | None = None,
    encoder_states: Tensor | None = None,
    eager: bool = False,
) -> Ours:
    """Return our side, with empty slots."""
    rules = DecodingRules(
        suppress=[scale.special.eot],
        begin_suppress=[scale.special.eot],
        timestamps=None,
        device=model.device,
    )
    kind = EagerSearch if eager else Search
    search = kind(
        model,
        rules,
        scale.special,
        n_slots=n_slots,
        draft=draft,
        draft_tokens=DecodingSettings.draft_tokens,
    )
    return Ours(model, search, draft, encoder_states)


class Transformers:
    """transformers' own network and its ``generate``, on the same weights, which it shares.

    Args:
        model: ours.
        scale: its special ids.
        batch: windows of a batch, which runs until its longest window is done.
        compiled: static cache; on a GPU that makes ``generate`` compile its steps.
    """

    def __init__(self, model: Whisper, scale: Scale, batch: int, *, compiled: bool) -> None:
        import transformers

        self.batch = batch
        self.eot = scale.special.eot
        self.cache = "static" if compiled else None
        base = {
            "pad_token_id": self.eot,
            "bos_token_id": self.eot,
            "eos_token_id": self.eot,
            "decoder_start_token_id": scale.special.sot,
        }
        sizes = {k: v for k, v in model.config.to_hf(base).items() if k != "num_hidden_layers"}
        with torch.device("meta"):
            network: Any = transformers.WhisperForConditionalGeneration(
                transformers.WhisperConfig(**sizes)
            )
        weights = dict(model.named_weights())
        weights["proj_out.weight"] = weights["model.decoder.embed_tokens.weight"]
        network.load_state_dict(weights, strict=True, assign=True)
        self.network = network.eval()

    @torch.no_grad()  # as generate is: what it compiles need not know of inference tensors
    def __call__(self, work: Workload) -> Decoded:
        """Decode windows, batch after batch in the order they stand."""
        token_ids: list[tuple[int, ...]] = []
        for first in range(0, len(work.lengths), self.batch):
            token_ids += self._decode(work, slice(first, first + self.batch))
        return Decoded(tuple(token_ids))

    def _decode(self, work: Workload, some: slice) -> list[tuple[int, ...]]:
        from transformers.generation.stopping_criteria import StoppingCriteriaList
        from transformers.generation.utils import GenerationMixin

        mel = work.mel[some]
        prompts = torch.tensor(work.prompts[some], device=mel.device)
        lengths = torch.tensor(work.lengths[some], device=mel.device)
        ends = prompts.shape[1] + lengths
        said = GenerationMixin.generate(
            self.network,
            mel,
            decoder_input_ids=prompts,
            do_sample=False,
            num_beams=1,
            max_new_tokens=max(work.lengths),  # of all batches: one size of static cache
            suppress_tokens=[self.eot],
            begin_suppress_tokens=[self.eot],
            eos_token_id=self.eot,
            pad_token_id=self.eot,
            cache_implementation=self.cache,
            # A row is done at its own length, and the batch when all of its rows are.
            stopping_criteria=StoppingCriteriaList([lambda ids, _, **__: ids.shape[1] >= ends]),
        )
        rows = said[:, prompts.shape[1] :].tolist()
        return [tuple(row[:n]) for row, n in zip(rows, work.lengths[some], strict=True)]


def check_same(name: str, one: Decoded, other: Decoded, work: Workload) -> None:
    """Hold two sides' tokens against each other, and against the lengths that were forced.

    Raises:
        Disagreement: they differ; the message names the first window that does.
    """
    pairs = zip(one.token_ids, other.token_ids, work.lengths, strict=True)
    for number, (ours, theirs, length) in enumerate(pairs):
        if len(ours) != length:
            raise Disagreement(
                f"{name}: window {number} must say {length} tokens, found {len(ours)}"
            )
        if ours != theirs:
            both = list(zip(ours, theirs, strict=False))
            at = next((i for i, (a, b) in enumerate(both) if a != b), len(both))
            raise Disagreement(
                f"{name}: both sides must say the same, found window {number} to differ from "
                f"token {at} of {length} on: {ours[at : at + 3]} and {theirs[at : at + 3]}"
            )
    if one.avg_logprobs is None or other.avg_logprobs is None:
        return
    gap = max(abs(a - b) for a, b in zip(one.avg_logprobs, other.avg_logprobs, strict=True))
    if gap > MAX_LOGPROB_GAP:
        raise Disagreement(
            f"{name}: average log-probabilities must lie within {MAX_LOGPROB_GAP} nats, "
            f"found a gap of {gap:.3f}"
        )


# ------------------------------------------------------------------------------------------------
# Time


@dataclass
class Budget:
    """The time that a run may take."""

    seconds: float
    clock: Callable[[], float] = time.monotonic
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()

    @property
    def left_s(self) -> float:
        """Seconds left; negative when it is overdrawn."""
        return self.seconds - (self.clock() - self.started)

    def need(self, seconds: float) -> None:
        """See that so much is left.

        Raises:
            OutOfTime: it is not.
        """
        if self.left_s <= 0 or seconds > self.left_s:
            raise OutOfTime(f"needs about {seconds:.0f} s, {max(self.left_s, 0):.0f} s are left")


@dataclass(frozen=True)
class Timing:
    """What one side's rounds took."""

    seconds: tuple[float, ...]

    @property
    def median_s(self) -> float:
        """The middle of the rounds."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Memory:
    """What one side takes on a GPU, beside the weights and what was there before it."""

    peak_bytes: int  # allocated at a time
    held_bytes: int  # kept when it is done: its slots, and what captured graphs reserve


def take_turns(
    sides: Mapping[str, Callable[[], object]],
    device: torch.device,
    budget: Budget,
    *,
    round_s: float,
) -> dict[str, Timing]:
    """Time sides in turn, as many rounds as there is time for.

    Args:
        sides: each of them does its work once, and is warm.
        device: waited for before the clock is read.
        budget: of the whole run.
        round_s: what a round took when everything was cold.

    Raises:
        OutOfTime: not one round fits.
    """
    budget.need(round_s)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(N_ROUNDS):
        if round_s > budget.left_s:
            break
        for name, side in sides.items():
            seconds[name].append(timed(side, device, budget.clock))
        round_s = sum(taken[-1] for taken in seconds.values())
    return {name: Timing(tuple(taken)) for name, taken in seconds.items()}


def timed(
    work: Callable[[], object], device: torch.device, clock: Callable[[], float] = time.monotonic
) -> float:
    """Return the seconds that some work takes, until the device is done with it."""
    synchronize(device)
    started = clock()
    work()
    synchronize(device)
    return clock() - started


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratio(ours: Timing, theirs: Timing) -> float:
    """Return how many times faster ours is: the median of the rounds' ratios."""
    pairs = zip(theirs.seconds, ours.seconds, strict=True)
    return statistics.median(their_s / our_s for their_s, our_s in pairs)


# ------------------------------------------------------------------------------------------------
# What is measured


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    section: str
    name: str
    n_windows: int
    timing: Timing
    times_slower: float | None = None  # than the first row of its section
    floor_s: float | None = None  # of a window on an H100; None on other devices
    memory: Memory | None = None  # on a GPU
    facts: Mapping[str, float] = field(default_factory=dict)

    @property
    def windows_per_s(self) -> float:
        """The median of the rounds."""
        return self.n_windows / self.timing.median_s

    @property
    def share_of_floor(self) -> float | None:
        """How near the floor it is; 1 stands on it."""
        return None if self.floor_s is None else self.floor_s * self.windows_per_s

    def as_json(self) -> dict[str, Any]:
        """Return all that is known, with what follows from it."""
        return {
            **asdict(self),
            "windows_per_s": self.windows_per_s,
            "rtfx": WINDOW_S * self.windows_per_s,
            "share_of_floor": self.share_of_floor,
        }


@dataclass(frozen=True)
class Bench:
    """What all sections share."""

    scale: Scale
    models: Models
    budget: Budget

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.models.teacher.device

    def floor_s(self, model: Whisper, n_tokens: float, batch: int) -> float | None:
        """Return the floor of a window, where the device is the one that it is known of."""
        if self.device.type != "cuda" or "H100" not in torch.cuda.get_device_name(self.device):
            return None
        return window_s(model.config, batch=batch, n_tokens=n_tokens)


@dataclass(frozen=True)
class FirstRun:
    """A side and what it said when it was cold."""

    side: Side
    said: Decoded
    seconds: float
    memory: Memory | None


def first_run(make: Callable[[], Side], work: Workload, bench: Bench) -> FirstRun:
    """Make a side and have it decode once: its warm-up, its tokens and its memory."""
    device, on_gpu = bench.device, bench.device.type == "cuda"
    release(device)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
        allocated, reserved = (
            torch.cuda.memory_allocated(device),
            torch.cuda.memory_reserved(device),
        )
    found: list[Decoded] = []
    side = make()
    seconds = timed(lambda: found.append(side(work)), device, bench.budget.clock)
    memory = None
    if on_gpu:
        peak = torch.cuda.max_memory_allocated(device) - allocated
        release(device)
        memory = Memory(peak, torch.cuda.memory_reserved(device) - reserved)
    return FirstRun(side, found[0], seconds, memory)


def throughput(bench: Bench, section: str, model: Whisper, *, compiled: bool) -> list[Row]:
    """Decode ragged windows in a full batch, refilled; beside transformers where it is there."""
    scale, batch = bench.scale, bench.scale.batch
    work = make_workload(model, scale, batch * scale.windows_per_slot, ragged=True)
    ours = first_run(lambda: make_ours(model, scale, batch), work, bench)
    runs, round_s = {"ours": ours}, ours.seconds
    if not compiled:  # else this has been done
        eager = make_ours(model, scale, batch, eager=True)(work)
        check_same(f"{section}, captured against eager", ours.said, eager, work)
    if find_spec("transformers") is not None:
        kind = "static cache + compile" if bench.device.type == "cuda" else "static cache"
        name = f"transformers, {kind if compiled else 'eager'}"
        theirs = first_run(
            lambda: Transformers(model, scale, batch, compiled=compiled), work, bench
        )
        check_same(f"{section}, ours against {name}", ours.said, theirs.said, work)
        runs[name] = theirs
        round_s += 0.0 if compiled else theirs.seconds  # compiling is not done again
    calls = {name: _bound(run.side, work) for name, run in runs.items()}
    timings = take_turns(calls, bench.device, bench.budget, round_s=round_s)
    floor_s = bench.floor_s(model, work.mean_tokens, batch)
    facts = {"batch": batch, "tokens_per_window": work.mean_tokens}
    return [
        Row(
            section,
            name,
            len(work.lengths),
            timing,
            times_slower=ratio(timings["ours"], timing) if name != "ours" else None,
            floor_s=floor_s,
            memory=runs[name].memory,
            facts=facts,
        )
        for name, timing in timings.items()
    ]


def latency(bench: Bench, section: str) -> list[Row]:
    """Decode one window after the other with the student and with its teacher."""
    scale, models = bench.scale, bench.models
    work = make_workload(models.teacher, scale, scale.n_single, ragged=False)
    pair = {"student": models.student, "teacher": models.teacher}
    runs = {}
    for name, model in pair.items():
        runs[name] = first_run(partial(make_ours, model, scale, 1), work, bench)
        eager = make_ours(model, scale, 1, eager=True)(work)
        check_same(f"{section}, {name} captured against eager", runs[name].said, eager, work)
    calls = {name: _bound(run.side, work) for name, run in runs.items()}
    round_s = sum(run.seconds for run in runs.values())
    timings = take_turns(calls, bench.device, bench.budget, round_s=round_s)
    n_teacher = models.teacher.n_parameters()
    return [
        Row(
            section,
            name,
            len(work.lengths),
            timings[name],
            times_slower=ratio(timings["student"], timings[name]) if name == "teacher" else None,
            floor_s=bench.floor_s(model, work.mean_tokens, 1),
            memory=runs[name].memory,
            facts={
                "ms_per_window": 1000 * timings[name].median_s / len(work.lengths),
                "parameters": model.n_parameters(),
                "share_of_teacher": model.n_parameters() / n_teacher,
            },
        )
        for name, model in pair.items()
    ]


def drafting(bench: Bench, section: str, *, batch: int) -> list[Row]:
    """Decode with and without a draft; the encoder's states are there already.

    The encoder takes the same time on both sides; it is timed alone, and the speed-up with it
    counted in stands among the facts.
    """
    scale, target, draft = bench.scale, bench.models.teacher, bench.models.student
    n_windows = max(scale.n_single, batch * (scale.windows_per_slot - 1))
    work = make_workload(target, scale, n_windows, ragged=True)
    with torch.inference_mode():
        # As many at a time as enter in flight.
        groups = torch.split(work.mel, max(1, round(GPU_ADMIT_SHARE * batch)))
        states = torch.cat([target.encoder(group) for group in groups])
    make_drafted = partial(make_ours, draft=draft, encoder_states=states)
    runs = {
        "with a draft": first_run(partial(make_drafted, target, scale, batch), work, bench),
        "plain": first_run(
            lambda: make_ours(target, scale, batch, encoder_states=states), work, bench
        ),
    }
    one, other = (run.said for run in runs.values())
    check_same(f"{section}, with and without a draft", one, other, work)
    drafted = runs["with a draft"].side
    assert isinstance(drafted, Ours)
    counts = drafted.search.counts
    calls = {name: _bound(run.side, work) for name, run in runs.items()}
    calls["the encoder alone"] = lambda: _encode(target, groups)
    round_s = sum(run.seconds for run in runs.values())
    timings = take_turns(calls, bench.device, bench.budget, round_s=round_s)
    encoder = timings["the encoder alone"]
    whole = ratio(_sum(timings["with a draft"], encoder), _sum(timings["plain"], encoder))
    facts = {
        "batch": batch,
        "acceptance": counts.acceptance,
        "tokens_per_round": counts.tokens_per_step,
        "speed_up_with_encoder": whole,
    }
    return [
        Row(
            section,
            name,
            n_windows,
            timing,
            times_slower=ratio(timings["with a draft"], timing) if name == "plain" else None,
            memory=runs[name].memory if name in runs else None,
            facts=facts if name == "with a draft" else {},
        )
        for name, timing in timings.items()
    ]


@torch.inference_mode()
def _encode(model: Whisper, groups: Sequence[Tensor]) -> None:
    for group in groups:
        model.encoder(group)


def _bound(side: Side, work: Workload) -> Callable[[], object]:
    return lambda: side(work)


def _sum(one: Timing, other: Timing) -> Timing:
    return Timing(tuple(a + b for a, b in zip(one.seconds, other.seconds, strict=True)))


@dataclass(frozen=True)
class Section:
    """Something to be measured, if there is time for it."""

    name: str
    measure: Callable[[Bench, str], list[Row]]
    least_s: float = 0.0  # that must be left


def sections(scale: Scale, *, has_peer: bool, on_gpu: bool) -> list[Section]:
    """Return what is measured, what matters most first and what takes longest last."""
    drafts = [
        Section(f"draft at batch {n}", partial(drafting, batch=n)) for n in scale.draft_batches
    ]
    found = [
        Section("labelling", lambda b, s: throughput(b, s, b.models.teacher, compiled=False)),
        Section("distilled", lambda b, s: throughput(b, s, b.models.student, compiled=False)),
        Section("one window at a time", latency),
        *drafts,
    ]
    if has_peer:
        least_s = COMPILE_S if on_gpu else 0.0
        found += [
            Section(
                "labelling, compiled peer",
                lambda b, s: throughput(b, s, b.models.teacher, compiled=True),
                least_s,
            ),
            Section(
                "distilled, compiled peer",
                lambda b, s: throughput(b, s, b.models.student, compiled=True),
                least_s / 2,
            ),
        ]
    return found


@dataclass
class Outcome:
    """All rows, and what there are no rows of."""

    rows: list[Row] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # for want of time or of a library
    failed: dict[str, str] = field(default_factory=dict)


def measure(bench: Bench, wanted: Sequence[Section]) -> Outcome:
    """Measure one section after the other; one that fails does not take the others with it."""
    outcome = Outcome()
    for section in wanted:
        try:
            bench.budget.need(section.least_s)
            say(f"{section.name} ({bench.budget.left_s:.0f} s left)")
            outcome.rows += section.measure(bench, section.name)
        except OutOfTime as error:
            outcome.skipped[section.name] = str(error)
        except (Disagreement, RuntimeError) as error:  # RuntimeError: what torch says of a GPU
            outcome.failed[section.name] = f"{type(error).__name__}: {error}"
        release(bench.device)
    return outcome


def release(device: torch.device) -> None:
    """Give back the memory of what is no longer used: the next section's caches are large."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


# ------------------------------------------------------------------------------------------------
# What is told


def main(words: Sequence[str] | None = None) -> int:
    """Measure, write and print; return 0 if nothing failed."""
    arguments = parse_arguments(words)
    budget = Budget(60 * arguments.minutes)
    scale = TINY if arguments.tiny else LARGE_V2
    device = Hardware(device=arguments.device).pick_device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    models = build_models(scale, agreement=arguments.agreement, device=device, dtype=dtype)
    has_peer = find_spec("transformers") is not None
    wanted = sections(scale, has_peer=has_peer, on_gpu=device.type == "cuda")
    outcome = measure(Bench(scale, models, budget), wanted)
    if not has_peer:
        outcome.skipped["transformers"] = "not installed"
    result = {
        **conditions(scale, device, dtype, agreement=arguments.agreement),
        "seconds": budget.seconds - budget.left_s,
        "rows": [row.as_json() for row in outcome.rows],
        "skipped": outcome.skipped,
        "failed": outcome.failed,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, reason in outcome.skipped.items():
        print(f"left out: {name}: {reason}")
    for name, reason in outcome.failed.items():
        print(f"failed: {name}: {reason}")
    print(describe(result))
    print(table(outcome.rows))
    return 1 if outcome.failed else 0


def parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="JSON file for everything measured")
    parser.add_argument("--device", default="auto", help="as everywhere else (auto)")
    parser.add_argument("--minutes", type=float, default=7.0, help="begin nothing later (7)")
    parser.add_argument("--tiny", action="store_true", help="a shape for a CPU, to try the script")
    parser.add_argument(
        "--agreement",
        type=float,
        default=0.9,
        help="share of the tokens on which the draft agrees (0.9)",
    )
    arguments = parser.parse_args(words)
    if not 0 <= arguments.agreement <= 1:
        parser.error(f"--agreement must lie in [0, 1], found {arguments.agreement:g}")
    return arguments


def conditions(
    scale: Scale, device: torch.device, dtype: torch.dtype, *, agreement: float
) -> dict[str, Any]:
    """Return what must stand beside the figures."""
    is_gpu = device.type == "cuda"
    return {
        "scale": scale.name,
        "device": torch.cuda.get_device_name(device) if is_gpu else platform.processor() or "CPU",
        "device_type": device.type,
        "cuda": torch.version.cuda if is_gpu else None,
        "dtype": str(dtype).removeprefix("torch."),
        "agreement": agreement,
        "seed": SEED,
        "commit": commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("distilwhisper", "torch", "transformers")},
    }


def version(name: str) -> str | None:
    """Return the version of a library; None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str:
    """Return the checkout's revision, with a plus if files differ from it."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def describe(result: Mapping[str, Any]) -> str:
    """Return the line above the table."""
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return (
        f"{result['scale']} shape, random weights, {result['dtype']}; {result['device']}; "
        f"{versions}; commit {result['commit']}; {result['date']}; {result['seconds']:.0f} s"
    )


def table(rows: Sequence[Row]) -> str:
    """Return the table as Markdown."""
    lines = [
        "| what | side | windows/s (spread) | RTFx | of the floor | times slower | peak GB "
        "| held GB | more |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        speeds = [row.n_windows / seconds for seconds in row.timing.seconds]
        share, slower = row.share_of_floor, row.times_slower
        cells = [
            row.section,
            row.name,
            f"{row.windows_per_s:.2f} ({min(speeds):.2f}-{max(speeds):.2f})",
            f"{WINDOW_S * row.windows_per_s:.0f}",
            "" if share is None else f"{100 * share:.0f} %",
            "" if slower is None else f"{slower:.2f}",
            "" if row.memory is None else f"{row.memory.peak_bytes / 1e9:.1f}",
            "" if row.memory is None else f"{row.memory.held_bytes / 1e9:.1f}",
            ", ".join(f"{name} {value:.4g}" for name, value in row.facts.items()),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def say(message: str) -> None:
    """Print one line to standard error."""
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
