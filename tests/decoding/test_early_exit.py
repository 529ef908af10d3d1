from dataclasses import replace
from pathlib import Path

import pytest
import torch
from searching import decode, make_rules
from torch import Tensor

from distilwhisper.decoding.early_exit import exit_early
from distilwhisper.decoding.search import Search
from distilwhisper.decoding.slots import Hypothesis, Job, SpecialTokens
from distilwhisper.model.checkpoint import Checkpoint, load_checkpoint
from distilwhisper.model.whisper import Whisper
from distilwhisper.text.tokens import Tokenizer

N_LAYERS = 4
# After the first layer the likeliest token of some rows is surer than this, and of others not.
SOMETIMES = 0.9


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Whisper:
    """A random model that is often sure, and sometimes early."""
    checkpoint: Checkpoint = load_checkpoint(tiny_model, dtype=torch.float64)
    checkpoint.model.decoder.layer_norm.weight.data *= 40
    return checkpoint.model


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return Tokenizer.from_folder(tiny_model)


@pytest.fixture(scope="module")
def encoder_states(model: Whisper) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    mel = torch.randn(5, 80, 600, dtype=torch.float64, generator=generator)
    with torch.inference_mode():
        return model.encoder(mel) * torch.linspace(0.2, 3, 5)[:, None, None]


def make_search(
    model: Whisper, tokenizer: Tokenizer, *, n_slots: int, confidence: float | None
) -> Search:
    rules = make_rules(tokenizer)
    special = SpecialTokens(tokenizer.sot, tokenizer.eot, tokenizer.no_speech)
    return Search(model, rules, special, n_slots=n_slots, exit_confidence=confidence)


@pytest.fixture(scope="module")
def jobs(model: Whisper, tokenizer: Tokenizer, encoder_states: Tensor) -> list[Job]:
    prompt = tuple(tokenizer.prompt_ids(language=None, timestamps=True))
    with torch.inference_mode():
        return [
            Job(ticket, model.decoder.cross_cache(states[None]), prompt, 8 + 3 * ticket)
            for ticket, states in enumerate(encoder_states)
        ]


def test_full_confidence_is_plain_decoding(
    model: Whisper, tokenizer: Tokenizer, encoder_states: Tensor, tiny_model: Path
) -> None:
    """Of a model that is never quite sure; one that is would be free to leave."""
    unsure = load_checkpoint(tiny_model, dtype=torch.float64).model
    prompt = tuple(tokenizer.prompt_ids(language=None, timestamps=True))
    with torch.inference_mode():
        jobs = [
            Job(ticket, unsure.decoder.cross_cache(states[None]), prompt, 12)
            for ticket, states in enumerate(encoder_states)
        ]
    wanted = decode(make_search(unsure, tokenizer, n_slots=3, confidence=None), jobs)
    search = make_search(unsure, tokenizer, n_slots=3, confidence=1.0)
    assert decode(search, jobs) == wanted
    assert search.counts.layers_per_token == N_LAYERS


def test_little_confidence_is_one_layer(
    model: Whisper, tokenizer: Tokenizer, jobs: list[Job]
) -> None:
    search = make_search(model, tokenizer, n_slots=3, confidence=1e-9)
    found = decode(search, jobs)
    assert search.counts.layers == search.counts.tokens
    # The prompt is read by all layers, so that only the first token can be told from a full pass.
    for job in jobs:
        with torch.inference_mode():
            decoder = model.decoder
            step = decoder.begin(torch.tensor([job.prompt]))
            states = decoder.run_layer(0, step.states, step, job.cross, None)
            logits = decoder.project(decoder.layer_norm(states[:, -1]))
        rules = search.rules
        said = rules(logits.float(), rules.start(1)).argmax().item()
        assert found[job.ticket].token_ids[0] == said


def test_a_batch_equals_its_windows_alone(
    model: Whisper, tokenizer: Tokenizer, jobs: list[Job]
) -> None:
    layers = 0
    alone: dict[int, Hypothesis] = {}
    for job in jobs:
        single = make_search(model, tokenizer, n_slots=1, confidence=SOMETIMES)
        alone |= decode(single, [job])
        layers += single.counts.layers
    for n_slots in (2, 5):
        search = make_search(model, tokenizer, n_slots=n_slots, confidence=SOMETIMES)
        for ticket, hypothesis in decode(search, jobs).items():
            assert hypothesis.token_ids == alone[ticket].token_ids
            # Scores are kept in float32.
            wanted = alone[ticket].avg_logprob
            assert hypothesis.avg_logprob == pytest.approx(wanted, rel=1e-6, abs=1e-6)
        assert search.counts.layers == layers
    assert search.counts.tokens < layers < N_LAYERS * search.counts.tokens  # it proves something


def test_the_more_confidence_is_asked_for_the_more_layers_are_used(
    model: Whisper, tokenizer: Tokenizer, jobs: list[Job]
) -> None:
    """For one token, that is: after it the texts go apart."""
    used = []
    for confidence in (0.05, 0.3, 0.6, 0.9, 0.99, 1.0):
        search = make_search(model, tokenizer, n_slots=5, confidence=confidence)
        decode(search, [replace(job, max_new_tokens=1) for job in jobs])
        used.append(search.counts.layers)
    assert used == sorted(used)
    assert used[0] < used[-1]


def test_states_are_copied_to_the_layers_that_are_left_out(
    model: Whisper, encoder_states: Tensor
) -> None:
    """A row's caches above the layer it left at are made of the state it left with."""
    decoder = model.decoder
    token_ids = torch.arange(20, 25)
    with torch.inference_mode():
        cross = decoder.cross_cache(encoder_states)
        cache = decoder.self_cache(5, 8)
        logits, n_layers = exit_early(
            decoder, token_ids, cross, cache, confidence=SOMETIMES, n_keys=1
        )
        assert len(set(n_layers.tolist())) > 1
        for row, n_used in enumerate(n_layers.tolist()):
            alone = decoder.self_cache(1, 8)
            step = decoder.begin(token_ids[row : row + 1, None], alone)
            own = cross.select(torch.tensor([row]))
            states = step.states
            for number, layer in enumerate(decoder.layers):
                normed = layer.self_attn_layer_norm(states)
                keys, values = layer.self_attn.keys_values(normed)
                torch.testing.assert_close(cache.keys[number][row, :, :1], keys[0])
                torch.testing.assert_close(cache.values[number][row, :, :1], values[0])
                if number < n_used:
                    states = decoder.run_layer(number, states, step, own, alone)
            wanted = decoder.project(decoder.layer_norm(states[:, 0]))[0]
            torch.testing.assert_close(logits[row], wanted)
            surest = wanted.float().softmax(dim=-1).amax()
            assert n_used == N_LAYERS or surest >= SOMETIMES


@pytest.mark.parametrize("confidence", [0.0, -0.5, 1.5, float("nan")])
def test_a_confidence_that_is_no_probability_is_refused(
    model: Whisper, encoder_states: Tensor, confidence: float
) -> None:
    with torch.inference_mode():
        cross = model.decoder.cross_cache(encoder_states[:1])
        cache = model.decoder.self_cache(1, 8)
        with pytest.raises(ValueError, match=r"exit_confidence must lie in \(0, 1\]"):
            exit_early(
                model.decoder, torch.tensor([20]), cross, cache, confidence=confidence, n_keys=1
            )
