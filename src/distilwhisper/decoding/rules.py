"""Which tokens a decoder may write next: suppressed tokens and the grammar of timestamps.

The rules work on a batch whose rows stand at different places, and hold no Python state per row:
what a row may write follows from four numbers, so a row can be dropped, moved or rolled back.

Source: ``openai/whisper: whisper/decoding.py``, SuppressBlank, SuppressTokens and
ApplyTimestampRules; the outcome equals theirs and transformers'.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from distilwhisper.shapes import Bool, Float, Int

Ids: TypeAlias = Int[Tensor, " batch"]
Flags: TypeAlias = Bool[Tensor, " batch"]
Logits: TypeAlias = Float[Tensor, "batch vocab"]


@dataclass(frozen=True)
class TimestampRules:
    """Ids that the grammar of timestamps speaks of."""

    begin: int  # <|0.00|>; each id above is 20 ms later
    no_timestamps: int
    eot: int  # every id below is text
    max_initial_index: int = 50  # the first timestamp is 1.0 s at most


@dataclass(frozen=True)
class RuleState:
    """What the rules need to know of each row's tokens so far."""

    n_generated: Ids
    last_was_timestamp: Flags
    before_was_timestamp: Flags  # the last but one; true while there is none
    last_timestamp: Ids  # its id; one below the first while there is none

    def select(self, rows: Int[Tensor, " kept"]) -> "RuleState":
        """Return the state of some rows, in the order asked for."""
        return replace(self, **{name: tensor[rows] for name, tensor in vars(self).items()})


class DecodingRules:
    """Suppress lists, and the timestamp grammar when timestamps are wanted.

    What is in ``begin_suppress`` is not written first: a blank, and the end.
    """

    def __init__(
        self,
        *,
        suppress: Sequence[int],
        begin_suppress: Sequence[int],
        timestamps: TimestampRules | None,
        device: torch.device | str = "cpu",
    ) -> None:
        always = sorted({*suppress, *([timestamps.no_timestamps] if timestamps else [])})
        self.suppress = torch.tensor(always, dtype=torch.long, device=device)
        self.begin_suppress = torch.tensor(begin_suppress, dtype=torch.long, device=device)
        self.timestamps = timestamps
        self._places = torch.zeros(0)  # of all timestamps, counted when they are first seen

    def start(self, batch: int) -> RuleState:
        """Return the state of rows that have no token yet."""
        device = self.suppress.device
        none_yet = self.timestamps.begin - 1 if self.timestamps else 0
        return RuleState(
            n_generated=torch.zeros(batch, dtype=torch.long, device=device),
            last_was_timestamp=torch.zeros(batch, dtype=torch.bool, device=device),
            before_was_timestamp=torch.ones(batch, dtype=torch.bool, device=device),
            last_timestamp=torch.full((batch,), none_yet, dtype=torch.long, device=device),
        )

    def advance(self, state: RuleState, token_ids: Ids) -> RuleState:
        """Return the state after each row has one more token."""
        n_generated = state.n_generated + 1
        if self.timestamps is None:
            return replace(state, n_generated=n_generated)
        is_timestamp = token_ids >= self.timestamps.begin
        return RuleState(
            n_generated=n_generated,
            last_was_timestamp=is_timestamp,
            before_was_timestamp=state.last_was_timestamp | (state.n_generated == 0),
            last_timestamp=torch.where(is_timestamp, token_ids, state.last_timestamp),
        )

    def __call__(self, logits: Logits, state: RuleState) -> Logits:
        """Return the logits with minus infinity wherever a row may not go.

        The logits are changed in place, by as few passes over the vocabulary as can be.
        """
        logits.index_fill_(1, self.suppress, -torch.inf)
        first = state.n_generated == 0
        if self.begin_suppress.numel() and _may_hold(first):
            kept = logits[:, self.begin_suppress]
            logits[:, self.begin_suppress] = kept.masked_fill(first[:, None], -torch.inf)
        if self.timestamps is not None:
            self._apply_timestamps(logits, state, first, self.timestamps)
        return logits

    def _apply_timestamps(
        self, logits: Tensor, state: RuleState, first: Flags, rules: TimestampRules
    ) -> None:
        text, times = logits[:, : rules.begin], logits[:, rules.begin :]
        opens_text = state.last_was_timestamp & state.before_was_timestamp
        ends_segment = state.last_was_timestamp & ~state.before_was_timestamp
        # A segment's end may be repeated as the next one's start; otherwise time moves on.
        earliest = state.last_timestamp + (~ends_segment).long() - rules.begin
        earliest.masked_fill_(opens_text, times.shape[1])
        if len(self._places) != times.shape[1]:
            self._places = torch.arange(times.shape[1], device=logits.device)
        index = self._places
        blocked = index < earliest[:, None]
        if _may_hold(first):
            blocked |= first[:, None] & (index > rules.max_initial_index)
        times.masked_fill_(blocked, -torch.inf)
        _forbid(text[:, : rules.eot], ends_segment)
        # Timestamps together may be likelier than any one text token: then one of them it is.
        likeliest = text.float().amax(dim=1, keepdim=True)
        only_times = first | ((times.float() - likeliest).exp().sum(dim=1) > 1)
        _forbid(text, only_times)


def best(scores: Logits) -> Ids:
    """Return the likeliest token of each row; of equals, the lowest id."""
    if scores.device.type == "cpu":  # numpy's is ten times as fast as torch's
        return torch.from_numpy(scores.numpy().argmax(axis=1))
    return scores.argmax(dim=1)


def choose(allowed: Logits, choice: Ids | None = None) -> tuple[Ids, Float[Tensor, " batch"]]:
    """Return the likeliest token of each row, or those given, and their log-probabilities."""
    token_ids = best(allowed) if choice is None else choice
    return token_ids, allowed.log_softmax(dim=1).gather(1, token_ids[:, None])[:, 0]


def _forbid(logits: Float[Tensor, "batch some"], rows: Flags) -> None:
    if logits.device.type == "cpu":
        if rows.any():  # mostly there is none
            logits[rows] = -torch.inf  # touches these alone
    else:  # without a look at which they are, for which the host would wait
        logits.add_(
            torch.zeros_like(rows, dtype=logits.dtype).masked_fill(rows, -torch.inf)[:, None]
        )


def _may_hold(rows: Flags) -> bool:
    """Return whether a flag may be set: on a GPU always, where the host would wait for a look."""
    return rows.device.type != "cpu" or bool(rows.any())
