from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from distilwhisper.decoding.rules import DecodingRules, TimestampRules
from distilwhisper.decoding.search import (
    Hypothesis,
    NonFiniteOutput,
    greedy,
    language_probabilities,
)
from distilwhisper.model.checkpoint import Checkpoint, load_checkpoint
from distilwhisper.text.tokens import Tokenizer

LIKES_TO_END = 0.35


@pytest.fixture(scope="module")
def checkpoint(tiny_model: Path) -> Checkpoint:
    """A random model that likes to end: its end token is louder than the rest."""
    checkpoint = load_checkpoint(tiny_model, dtype=torch.float64)
    decoder = checkpoint.model.decoder
    loud = decoder.embed_tokens.weight.data[Tokenizer.from_folder(tiny_model).eot]
    decoder.layer_norm.bias.data += LIKES_TO_END * loud
    return checkpoint


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return Tokenizer.from_folder(tiny_model)


@pytest.fixture(scope="module")
def encoder_states(checkpoint: Checkpoint) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    mel = torch.randn(6, 80, 3000, dtype=torch.float64, generator=generator)
    with torch.inference_mode():
        return checkpoint.model.encoder(mel) * torch.linspace(0.2, 3, 6)[:, None, None]


def search(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    encoder_states: Tensor,
    prompts: list[list[int]] | None = None,
    *,
    timestamps: bool = True,
    max_new_tokens: int = 40,
) -> list[Hypothesis]:
    grammar = TimestampRules(
        begin=tokenizer.timestamp_begin, no_timestamps=tokenizer.no_timestamps, eot=tokenizer.eot
    )
    rules = DecodingRules(
        suppress=[7],
        begin_suppress=[tokenizer.eot],
        timestamps=grammar if timestamps else None,
    )
    prompt = tokenizer.prompt_ids(language=None, timestamps=timestamps)
    return greedy(
        checkpoint.model,
        encoder_states,
        prompts or [prompt] * len(encoder_states),
        rules,
        sot=tokenizer.sot,
        eot=tokenizer.eot,
        no_speech=tokenizer.no_speech,
        max_new_tokens=max_new_tokens,
    )


@pytest.fixture(scope="module")
def found(checkpoint: Checkpoint, tokenizer: Tokenizer, encoder_states: Tensor) -> list[Hypothesis]:
    return search(checkpoint, tokenizer, encoder_states)


def test_the_rows_of_the_fixture_end_at_different_steps(found: list[Hypothesis]) -> None:
    """Otherwise the tests below would prove little."""
    assert len({len(hypothesis.token_ids) for hypothesis in found}) > 2
    assert any(hypothesis.finished for hypothesis in found)


def test_cached_search_equals_choosing_from_the_full_pass(
    checkpoint: Checkpoint, tokenizer: Tokenizer, encoder_states: Tensor
) -> None:
    """Without rules but the suppressed ids, each token is the best of an uncached pass."""
    states = encoder_states[:2]
    found = search(checkpoint, tokenizer, states, timestamps=False, max_new_tokens=12)
    model = checkpoint.model
    for row, hypothesis in enumerate(found):
        ids = tokenizer.prompt_ids(language=None, timestamps=False)
        total = 0.0
        for step, token in enumerate([*hypothesis.token_ids, tokenizer.eot][:12]):
            with torch.no_grad():
                cross = model.decoder.cross_cache(states[row : row + 1].clone())
                logits = model.decoder.project(model.decoder(torch.tensor([ids]), cross)[0, -1])
            logits[7] = -torch.inf
            if step == 0:
                logits[tokenizer.eot] = -torch.inf
            assert logits.argmax() == token
            total += logits.float().log_softmax(-1)[token].item()
            ids.append(token)
        n_scored = len(hypothesis.token_ids) + hypothesis.finished
        assert hypothesis.avg_logprob == pytest.approx(total / n_scored, abs=1e-5)


def test_a_batch_equals_its_rows_alone(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    encoder_states: Tensor,
    found: list[Hypothesis],
) -> None:
    for row, hypothesis in enumerate(found):
        [alone] = search(checkpoint, tokenizer, encoder_states[row : row + 1])
        assert alone.token_ids == hypothesis.token_ids
        assert alone.avg_logprob == pytest.approx(hypothesis.avg_logprob, abs=1e-6)
        assert alone.no_speech_prob == pytest.approx(hypothesis.no_speech_prob, abs=1e-6)


def test_prompts_of_different_lengths_equal_rows_alone(
    checkpoint: Checkpoint, tokenizer: Tokenizer, encoder_states: Tensor
) -> None:
    plain = tokenizer.prompt_ids(language=None, timestamps=True)
    prompts = [plain, [*tokenizer.previous_text_ids(" the end"), *plain], plain]
    together = search(checkpoint, tokenizer, encoder_states[:3], prompts)
    for row, prompt in enumerate(prompts):
        [alone] = search(checkpoint, tokenizer, encoder_states[row : row + 1], [prompt])
        assert alone.token_ids == together[row].token_ids
        assert alone.no_speech_prob == pytest.approx(together[row].no_speech_prob, abs=1e-6)


def test_a_row_that_does_not_end_is_cut_off(
    checkpoint: Checkpoint, tokenizer: Tokenizer, encoder_states: Tensor
) -> None:
    found = search(checkpoint, tokenizer, encoder_states, max_new_tokens=3)
    cut = [hypothesis for hypothesis in found if not hypothesis.finished]
    assert cut
    assert all(len(hypothesis.token_ids) == 3 for hypothesis in cut)


def test_more_tokens_than_positions_are_refused(
    checkpoint: Checkpoint, tokenizer: Tokenizer, encoder_states: Tensor
) -> None:
    with pytest.raises(ValueError, match=r"448 positions, found 1 \+ 448"):
        search(checkpoint, tokenizer, encoder_states, max_new_tokens=448)


def test_broken_weights_are_named_not_decoded(
    checkpoint: Checkpoint, tokenizer: Tokenizer, encoder_states: Tensor, tiny_model: Path
) -> None:
    broken = load_checkpoint(tiny_model, dtype=torch.float64)
    broken.model.decoder.layer_norm.weight.data[0] = torch.nan
    with pytest.raises(NonFiniteOutput, match=r"rows \[0, 1\] of the batch"):
        search(replace(broken), tokenizer, encoder_states[:2])


def test_language_probabilities_share_one(tiny_multilingual_model: Path) -> None:
    checkpoint = load_checkpoint(tiny_multilingual_model)
    tokenizer = Tokenizer.from_folder(tiny_multilingual_model)
    found = language_probabilities(
        checkpoint.model,
        torch.randn(2, 1500, 32),
        sot=tokenizer.sot,
        language_ids=list(tokenizer.languages.values()),
    )
    assert found.shape == (2, 3)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2))
