"""Greedy search over a batch of windows: encoder states and prompts in, tokens and scores out."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from distilwhisper.decoding.rules import DecodingRules, RuleState
from distilwhisper.model.whisper import CrossCache, SelfCache, Whisper

# Finished rows leave the batch when this share of it is done: dropping a row copies the caches of
# those that stay, and pays when the steps saved cost more than the copy.
DROP_SHARE = 0.25


class NonFiniteOutput(ArithmeticError):
    """The network gave a number that is none: its weights or its input are broken."""


@dataclass(frozen=True)
class Hypothesis:
    """What a search found for one window."""

    token_ids: tuple[int, ...]  # without prompt and without the end token
    finished: bool  # the end token was said; False where the token limit cut the text off
    avg_logprob: float  # mean log-probability per token, the end token counted (nats)
    no_speech_prob: float  # of the no-speech token, right after start of transcript


@dataclass
class _Rows:
    """The rows still being decoded, and all that moves along with them."""

    index: Tensor  # (rows,) place in the batch that was asked for
    cross: CrossCache
    cache: SelfCache
    rules: RuleState
    last: Tensor  # (rows,) the token that was said last

    def select(self, rows: Tensor) -> "_Rows":
        return _Rows(
            self.index[rows],
            self.cross.select(rows),
            self.cache.select(rows),
            self.rules.select(rows),
            self.last[rows],
        )


@torch.inference_mode()
def greedy(
    model: Whisper,
    encoder_states: Float[Tensor, "batch frames width"],
    prompts: Sequence[Sequence[int]],
    rules: DecodingRules,
    *,
    sot: int,
    eot: int,
    no_speech: int,
    max_new_tokens: int,
) -> list[Hypothesis]:
    """Decode every row greedily; rows finish independently.

    Args:
        model: its decoder speaks.
        encoder_states: of the windows, one row each.
        prompts: what each row begins with, up to and with its task tokens; lengths may differ.
        rules: what may be said; ties go to the lowest id.
        sot: start of transcript, which every prompt holds.
        eot: ends a row.
        no_speech: the id whose probability after ``sot`` tells silence.
        max_new_tokens: a row that has not ended by then is cut off.

    Returns:
        One hypothesis a row, in order.

    Raises:
        ValueError: prompt and new tokens together exceed the model's positions.
        NonFiniteOutput: a row's probabilities are not numbers.
    """
    longest = max(len(prompt) for prompt in prompts)
    if longest + max_new_tokens > model.config.max_tokens:
        raise ValueError(
            f"prompt and new tokens must fit in {model.config.max_tokens} positions, "
            f"found {longest} + {max_new_tokens}: shorten the prompt or lower max_new_tokens"
        )
    rows, logits, no_speech_probs = _start(
        model, encoder_states, prompts, rules, sot, no_speech, capacity=longest + max_new_tokens
    )
    batch = len(prompts)
    tokens = torch.full((batch, max_new_tokens), eot, device=model.device)
    sum_logprobs = torch.zeros(batch, dtype=torch.float32, device=model.device)
    ended = torch.zeros(batch, dtype=torch.bool, device=model.device)
    for step in range(max_new_tokens):
        allowed = rules(logits.float(), rows.rules)
        rows.last = allowed.argmax(dim=-1)
        chosen = allowed.gather(1, rows.last[:, None])[:, 0] - allowed.logsumexp(dim=-1)
        alive = ~ended[rows.index]
        sum_logprobs[rows.index] += torch.where(alive, chosen, 0.0)
        tokens[rows.index, step] = torch.where(alive, rows.last, eot)
        ended[rows.index] |= rows.last == eot
        open_rows = (~ended[rows.index]).nonzero()[:, 0]
        if not len(open_rows) or step == max_new_tokens - 1:
            break
        rows.rules = rules.advance(rows.rules, rows.last)
        if len(open_rows) <= (1 - DROP_SHARE) * len(rows.index):
            rows = rows.select(open_rows)
        states = model.decoder(rows.last[:, None], rows.cross, rows.cache)
        rows.cache.lengths += 1
        logits = model.decoder.project(states[:, 0])
    return _collect(tokens, sum_logprobs, ended, no_speech_probs, eot)


def _start(
    model: Whisper,
    encoder_states: Tensor,
    prompts: Sequence[Sequence[int]],
    rules: DecodingRules,
    sot: int,
    no_speech: int,
    capacity: int,
) -> tuple[_Rows, Tensor, Tensor]:
    """Run the prompts: the rows, the logits of their first new token, and no-speech."""
    device = model.device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    padded = pad_right(prompts, value=sot).to(device)
    cross = model.decoder.cross_cache(encoder_states)
    cache = model.decoder.self_cache(len(prompts), capacity)
    states = model.decoder(padded, cross, cache)
    cache.lengths += lengths
    every = torch.arange(len(prompts), device=device)
    sot_at = torch.tensor([list(prompt).index(sot) for prompt in prompts], device=device)
    after_sot = model.decoder.project(states[every, sot_at]).float().softmax(dim=-1)
    rows = _Rows(every, cross, cache, rules.start(len(prompts)), padded[every, lengths - 1])
    logits = model.decoder.project(states[every, lengths - 1])
    return rows, logits, after_sot[:, no_speech]


def _collect(
    tokens: Tensor, sum_logprobs: Tensor, ended: Tensor, no_speech_probs: Tensor, eot: int
) -> list[Hypothesis]:
    n_said = (tokens != eot).sum(dim=1)
    averages = sum_logprobs / (n_said + ended.long()).clamp(min=1)
    broken = (~(averages + no_speech_probs).isfinite()).nonzero()[:, 0].tolist()
    if broken:
        raise NonFiniteOutput(
            f"log-probabilities must be finite, found others in rows {broken} of the batch: the "
            "weights hold NaN, or the sound overflows this dtype (try float32)"
        )
    return [
        Hypothesis(tuple(ids[:n]), finished, logprob, no_speech)
        for ids, n, finished, logprob, no_speech in zip(
            tokens.tolist(),
            n_said.tolist(),
            ended.tolist(),
            averages.tolist(),
            no_speech_probs.tolist(),
            strict=True,
        )
    ]


@torch.inference_mode()
def language_probabilities(
    model: Whisper,
    encoder_states: Float[Tensor, "batch frames width"],
    *,
    sot: int,
    language_ids: Sequence[int],
) -> Float[Tensor, "batch languages"]:
    """Return how likely each language is, judged from the token after start of transcript.

    Args:
        model: a multilingual model.
        encoder_states: of the windows.
        sot: start of transcript.
        language_ids: the languages' tokens, which share the whole probability.
    """
    start = torch.full((len(encoder_states), 1), sot, device=model.device)
    cross = model.decoder.cross_cache(encoder_states)
    logits = model.decoder.project(model.decoder(start, cross)[:, 0])
    return logits[:, list(language_ids)].float().softmax(dim=-1)


def pad_right(rows: Sequence[Sequence[int]], *, value: int) -> Int[Tensor, "batch longest"]:
    """Stack rows of ids of any length, filled up on the right."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])
