"""A draft never changes what is said, whether it is always, never or sometimes right."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distilwhisper.decoding.rules import DecodingRules
from distilwhisper.decoding.search import Search
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.slots import Counts, Hypothesis, Job, SpecialTokens
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.model.checkpoint import Checkpoint, load_checkpoint
from distilwhisper.model.hardware import Hardware
from distilwhisper.model.packed import cpu_packs_bfloat16
from distilwhisper.model.whisper import Whisper
from distilwhisper.speech.audio import Samples
from distilwhisper.stages.layers import StudentSettings
from distilwhisper.stages.student import build_student, make_student
from distilwhisper.text.tokens import Tokenizer
from searching import decode, make_rules
from tiny_model import write_tiny_model

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
def model(checkpoint: Checkpoint) -> Whisper:
    return checkpoint.model


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return Tokenizer.from_folder(tiny_model)


@pytest.fixture(scope="module")
def drafts(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Whisper]:
    """Drafts of every kind, by name."""
    model = checkpoint.model
    generator = torch.Generator().manual_seed(5)
    noisy = copy.deepcopy(model)
    for parameter in noisy.decoder.parameters():
        noise = torch.randn(parameter.shape, dtype=parameter.dtype, generator=generator)
        parameter.data += 0.01 * noise
    contrary = copy.deepcopy(model)  # finds likeliest what the model finds least likely
    contrary.decoder.layer_norm.weight.data.neg_()
    contrary.decoder.layer_norm.bias.data.neg_()
    folder = write_tiny_model(tmp_path_factory.mktemp("models") / "other", seed=9)
    return {
        "same": model,
        "noisy": noisy,
        "student": build_student(checkpoint, StudentSettings(decoder_layers=2)).model,
        "other": load_checkpoint(folder, dtype=torch.float64).model,
        "contrary": contrary,
    }


NAMES = ("same", "noisy", "student", "other", "contrary")


@pytest.fixture(scope="module")
def encoder_states(model: Whisper) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    mel = torch.randn(6, 80, 600, dtype=torch.float64, generator=generator)
    with torch.inference_mode():
        return model.encoder(mel) * torch.linspace(0.2, 3, 6)[:, None, None]


def make_search(
    model: Whisper,
    tokenizer: Tokenizer,
    rules: DecodingRules,
    *,
    n_slots: int,
    draft: Whisper | None = None,
    draft_tokens: int = 5,
) -> Search:
    special = SpecialTokens(tokenizer.sot, tokenizer.eot, tokenizer.no_speech)
    return Search(model, rules, special, n_slots=n_slots, draft=draft, draft_tokens=draft_tokens)


def make_jobs(
    model: Whisper,
    draft: Whisper | None,
    encoder_states: Iterable[Tensor],
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int = 24,
) -> list[Job]:
    """One job for each window and prompt; the draft hears what the model hears."""
    return [
        Job(
            ticket,
            states,
            tuple(prompt),
            max_new_tokens,
            draft_states=None if draft is None else states,
        )
        for ticket, (states, prompt) in enumerate(zip(encoder_states, prompts, strict=True))
    ]


def assert_same(found: dict[int, Hypothesis], wanted: dict[int, Hypothesis]) -> None:
    assert found.keys() == wanted.keys()
    for ticket, hypothesis in found.items():
        other = wanted[ticket]
        assert (hypothesis.token_ids, hypothesis.finished) == (other.token_ids, other.finished)
        # Scores are kept in float32.
        assert hypothesis.avg_logprob == pytest.approx(other.avg_logprob, abs=1e-6)
        assert hypothesis.no_speech_prob == pytest.approx(other.no_speech_prob, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("timestamps", [True, False])
@pytest.mark.parametrize("draft_tokens", [1, 3, 7])
def test_the_text_is_the_models_whatever_the_draft(
    model: Whisper,
    drafts: dict[str, Whisper],
    tokenizer: Tokenizer,
    encoder_states: Tensor,
    draft_tokens: int,
    timestamps: bool,
) -> None:
    """Six windows in four slots, so that rows are accepted apart, leave, move and come in."""
    limits = (24, 5, 13, 24, 9, 18)
    rules = make_rules(tokenizer, timestamps=timestamps)
    prompts = [tokenizer.prompt_ids(language=None, timestamps=timestamps)] * 6
    plain = [
        replace(job, max_new_tokens=limit)
        for job, limit in zip(make_jobs(model, None, encoder_states, prompts), limits, strict=True)
    ]
    wanted = decode(make_search(model, tokenizer, rules, n_slots=6), plain)
    lengths = {len(hypothesis.token_ids) for hypothesis in wanted.values()}
    assert len(lengths) > 1
    for name in NAMES:
        search = make_search(
            model, tokenizer, rules, n_slots=4, draft=drafts[name], draft_tokens=draft_tokens
        )
        jobs = [
            replace(job, max_new_tokens=limit)
            for job, limit in zip(
                make_jobs(model, drafts[name], encoder_states, prompts), limits, strict=True
            )
        ]
        assert_same(decode(search, jobs), wanted)
        n_said = sum(len(h.token_ids) + h.finished for h in wanted.values())
        assert search.counts.tokens == n_said
        assert 0 <= search.counts.accepted <= search.counts.drafted
        # A row says at least one token a step.
        assert 1 <= search.counts.tokens_per_step <= 1 + draft_tokens


@pytest.mark.slow
@settings(max_examples=5)
@given(data=st.data())
def test_slots_order_and_prompts_change_nothing(
    model: Whisper,
    drafts: dict[str, Whisper],
    tokenizer: Tokenizer,
    encoder_states: Tensor,
    data: st.DataObject,
) -> None:
    rules = make_rules(tokenizer, timestamps=True)
    plain = tokenizer.prompt_ids(language=None, timestamps=True)
    previous = st.integers(0, 12).map(lambda n: [tokenizer.sot_prev, *[11] * n] if n else [])
    prompts = [[*data.draw(previous), *plain] for _ in range(6)]
    draft = drafts[data.draw(st.sampled_from(NAMES))]
    jobs = make_jobs(model, draft, encoder_states, prompts, max_new_tokens=10)
    alone = [replace(job, draft_states=None) for job in jobs]
    wanted = decode(make_search(model, tokenizer, rules, n_slots=1), alone)
    search = make_search(
        model,
        tokenizer,
        rules,
        n_slots=data.draw(st.integers(1, 6)),
        draft=draft,
        draft_tokens=data.draw(st.integers(1, 7)),
    )
    order = data.draw(st.permutations(jobs))
    assert_same(decode(search, order, at_a_time=data.draw(st.integers(1, 3))), wanted)


def endless(
    model: Whisper, tokenizer: Tokenizer, draft: Whisper, states: Tensor, *, n_new: int, k: int
) -> Counts:
    """What one window costs that never ends by itself."""
    rules = make_rules(tokenizer, timestamps=False, suppress=[7, tokenizer.eot])
    search = make_search(model, tokenizer, rules, n_slots=1, draft=draft, draft_tokens=k)
    prompt = tokenizer.prompt_ids(language=None, timestamps=False)
    [job] = make_jobs(model, draft, states[:1], [prompt], max_new_tokens=n_new)
    plain = make_search(model, tokenizer, rules, n_slots=1)
    wanted = decode(plain, [replace(job, draft_states=None)])
    assert_same(decode(search, [job]), wanted)
    return search.counts


def test_a_draft_that_is_the_model_is_always_right(
    model: Whisper, tokenizer: Tokenizer, encoder_states: Tensor
) -> None:
    counts = endless(model, tokenizer, model, encoder_states, n_new=25, k=3)
    # The pass over the prompt writes one token, each round four.
    assert counts == Counts(steps=7, row_steps=7, tokens=25, drafted=18, accepted=18)
    assert (counts.acceptance, counts.tokens_per_step) == (1.0, 25 / 7)


def test_a_draft_that_is_never_right_costs_a_step_for_every_token(
    model: Whisper, drafts: dict[str, Whisper], tokenizer: Tokenizer, encoder_states: Tensor
) -> None:
    counts = endless(model, tokenizer, drafts["contrary"], encoder_states, n_new=24, k=3)
    assert counts == Counts(steps=24, row_steps=24, tokens=24, drafted=69, accepted=0)


def test_the_better_the_draft_the_fewer_the_steps(
    model: Whisper, drafts: dict[str, Whisper], tokenizer: Tokenizer, encoder_states: Tensor
) -> None:
    noisy = endless(model, tokenizer, drafts["noisy"], encoder_states, n_new=24, k=3)
    assert 0 < noisy.acceptance < 1  # sometimes right, sometimes not
    assert 6 < noisy.steps < 24
    # Each step says what was accepted, and one more; the limit may cut the last step short.
    assert 0 <= noisy.accepted + noisy.steps - noisy.tokens <= 3


@pytest.mark.parametrize("max_new_tokens", [1, 2, 4, 5])
def test_a_limit_cuts_off_in_the_midst_of_what_was_drafted(
    model: Whisper,
    drafts: dict[str, Whisper],
    tokenizer: Tokenizer,
    encoder_states: Tensor,
    max_new_tokens: int,
) -> None:
    rules = make_rules(tokenizer, timestamps=True)
    prompts = [tokenizer.prompt_ids(language=None, timestamps=True)] * 3
    for name in ("same", "noisy"):
        jobs = make_jobs(
            model, drafts[name], encoder_states[:3], prompts, max_new_tokens=max_new_tokens
        )
        alone = [replace(job, draft_states=None) for job in jobs]
        wanted = decode(make_search(model, tokenizer, rules, n_slots=3), alone)
        search = make_search(model, tokenizer, rules, n_slots=3, draft=drafts[name], draft_tokens=7)
        assert_same(decode(search, jobs), wanted)
        assert all(len(h.token_ids) <= max_new_tokens for h in wanted.values())


@pytest.mark.parametrize("n_slots", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_all_positions_can_be_filled(
    model: Whisper,
    drafts: dict[str, Whisper],
    tokenizer: Tokenizer,
    encoder_states: Tensor,
    name: str,
    n_slots: int,
) -> None:
    """One of three windows is near the last of 448 positions, the others are not."""
    rules = make_rules(tokenizer, timestamps=False, suppress=[7, tokenizer.eot])
    prompts = [[tokenizer.sot_prev, *[5] * n, tokenizer.sot] for n in (434, 430, 2)]
    jobs = make_jobs(model, drafts[name], encoder_states[:3, :20], prompts, max_new_tokens=12)
    alone = [replace(job, draft_states=None) for job in jobs]
    wanted = decode(make_search(model, tokenizer, rules, n_slots=1), alone)
    search = make_search(
        model, tokenizer, rules, n_slots=n_slots, draft=drafts[name], draft_tokens=7
    )
    assert_same(decode(search, jobs), wanted)
    assert len(wanted[0].token_ids) == 12


def test_a_window_may_come_in_while_another_is_near_the_last_position(
    model: Whisper, drafts: dict[str, Whisper], tokenizer: Tokenizer, encoder_states: Tensor
) -> None:
    rules = make_rules(tokenizer, timestamps=False, suppress=[7, tokenizer.eot])
    prompts = [[tokenizer.sot_prev, *[5] * n, tokenizer.sot] for n in (434, 300)]
    jobs = make_jobs(model, drafts["contrary"], encoder_states[:2, :20], prompts, max_new_tokens=12)
    alone = [replace(job, draft_states=None) for job in jobs]
    wanted = decode(make_search(model, tokenizer, rules, n_slots=1), alone)
    search = make_search(
        model, tokenizer, rules, n_slots=2, draft=drafts["contrary"], draft_tokens=3
    )
    search.admit(jobs[:1])
    found = dict(pair for _ in range(4) for pair in search.step())
    found |= decode(search, jobs[1:])
    assert_same(found, wanted)


def test_what_was_sampled_beside_a_draft_is_what_is_sampled_without_one(
    model: Whisper, drafts: dict[str, Whisper], tokenizer: Tokenizer, encoder_states: Tensor
) -> None:
    """Drafts rest while any window is sampled, and then read what was said without them."""
    rules = make_rules(tokenizer, timestamps=True)
    prompts = [tokenizer.prompt_ids(language=None, timestamps=True)] * 4
    jobs = make_jobs(model, drafts["noisy"], encoder_states[:4], prompts)
    jobs[1] = replace(jobs[1], temperature=0.9, seed=3, max_new_tokens=5)
    alone = [replace(job, draft_states=None) for job in jobs]
    wanted = decode(make_search(model, tokenizer, rules, n_slots=1), alone)
    search = make_search(model, tokenizer, rules, n_slots=4, draft=drafts["noisy"])
    assert_same(decode(search, jobs), wanted)
    assert search.counts.drafted


def test_what_cannot_be_is_refused(
    model: Whisper, tokenizer: Tokenizer, encoder_states: Tensor
) -> None:
    rules = make_rules(tokenizer, timestamps=False)
    search = make_search(model, tokenizer, rules, n_slots=1, draft=model)
    prompt = tokenizer.prompt_ids(language=None, timestamps=False)
    with pytest.raises(ValueError, match="exactly where there is a draft"):
        search.admit(make_jobs(model, None, encoder_states[:1], [prompt]))


# Real weights


@pytest.mark.slow
@pytest.mark.parametrize("timestamps", [True, False])
@pytest.mark.parametrize(
    "dtype",
    [
        "float32",
        pytest.param(
            "bfloat16",
            marks=pytest.mark.skipif(
                not cpu_packs_bfloat16(),
                reason="only packed products are the same to the bit in any company",
            ),
        ),
    ],
)
def test_real_speech_is_heard_alike_with_a_draft(
    tiny_en: Path,
    prompts: list[tuple[Samples, str]],
    dtype: Literal["float32", "bfloat16"],
    timestamps: bool,
    tmp_path: Path,
) -> None:
    """A student of two layers, untrained, is sometimes right."""
    pieces = [samples for samples, _ in prompts[:4]]
    make_student(str(tiny_en), tmp_path / "student", StudentSettings(decoder_layers=2))
    hardware = Hardware(device="cpu", dtype=dtype)
    settings = DecodingSettings(timestamps=timestamps, temperature=(0.0,), batch_size=1)
    wanted = Transcriber.from_model(str(tiny_en), settings, hardware).decode(pieces)
    for batch_size in (1, 4):
        transcriber = Transcriber.from_model(
            str(tiny_en),
            replace(settings, batch_size=batch_size),
            hardware,
            draft=str(tmp_path / "student"),
        )
        found = transcriber.decode(pieces)
        assert [w.token_ids for w in found] == [w.token_ids for w in wanted]
        assert 0 < transcriber.counts.acceptance < 1
