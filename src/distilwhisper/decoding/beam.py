"""Beam search over one window: encoder states and a prompt in, the best text out.

The beams share the keys and values of the encoder states, by far the larger part of what a decoder
remembers; only what stands behind the prompt is kept per beam.

Source: openai/whisper: ``whisper/decoding.py``, BeamSearchDecoder and MaximumLikelihoodRanker.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distilwhisper.decoding.rules import DecodingRules
from distilwhisper.decoding.search import NonFiniteOutput, require_room
from distilwhisper.decoding.slots import Hypothesis, Job, SpecialTokens, start_scores
from distilwhisper.model.whisper import SelfCache, Whisper
from distilwhisper.shapes import Float, Int


@torch.inference_mode()
def beam_search(
    model: Whisper, job: Job, rules: DecodingRules, special: SpecialTokens, *, beam_size: int
) -> Hypothesis:
    """Keep the ``beam_size`` likeliest beginnings of a window's text, and return its best text.

    The search ends with ``beam_size`` finished candidates; the one with the highest mean
    log-probability is best. The tokens are those of openai-whisper, but for two cases that it
    leaves to chance: an end that the rules forbid is no candidate, and an empty text counts as one
    token long. ``avg_logprob`` is the mean over the tokens that were written; for a text that was
    cut off, openai-whisper divides by one token more.

    Raises:
        ValueError: prompt and new tokens exceed the model's positions, or the beams its vocabulary.
        NonFiniteOutput: a probability is not a number.
    """
    decoder, prompt, n_keys = model.decoder, job.prompt, len(job.prompt)
    require_room(model, n_prompt=n_keys, n_new=job.max_new_tokens)
    if not 1 <= beam_size < model.config.vocab_size:
        raise ValueError(
            f"beam_size must lie in 1 ... {model.config.vocab_size - 1}, found {beam_size}"
        )
    assert job.states is not None
    cross = decoder.cross_cache(job.states[None], job.kept)
    cache = decoder.self_cache(1, n_keys + job.max_new_tokens)
    states = decoder(torch.tensor([list(prompt)], device=model.device), cross, cache)[0]
    scores = start_scores(decoder.project(states[[prompt.index(special.sot)]]).float(), special)
    no_speech, language, language_prob = (score.item() for score in scores)
    last, state = states[-1:], rules.start(1)
    beams, ended = [_Beam()], list[_Beam]()
    for step in range(job.max_new_tokens):
        sources = beams
        beams, new_ended = _extended(
            rules(decoder.project(last).float(), state), sources, beam_size, eot=special.eot
        )
        ended += new_ended[: beam_size - len(ended)]
        if len(ended) == beam_size or step == job.max_new_tokens - 1:
            break
        rows = torch.tensor([beam.source for beam in beams], device=model.device)
        written = torch.tensor([beam.token_ids[-1] for beam in beams], device=model.device)
        if rows.tolist() != list(range(len(sources))):
            state, cache = state.select(rows), _reordered(cache, rows, len(prompt), n_keys)
        cache.lengths.fill_(n_keys)
        state, n_keys = rules.advance(state, written), n_keys + 1
        last = decoder(written[:, None], cross, cache, n_keys=n_keys)[:, 0]
    # Beams of probability 0 are there where the rules leave fewer ways than beams.
    cut_off = [beam for beam in beams if beam.sum_logprob > -torch.inf]
    candidates = [*ended, *cut_off[: beam_size - len(ended)]]
    best = max(candidates, key=lambda beam: beam.sum_logprob / max(len(beam.token_ids), 1))
    return Hypothesis(
        token_ids=best.token_ids,
        finished=best.finished,
        avg_logprob=best.sum_logprob / max(len(best.token_ids) + best.finished, 1),
        no_speech_prob=no_speech,
        language_id=special.languages[int(language)] if special.languages else None,
        language_prob=language_prob if special.languages else None,
    )


@dataclass(frozen=True)
class _Beam:
    """A beginning of the text, or one that has ended: then its sum counts the end token too."""

    token_ids: tuple[int, ...] = ()
    sum_logprob: float = 0.0
    source: int = 0  # place of the beam that it continues
    finished: bool = False


def _extended(
    allowed: Float[Tensor, "beams vocab"], beams: Sequence[_Beam], beam_size: int, *, eot: int
) -> tuple[list[_Beam], list[_Beam]]:
    """Return the likeliest beams with one token more, and those likelier that end."""
    logprobs, token_ids = allowed.log_softmax(dim=-1).topk(beam_size + 1)
    sums = torch.tensor([[beam.sum_logprob] for beam in beams], device=logprobs.device) + logprobs
    if sums.isnan().any():
        raise NonFiniteOutput
    ways = [
        (total, source, token_id)
        for source, row in enumerate(zip(sums.tolist(), token_ids.tolist(), strict=True))
        for total, token_id in zip(*row, strict=True)
    ]
    kept, ended = list[_Beam](), list[_Beam]()
    # Of equal ways Python's sort leaves the earlier beam's in front, as in openai-whisper.
    for total, source, token_id in sorted(ways, key=lambda way: -way[0]):
        before = beams[source].token_ids
        if token_id != eot:
            kept.append(_Beam((*before, token_id), total, source))
        elif total > -torch.inf:
            ended.append(_Beam(before, total, source, finished=True))
        if len(kept) == beam_size:
            break
    return kept, ended


def _reordered(
    cache: SelfCache, rows: Int[Tensor, " beams"], n_prompt: int, n_keys: int
) -> SelfCache:
    """Return the cache of the beams that those of some rows become."""
    if len(rows) != len(cache.lengths):
        return cache.select(rows)
    # The prompt is the same in all, and behind n_keys nothing is written yet.
    written = cache.states[..., n_prompt:n_keys, :]
    written.copy_(written[:, :, rows])
    return cache
