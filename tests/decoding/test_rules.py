import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distilwhisper.decoding.rules import DecodingRules, TimestampRules

# A small vocabulary in Whisper's order: text, end, specials, timestamps.
N_TEXT, EOT, SOT, NO_TIMESTAMPS, BEGIN, VOCAB = 20, 20, 21, 22, 23, 83
GRAMMAR = TimestampRules(begin=BEGIN, no_timestamps=NO_TIMESTAMPS, eot=EOT, max_initial_index=10)


def make_rules(*, timestamps: bool) -> DecodingRules:
    return DecodingRules(
        suppress=[3, SOT], begin_suppress=[1, EOT], timestamps=GRAMMAR if timestamps else None
    )


def say(rules: DecodingRules, logits: Tensor) -> tuple[list[list[int]], list[Tensor]]:
    """Decode greedily from given logits (steps, batch, vocab): tokens and what was allowed."""
    state = rules.start(logits.shape[1])
    tokens, allowed = [], []
    for step in logits:
        allowed.append(rules(step.clone(), state))
        tokens.append(allowed[-1].argmax(dim=-1))
        state = rules.advance(state, tokens[-1])
    return torch.stack(tokens, dim=1).tolist(), allowed


@pytest.mark.reference
@pytest.mark.parametrize("timestamps", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_allowed_logits_equal_transformers(seed: int, timestamps: bool) -> None:
    from transformers import GenerationConfig
    from transformers.generation.logits_process import (
        SuppressTokensAtBeginLogitsProcessor,
        SuppressTokensLogitsProcessor,
        WhisperTimeStampLogitsProcessor,
    )

    config = GenerationConfig(
        eos_token_id=EOT, no_timestamps_token_id=NO_TIMESTAMPS, max_initial_timestamp_index=10
    )
    processors = [
        SuppressTokensAtBeginLogitsProcessor([1, EOT], begin_index=1),
        SuppressTokensLogitsProcessor([3, SOT]),
    ]
    if timestamps:
        processors.append(WhisperTimeStampLogitsProcessor(config, begin_index=1))
    logits = torch.randn(12, 4, VOCAB, generator=torch.Generator().manual_seed(seed)) * 2
    tokens, allowed = say(make_rules(timestamps=timestamps), logits)
    for step, found in enumerate(allowed):
        ids = torch.tensor([[SOT, *row[:step]] for row in tokens])
        expected = logits[step]
        for processor in processors:
            expected = processor(ids, expected)
        assert torch.equal(found, expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31))
def test_timestamps_come_in_pairs_and_never_run_backwards(seed: int) -> None:
    logits = torch.randn(30, 3, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3
    for row in say(make_rules(timestamps=True), logits)[0]:
        row = row[: row.index(EOT)] if EOT in row else row
        assert BEGIN <= row[0] <= BEGIN + GRAMMAR.max_initial_index
        times = [id_ for id_ in row if id_ >= BEGIN]
        assert times == sorted(times)
        # text, once opened, is closed before the next pair opens: no three in a row
        marks = "".join("t" if id_ >= BEGIN else "." for id_ in row)
        assert "ttt" not in marks
        assert not marks.startswith("tt")
        assert NO_TIMESTAMPS not in row
        assert 3 not in row


def test_a_blank_and_the_end_are_suppressed_only_at_the_beginning() -> None:
    rules = make_rules(timestamps=False)
    logits = torch.zeros(1, VOCAB)
    state = rules.start(1)
    first = rules(logits.clone(), state)
    assert first[0, 1] == first[0, EOT] == -torch.inf
    later = rules(logits, rules.advance(state, torch.tensor([5])))
    assert later[0, 1] == later[0, EOT] == 0


def test_rows_keep_their_state_when_others_leave() -> None:
    rules = make_rules(timestamps=True)
    logits = torch.randn(8, 3, VOCAB, generator=torch.Generator().manual_seed(7)) * 3
    whole, _ = say(rules, logits)
    state = rules.start(3)
    for step in range(4):
        state = rules.advance(state, torch.tensor([row[step] for row in whole]))
    state = state.select(torch.tensor([2, 0]))
    for step in range(4, 8):
        said = rules(logits[step][[2, 0]], state).argmax(dim=-1)
        assert said.tolist() == [whole[2][step], whole[0][step]]
        state = rules.advance(state, said)
