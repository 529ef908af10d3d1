"""What the slots of a search hold: caches, tokens so far, and what is known of each row.

A slot is a place for one window. All tensors are made once, with a row per slot, and changed in
place: a step that works on them has no shape of its own and can be captured in a CUDA graph.
"""

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from distilwhisper.decoding.rules import DecodingRules, RuleState
from distilwhisper.model.silence import FrameBias, KeptFrames
from distilwhisper.model.whisper import CrossCache, SelfCache, Whisper, unused_zeros
from distilwhisper.shapes import Bool, Float, Int

TOKENS_PER_BLOCK = 64  # by which caches on a CPU grow


@dataclass(frozen=True)
class SpecialTokens:
    """The ids that every search needs to know."""

    sot: int  # start of transcript, which every prompt holds
    eot: int  # ends a window's text
    no_speech: int  # its probability after sot tells silence
    languages: tuple[int, ...] = ()  # the likeliest after sot is detected; English only: none


@dataclass(frozen=True)
class Job:
    """A window to be decoded."""

    ticket: Any  # names the window
    states: Float[Tensor, "frames width"] | None  # the encoder's; None: a slot has what it needs
    prompt: tuple[int, ...]  # up to and with its task tokens
    max_new_tokens: int  # a window that has not ended by then is cut off
    temperature: float = 0.0  # 0: the likeliest token; above: sampled
    seed: int = 0  # of the sampling
    kept: KeptFrames | None = None  # the frames that were encoded; None: all
    draft_states: Float[Tensor, "frames width"] | None = None  # where the slots have a draft
    # Whether a text that begins with these tokens will be of no use, however it goes on
    hopeless: Callable[[Sequence[int]], bool] | None = None


@dataclass(frozen=True)
class Hypothesis:
    """The tokens of one window, and how likely they are."""

    token_ids: tuple[int, ...]  # without prompt and without the end token
    finished: bool  # the end token was written; False where the text was cut off
    avg_logprob: float  # mean log-probability per token, the end token counted (nats)
    no_speech_prob: float  # of the no-speech token, right after start of transcript
    language_id: int | None = None  # the likeliest language's token at the same place
    language_prob: float | None = None  # of it, among the languages
    logprobs: tuple[float, ...] = ()  # of each token, the end token counted; beams keep only sums


def start_scores(
    logits: Float[Tensor, "rows vocab"], special: SpecialTokens
) -> tuple[Float[Tensor, " rows"], Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Read off the logits behind start of transcript what a decoder makes of each window.

    Returns:
        The probability that nobody speaks; the likeliest language, as its place among the special
        tokens' languages, and its probability among them: zeros where there are none.
    """
    no_speech = logits.softmax(dim=-1)[:, special.no_speech]
    if not special.languages:
        return no_speech, torch.zeros_like(no_speech, dtype=torch.long), torch.zeros_like(no_speech)
    probability, place = logits[:, list(special.languages)].softmax(dim=-1).max(dim=-1)
    return no_speech, place, probability


@dataclass(frozen=True)
class Counts:
    """What decoding has cost so far, over all windows."""

    steps: int = 0  # passes of the decoder, each over all slots in use
    row_steps: int = 0  # the same, counted for each slot
    tokens: int = 0  # written
    drafted: int = 0  # tokens that a draft proposed
    accepted: int = 0  # and that the model would have written itself

    @property
    def acceptance(self) -> float:
        """Share of the drafted tokens that were accepted."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def tokens_per_step(self) -> float:
        """Tokens that a slot gets per pass of the decoder: 1 without a draft."""
        return self.tokens / self.row_steps if self.row_steps else 0.0

    def describe_draft(self) -> str:
        """Return how well a draft did, for the log."""
        return (
            f"{100 * self.acceptance:.0f} % of {self.drafted} drafted tokens accepted, "
            f"{self.tokens_per_step:.1f} tokens a step"
        )

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*map(operator.add, vars(self).values(), vars(other).values()))

    def __sub__(self, other: "Counts") -> "Counts":
        return Counts(*map(operator.sub, vars(self).values(), vars(other).values()))


