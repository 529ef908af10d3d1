"""Beam search over a batch of windows: encoder states and prompts in, the best text of each out.

Every window has its own beams, ends when it has enough finished candidates, and leaves the batch
then. The beams of a window share its keys and values of the encoder states, which are by far the
larger part of what a decoder remembers; only what they said is kept per beam.

Source: openai/whisper: ``whisper/decoding.py``, BeamSearchDecoder and MaximumLikelihoodRanker;
patience: arXiv:2204.05424; the length penalty: arXiv:1609.08144, section 7.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distilwhisper.decoding.rules import DecodingRules, RuleState
from distilwhisper.decoding.search import NonFiniteOutput, pad_right, require_room
from distilwhisper.decoding.slots import Hypothesis, SpecialTokens, Start
from distilwhisper.model.whisper import CrossCache, Decoder, SelfCache, Whisper
from distilwhisper.shapes import Float, Int

# Windows that are done leave the batch when this share of it is: to drop one copies the caches of
# those that stay, and pays when the steps saved cost more than the copy.
_DROP_SHARE = 0.25


@torch.inference_mode()
def beam_search(
    model: Whisper,
    encoder_states: Float[Tensor, "batch frames width"],
    prompts: Sequence[Sequence[int]],
    rules: DecodingRules,
    special: SpecialTokens,
    *,
    max_new_tokens: int,
    beam_size: int,
    patience: float = 1.0,
    length_penalty: float | None = None,
) -> list[Hypothesis]:
    """Keep the ``beam_size`` likeliest beginnings of each window, and return its best text.

    The tokens are those that openai-whisper finds, with two exceptions where it leaves to chance
    what comes out: an end that the rules forbid is no candidate, and a text without any token
    counts as one token long where theirs divides by zero.

    Args:
        model: its decoder speaks.
        encoder_states: of the windows, one row each.
        prompts: what each row begins with, up to and with its task tokens; lengths may differ.
        rules: what may be said.
        special: ids that every search needs.
        max_new_tokens: what has not ended by then is cut off.
        beam_size: beginnings kept per window; 1 is greedy search.
        patience: a window ends with ``round(beam_size * patience)`` finished candidates.
        length_penalty: the candidates' log-probabilities are divided by
            ``((5 + length) / 6) ** length_penalty``; None divides them by the length.

    Returns:
        One hypothesis a window, in order. Its ``avg_logprob`` is the mean over what was said; for
        a text that was cut off, openai-whisper divides by one token more.

    Raises:
        ValueError: there is not one prompt a window; prompt and new tokens together exceed the
            model's positions; ``beam_size``, ``patience`` or ``length_penalty`` is out of range.
        NonFiniteOutput: a window's probabilities are not numbers.
    """
    _check(model, encoder_states, prompts, max_new_tokens, beam_size, patience, length_penalty)
    if not prompts:
        return []
    n_candidates = round(beam_size * patience)
    windows = [_Window() for _ in prompts]
    batch, logits, start = _start(
        model, encoder_states, prompts, rules, special, n_new=max_new_tokens
    )
    for step in range(max_new_tokens):
        allowed = rules(logits.float(), batch.rules)
        moves = [
            windows[i].extend(ways, eot=special.eot, beam_size=beam_size, n_candidates=n_candidates)
            for i, ways in zip(batch.index, _best_ways(allowed, batch, beam_size + 1), strict=True)
        ]
        is_open = [len(windows[i].ended) < n_candidates for i in batch.index]
        if not any(is_open) or step == max_new_tokens - 1:
            break
        batch.follow(moves, rules)
        if sum(is_open) <= (1 - _DROP_SHARE) * len(is_open):
            batch.keep([place for place, wanted in enumerate(is_open) if wanted])
        states = _decode_beams(model.decoder, batch)
        logits = model.decoder.project(states[:, 0])
    found = [window.best(beam_size=beam_size, length_penalty=length_penalty) for window in windows]
    return [
        Hypothesis(
            token_ids=best.token_ids,
            finished=finished,
            avg_logprob=best.sum_logprob / max(len(best.token_ids) + finished, 1),
            no_speech_prob=no_speech_prob,
            language_id=special.languages[place] if special.languages else None,
            language_prob=language_prob if special.languages else None,
        )
        for (best, finished), no_speech_prob, place, language_prob in zip(
            found,
            start.no_speech_probs.tolist(),
            start.languages.tolist(),
            start.language_probs.tolist(),
            strict=True,
        )
    ]


@dataclass(frozen=True)
class _Beam:
    token_ids: tuple[int, ...] = ()
    sum_logprob: float = 0.0  # of the end token too, once it is said


@dataclass(frozen=True)
class _Move:
    """One more token for one beam."""

    source: int  # place of the beam among its window's
    token_id: int
    sum_logprob: float


@dataclass
class _Window:
    """What one window has said so far, the likeliest first."""

    beams: list[_Beam] = field(default_factory=lambda: [_Beam()])
    ended: list[_Beam] = field(default_factory=list)

    def extend(
        self, ways: list[_Move], *, eot: int, beam_size: int, n_candidates: int
    ) -> list[_Move]:
        """Say one token more: beams that end are put aside while there is room.

        Args:
            ways: the likeliest first; enough that ``beam_size`` of them do not end.
            eot: ends a text.
            beam_size: beams to keep.
            n_candidates: texts that may end. When they have, the window stays as it is.

        Returns:
            The moves that lead to the new beams.
        """
        is_open = len(self.ended) < n_candidates
        kept: list[_Move] = []
        for way in ways:
            if way.token_id != eot:
                kept.append(way)
            elif len(self.ended) < n_candidates and way.sum_logprob > -torch.inf:
                self.ended.append(_Beam(self.beams[way.source].token_ids, way.sum_logprob))
            if len(kept) == beam_size:
                break
        if is_open:
            self.beams = [
                _Beam((*self.beams[move.source].token_ids, move.token_id), move.sum_logprob)
                for move in kept
            ]
        return kept

    def best(self, *, beam_size: int, length_penalty: float | None) -> tuple[_Beam, bool]:
        """Return the best text, and whether it ended by itself.

        It is of those that ended and, where too few did, of those that were cut off.
        """
        # Beams of probability 0 fill the batch where the rules leave fewer ways than beams.
        cut_off = [beam for beam in self.beams if beam.sum_logprob > -torch.inf]
        candidates = [*self.ended, *cut_off[: max(beam_size - len(self.ended), 0)]]
        scores = [
            beam.sum_logprob / _length_divisor(len(beam.token_ids), length_penalty)
            for beam in candidates
        ]
        place = scores.index(max(scores))
        return candidates[place], place < len(self.ended)


@dataclass
class _Batch:
    """The windows still being decoded, and all that moves along with their beams.

    Beams of one window are neighbours; there is one a window before the first token.
    """

    index: list[int]  # places of the windows among those that were asked for
    cross: CrossCache  # one row a window
    cache: SelfCache  # one row a beam, as all below
    rules: RuleState
    sums: Float[Tensor, " beams"]  # log-probabilities
    last: Int[Tensor, " beams"]  # the token that was said last
    n_keys: int  # how far the longest row reaches into the cache
    n_shared: int  # so far into the cache all beams of a window are the same

    def follow(self, moves: list[list[_Move]], rules: DecodingRules) -> None:
        """Let every window's beams become those that its moves lead to."""
        device = self.sums.device
        n_before = len(self.sums) // len(moves)
        flat = [move for of_window in moves for move in of_window]
        sources = [
            place * n_before + move.source
            for place, of_window in enumerate(moves)
            for move in of_window
        ]
        self.last = torch.tensor([move.token_id for move in flat], device=device)
        self.sums = torch.tensor(
            [move.sum_logprob for move in flat], dtype=self.sums.dtype, device=device
        )
        if sources != list(range(len(self.last))):
            rows = torch.tensor(sources, device=device)
            self.rules = self.rules.select(rows)
            self._reorder(rows)
        self.rules = rules.advance(self.rules, self.last)

    def keep(self, places: list[int]) -> None:
        """Let all windows but some leave."""
        device = self.sums.device
        n_beams = len(self.sums) // len(self.index)
        kept = torch.tensor(places, device=device)
        rows = (kept[:, None] * n_beams + torch.arange(n_beams, device=device)).flatten()
        self.index = [self.index[place] for place in places]
        self.cross = self.cross.select(kept)
        self.cache = self.cache.select(rows)
        self.rules = self.rules.select(rows)
        self.sums = self.sums[rows]
        self.last = self.last[rows]

    def _reorder(self, rows: Int[Tensor, " beams"]) -> None:
        if len(rows) != len(self.cache.lengths):
            self.cache = self.cache.select(rows)
            return
        # Within a window: the prompt is the same, and behind n_keys nothing is written yet.
        said = slice(self.n_shared, self.n_keys)
        for cached in (*self.cache.keys, *self.cache.values):
            cached[:, :, said] = cached[rows, :, said]


