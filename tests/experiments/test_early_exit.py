from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from experiments.early_exit import EarlyExitDecoder
from torch import Tensor

from distilwhisper.decoding.search import Search
from distilwhisper.decoding.slots import Hypothesis, Job, SpecialTokens
from distilwhisper.model.checkpoint import Checkpoint, load_checkpoint
from distilwhisper.model.whisper import Whisper
from distilwhisper.text.tokens import Tokenizer
from searching import decode, make_rules, rows_of

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


def leaving_early(model: Whisper, confidence: float) -> tuple[Whisper, EarlyExitDecoder]:
    """Return a model with the same weights that leaves early, and its decoder."""
    early = Whisper(model.config)
    decoder = EarlyExitDecoder(model.decoder, confidence)
    early.encoder, early.decoder = model.encoder, decoder
    return early, decoder


def make_search(model: Whisper, tokenizer: Tokenizer, *, n_slots: int) -> Search:
    special = SpecialTokens(tokenizer.sot, tokenizer.eot, tokenizer.no_speech)
    return Search(model, make_rules(tokenizer), special, n_slots=n_slots)


@pytest.fixture(scope="module")
def jobs(model: Whisper, tokenizer: Tokenizer, encoder_states: Tensor) -> list[Job]:
    prompt = tuple(tokenizer.prompt_ids(language=None, timestamps=True))
    return [
        Job(ticket, states, prompt, 8 + 3 * ticket) for ticket, states in enumerate(encoder_states)
    ]


def test_full_confidence_is_plain_decoding(
    model: Whisper, tokenizer: Tokenizer, encoder_states: Tensor, tiny_model: Path
) -> None:
    """Of a model that is never quite sure; one that is would be free to leave."""
    unsure = load_checkpoint(tiny_model, dtype=torch.float64).model
    prompt = tuple(tokenizer.prompt_ids(language=None, timestamps=True))
    jobs = [Job(ticket, states, prompt, 12) for ticket, states in enumerate(encoder_states)]
    wanted = decode(make_search(unsure, tokenizer, n_slots=3), jobs)
    early, decoder = leaving_early(unsure, 1.0)
    assert decode(make_search(early, tokenizer, n_slots=3), jobs) == wanted
    assert decoder.n_layers == N_LAYERS * decoder.n_tokens


def test_little_confidence_is_one_layer(
    model: Whisper, tokenizer: Tokenizer, jobs: list[Job]
) -> None:
    early, decoder_ = leaving_early(model, 1e-9)
    search = make_search(early, tokenizer, n_slots=3)
    found = decode(search, jobs)
    assert decoder_.n_layers == decoder_.n_tokens >= search.counts.tokens
    # The prompt is read by all layers, so that only the first token can be told from a full pass.
    for job in jobs:
        with torch.inference_mode():
            decoder = model.decoder
            step = decoder.begin(torch.tensor([job.prompt]))
            cross = decoder.cross_cache(job.states[None])
            states = decoder.run_layer(0, step.states, step, partial(cross.attend, 0))
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
        early, decoder = leaving_early(model, SOMETIMES)
        alone |= decode(make_search(early, tokenizer, n_slots=1), [job])
        layers += decoder.n_layers
    for n_slots in (2, 5):
        early, decoder = leaving_early(model, SOMETIMES)
        search = make_search(early, tokenizer, n_slots=n_slots)
        for ticket, hypothesis in decode(search, jobs).items():
            assert hypothesis.token_ids == alone[ticket].token_ids
            # Scores are kept in float32.
            wanted = alone[ticket].avg_logprob
            assert hypothesis.avg_logprob == pytest.approx(wanted, rel=1e-6, abs=1e-6)
        assert decoder.n_layers == layers
    assert decoder.n_tokens < layers < N_LAYERS * decoder.n_tokens  # it proves something


def test_the_more_confidence_is_asked_for_the_more_layers_are_used(
    model: Whisper, tokenizer: Tokenizer, jobs: list[Job]
) -> None:
    """For one token, that is: after it the texts go apart."""
    used = []
    for confidence in (0.05, 0.3, 0.6, 0.9, 0.99, 1.0):
        early, decoder = leaving_early(model, confidence)
        search = make_search(early, tokenizer, n_slots=5)
        decode(search, [replace(job, max_new_tokens=1) for job in jobs])
        used.append(decoder.n_layers)
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
        early = EarlyExitDecoder(decoder, SOMETIMES)
        final = early(token_ids[:, None], cross, cache, n_keys=1)[:, 0]
        used = []
        for row in range(5):
            alone = decoder.self_cache(1, 8)
            own = rows_of(cross, torch.tensor([row]))
            single = EarlyExitDecoder(decoder, SOMETIMES)
            single(token_ids[row : row + 1, None], own, decoder.self_cache(1, 8), n_keys=1)
            used.append(single.n_layers)
            step = decoder.begin(token_ids[row : row + 1, None], alone)
            states = step.states
            for number, layer in enumerate(decoder.layers):
                normed = layer.self_attn_layer_norm(states)
                keys, values = layer.self_attn.keys_values(normed)
                torch.testing.assert_close(cache.states[0, number, row, :, :1], keys[0])
                torch.testing.assert_close(cache.states[1, number, row, :, :1], values[0])
                if number < single.n_layers:
                    states = decoder.run_layer(
                        number, states, step, partial(own.attend, number), alone
                    )
            wanted = decoder.layer_norm(states[:, 0])[0]
            torch.testing.assert_close(final[row], wanted)
            surest = decoder.project(wanted).float().softmax(dim=-1).amax()
            assert single.n_layers == N_LAYERS or surest >= SOMETIMES
    assert len(set(used)) > 1
    assert early.n_layers == sum(used)
    assert early.n_tokens == 5


@pytest.mark.parametrize("confidence", [0.0, -0.5, 1.5, float("nan")])
def test_a_confidence_that_is_no_probability_is_refused(model: Whisper, confidence: float) -> None:
    with pytest.raises(ValueError, match=r"exit_confidence must lie in \(0, 1\]"):
        EarlyExitDecoder(model.decoder, confidence)