class Lane:
    """One model's caches over all slots."""

    def __init__(self, model: Whisper, n_slots: int) -> None:
        self.model = model
        self.n_slots = n_slots
        self.n_frames = [0] * n_slots
        self._has_bias = False  # until a window comes with one
        self._seen: tuple[Any, CrossCache, SelfCache] | None = None
        self._alone: list[Tensor] = []  # memory of a window that has the slots for itself
        # On a GPU steps are captured with the addresses of their tensors: those may not move.
        self._is_fixed = model.device.type == "cuda"
        most = model.config.max_tokens if self._is_fixed else 0
        self.cache = model.decoder.self_cache(n_slots, most)
        n_rows, frames = (n_slots, model.config.max_frames) if self._is_fixed else (0, 0)
        self._make_room(n_rows, frames)

    def _make_room(self, n_slots: int, frames: int) -> None:
        config, n_layers = self.model.config, self.model.config.decoder_layers
        shape = (n_slots, config.decoder_heads, frames, config.width // config.decoder_heads)
        size = math.prod(shape)
        if n_slots != 1 or not self._alone or len(self._alone[0]) < size:
            dtype, device = self.model.decoder.cross_dtype, self.model.device
            made = [unused_zeros(shape, dtype, device) for _ in range(2 * n_layers)]
            self._alone = [tensor.flatten() for tensor in made] if n_slots == 1 else []
        else:  # getting memory from the system costs more than filling it
            made = [tensor[:size].view(shape) for tensor in self._alone]
        self.cross, self._seen = CrossCache(made[:n_layers], made[n_layers:]), None
        dtype, device = self.model.dtype, self.model.device
        self._bias = torch.full((n_slots, 1, 1, frames), -torch.inf, dtype=dtype, device=device)

    def place(
        self, slot: int, states: Float[Tensor, "frames width"], kept: KeptFrames | None
    ) -> None:
        """Make a window's cross cache in a slot, and room for the longest one first."""
        frames = self.n_frames[slot] = len(states)
        self._has_bias |= kept is not None
        if slot == 0 and not self._is_fixed:  # the first of all has a row of its length, alone
            self.n_frames = [frames] + [0] * (self.n_slots - 1)
            self._make_room(1, frames)
            if self.cache.capacity > TOKENS_PER_BLOCK:  # all of which each step would look at
                self.cache = self.model.decoder.self_cache(self.n_slots, 0)
        n_rows, _, n_held, _ = self.cross.keys[0].shape
        if slot >= n_rows or frames > n_held:
            self._widen(max(frames, n_held))
        row = self._cut(slice(slot, slot + 1), frames)
        bias = self.model.decoder.cross_cache(states[None], kept, out=row).bias
        self._bias[slot, ..., :frames] = 0.0 if bias is None else bias
        self._bias[slot, ..., frames:] = -torch.inf

    @property
    def _used(self) -> list[int]:
        """The slots that were ever written to; the others take no memory yet."""
        return [slot for slot, frames in enumerate(self.n_frames) if frames]

    def _widen(self, frames: int) -> None:
        old = [*self.cross.tensors, self._bias]
        self._make_room(self.n_slots, frames)
        for ours in reversed([*self.cross.tensors, self._bias]):
            before = old.pop()  # one by one: its memory is free when the next one's is taken
            for slot in self._used:
                if slot < len(before):
                    ours[slot, :, : before.shape[2], : before.shape[3]].copy_(before[slot])

    def move(self, source: int, dest: int, n_tokens: int) -> None:
        """Move a window to another slot."""
        frames = self.n_frames[dest] = self.n_frames[source]
        self._bias[dest] = self._bias[source]
        for cross in self.cross.tensors:
            cross[dest, :, :frames].copy_(cross[source, :, :frames])
        tokens = self.cache.states[..., :n_tokens, :]
        tokens[:, :, dest].copy_(tokens[:, :, source])

    def run(
        self,
        token_ids: Int[Tensor, "rows tokens"],
        lengths: Int[Tensor, " rows"],
        *,
        first: int = 0,
        n_keys: int,
    ) -> Float[Tensor, "rows tokens width"]:
        """Return the final states of tokens in the slots from ``first`` on."""
        if n_keys > self.cache.capacity:  # grow by whole blocks: few use all their positions
            whole = -(-n_keys // TOKENS_PER_BLOCK) * TOKENS_PER_BLOCK
            most = self.model.config.max_tokens
            longer = self.model.decoder.self_cache(self.n_slots, min(whole, most))
            for slot in self._used:
                shorter = self.cache.states[:, :, slot]
                longer.states[:, :, slot, :, : self.cache.capacity].copy_(shorter)
            self.cache, self._seen = longer, None
        cross, cache = self._rows(slice(first, first + len(token_ids)))
        cache.lengths = lengths
        return self.model.decoder(token_ids, cross, cache, n_keys=n_keys)

    def _rows(self, slots: slice) -> tuple[CrossCache, SelfCache]:
        """Return what some slots hold: the same views from step to step, which an engine knows."""
        counts = self.n_frames[slots]
        # Cut to the longest; but an engine reads whole tensors, and would make copies of cut ones.
        is_cut = self.model.decoder.engine is None
        frames = max(counts) if is_cut else self.cross.keys[0].shape[2]
        is_even = min(counts) == frames and not self._has_bias
        asked = (slots.start, slots.stop, frames, is_even)
        if self._seen is None or self._seen[0] != asked:
            bias = None if is_even else self._bias[slots, ..., :frames]
            own = SelfCache(self.cache.states[:, :, slots], self.cache.lengths[slots])
            self._seen = asked, self._cut(slots, frames, bias), own
        return self._seen[1:]

    def _cut(self, slots: slice, frames: int, bias: FrameBias | None = None) -> CrossCache:
        keys, values = self.cross.keys, self.cross.values
        return CrossCache(
            [k[slots, :, :frames] for k in keys], [v[slots, :, :frames] for v in values], bias
        )


@dataclass(frozen=True)
class SlotState(RuleState):
    """What the slots hold: tensors with a row per slot, changed in place."""

    # Prompt and text; one place more than there are positions, and no row's text ends there.
    tokens: Int[Tensor, "slots places"]
    lengths: Int[Tensor, " slots"]  # tokens behind which the last one stands, still to be read
    limits: Int[Tensor, " slots"]  # length at which a row is cut off
    ended: Bool[Tensor, " slots"]
    logprobs: Float[Tensor, "slots places"]  # of the tokens that were written
    no_speech_probs: Float[Tensor, " slots"]
    languages: Int[Tensor, " slots"]  # places among the special tokens' languages
    language_probs: Float[Tensor, " slots"]
    temperature: Float[Tensor, " slots"]
    draft_lengths: Int[Tensor, " slots"]  # tokens that a draft has read

    @classmethod
    def blank(cls, n_slots: int, positions: int, rules: DecodingRules) -> "SlotState":
        """Return the state of slots that nobody uses."""
        whole = partial(torch.zeros, dtype=torch.long, device=rules.suppress.device)
        real = partial(whole, dtype=torch.float32)
        return cls(
            **vars(rules.start(n_slots)),
            tokens=whole(n_slots, positions + 1),
            lengths=whole(n_slots),
            limits=whole(n_slots),
            ended=whole(n_slots, dtype=torch.bool).logical_not(),
            logprobs=real(n_slots, positions + 1),
            no_speech_probs=real(n_slots),
            languages=whole(n_slots),
            language_probs=real(n_slots),
            temperature=real(n_slots),
            draft_lengths=whole(n_slots),
        )

    def rows(self, first: int, stop: int) -> "SlotState":
        """Return some rows, as a view."""
        return SlotState(**{name: tensor[first:stop] for name, tensor in vars(self).items()})

    def begin(self, slot: int, job: Job, rules: DecodingRules) -> None:
        """Put a window into a slot: its prompt is there, and nothing of it has been read."""
        self.tokens[slot, : len(job.prompt)] = torch.tensor(job.prompt)
        self.lengths[slot] = len(job.prompt) - 1
        self.limits[slot] = len(job.prompt) + job.max_new_tokens
        self.ended[slot] = False
        self.temperature[slot] = job.temperature
        self.draft_lengths[slot] = 0
        for name, fresh in vars(rules.start(1)).items():
            getattr(self, name)[slot] = fresh[0]

    def move(self, source: int, dest: int) -> None:
        """Move a row."""
        for tensor in vars(self).values():
            tensor[dest] = tensor[source]

    @property
    def last(self) -> Int[Tensor, " slots"]:
        """The last tokens, which the decoder has not read yet."""
        return self.tokens.gather(1, self.lengths[:, None])[:, 0]