def _start(
    model: Whisper,
    encoder_states: Tensor,
    prompts: Sequence[Sequence[int]],
    rules: DecodingRules,
    special: SpecialTokens,
    *,
    n_new: int,
) -> tuple[_Batch, Float[Tensor, "batch vocab"], Start]:
    """Run the prompts: the batch, the logits of the first new token, and what start tells."""
    device = model.device
    lengths = [len(prompt) for prompt in prompts]
    every = torch.arange(len(prompts), device=device)
    ends = torch.tensor(lengths, device=device) - 1
    padded = pad_right(prompts, value=special.sot).to(device)
    cross = model.decoder.cross_cache(encoder_states)
    cache = model.decoder.self_cache(len(prompts), max(lengths) + n_new)
    states = model.decoder(padded, cross, cache)
    cache.lengths += ends + 1
    sot_at = torch.tensor([list(prompt).index(special.sot) for prompt in prompts], device=device)
    after_sot = model.decoder.project(states[every, sot_at]).float()
    batch = _Batch(
        index=list(range(len(prompts))),
        cross=cross,
        cache=cache,
        rules=rules.start(len(prompts)),
        sums=torch.zeros(len(prompts), device=device),
        last=padded[every, ends],
        n_keys=max(lengths),
        n_shared=min(lengths),
    )
    return batch, model.decoder.project(states[every, ends]), Start.of(after_sot, special)


def _decode_beams(decoder: Decoder, batch: _Batch) -> Float[Tensor, "beams 1 width"]:
    """Return the final states of each beam's last token.

    The windows' encoder states are read once for all their beams, and never copied.
    """
    batch.n_keys += 1
    states = decoder(batch.last[:, None], batch.cross, batch.cache, n_keys=batch.n_keys)
    batch.cache.lengths += 1
    return states


def _best_ways(
    allowed: Float[Tensor, "beams vocab"], batch: _Batch, count: int
) -> list[list[_Move]]:
    """Return per window the ``count`` best tokens after each of its beams, the likeliest first."""
    logprobs, token_ids = allowed.log_softmax(dim=-1).topk(count)
    sums = (batch.sums[:, None] + logprobs).view(len(batch.index), -1, count)
    is_nan = sums.isnan().flatten(1).any(dim=1).tolist()
    broken = [i for i, nan in zip(batch.index, is_nan, strict=True) if nan]
    if broken:
        raise NonFiniteOutput(
            f"log-probabilities must be finite, found others in rows {broken} of the batch: the "
            "weights hold NaN, or the sound overflows this dtype (try float32)"
        )
    ways = [
        [
            _Move(source, token_id, total)
            for source, row in enumerate(zip(ids_of_window, sums_of_window, strict=True))
            for token_id, total in zip(*row, strict=True)
        ]
        for ids_of_window, sums_of_window in zip(
            token_ids.view(sums.shape).tolist(), sums.tolist(), strict=True
        )
    ]
    # Of equal ways Python's sort leaves the earlier beam's in front, as in openai-whisper.
    return [sorted(of_window, key=lambda way: -way.sum_logprob) for of_window in ways]


def _length_divisor(length: int, penalty: float | None) -> float:
    return max(length, 1) if penalty is None else ((5 + length) / 6) ** penalty


def _check(
    model: Whisper,
    encoder_states: Tensor,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    beam_size: int,
    patience: float,
    length_penalty: float | None,
) -> None:
    if len(prompts) != len(encoder_states):
        raise ValueError(
            f"every window needs one prompt, found {len(encoder_states)} windows and "
            f"{len(prompts)} prompts"
        )
    longest = max((len(prompt) for prompt in prompts), default=0)
    require_room(model, n_prompt=longest, n_new=max_new_tokens)
    if not 1 <= beam_size < model.config.vocab_size:
        raise ValueError(
            f"beam_size must lie in 1 ... {model.config.vocab_size - 1}, found {beam_size}"
        )
    if not math.isfinite(patience) or round(beam_size * patience) < 1:
        raise ValueError(
            "beam_size times patience must round to a number above zero, "
            f"found {beam_size} * {patience}"
        )
    if length_penalty is not None and not 0 <= length_penalty <= 1:
        raise ValueError(
            f"length_penalty must lie in 0 ... 1, or be None for the mean, found {length_penalty}"
        )
