import gc
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distilwhisper.decoding.rules import DecodingRules
from distilwhisper.decoding.search import TOKENS_PER_JUDGEMENT, NonFiniteOutput, Search
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.slots import TOKENS_PER_BLOCK, Counts, Hypothesis, Job, SpecialTokens
from distilwhisper.decoding.windows import Window, WindowDecoder
from distilwhisper.model.checkpoint import Checkpoint, load_checkpoint
from distilwhisper.model.silence import KeptFrames
from distilwhisper.text.tokens import Tokenizer
from searching import decode, make_rules

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


def make_search(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    *,
    n_slots: int,
    rules: DecodingRules | None = None,
) -> Search:
    special = SpecialTokens(tokenizer.sot, tokenizer.eot, tokenizer.no_speech)
    return Search(checkpoint.model, rules or make_rules(tokenizer), special, n_slots=n_slots)


def make_jobs(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    encoder_states: Iterable[Tensor],
    prompts: Sequence[Sequence[int]] | None = None,
    *,
    timestamps: bool = True,
    max_new_tokens: int = 40,
) -> list[Job]:
    """One job for each window's states, however many frames it has; tickets count from 0."""
    prompt = tokenizer.prompt_ids(language=None, timestamps=timestamps)
    return [
        Job(ticket, states, tuple(prompts[ticket] if prompts else prompt), max_new_tokens)
        for ticket, states in enumerate(encoder_states)
    ]


def assert_same(found: Hypothesis, wanted: Hypothesis) -> None:
    assert (found.token_ids, found.finished) == (wanted.token_ids, wanted.finished)
    # Scores are kept in float32.
    assert found.avg_logprob == pytest.approx(wanted.avg_logprob, abs=1e-6)
    assert found.no_speech_prob == pytest.approx(wanted.no_speech_prob, abs=1e-6)


@pytest.fixture(scope="module")
def jobs(checkpoint: Checkpoint, tokenizer: Tokenizer, encoder_states: Tensor) -> list[Job]:
    return make_jobs(checkpoint, tokenizer, encoder_states)


@pytest.fixture(scope="module")
def alone(checkpoint: Checkpoint, tokenizer: Tokenizer, jobs: list[Job]) -> dict[int, Hypothesis]:
    """What each window says in a search of its own."""
    found: dict[int, Hypothesis] = {}
    for job in jobs:
        found |= decode(make_search(checkpoint, tokenizer, n_slots=1), [job])
    return found


def test_the_windows_of_the_fixture_end_at_different_steps(alone: dict[int, Hypothesis]) -> None:
    """Otherwise the tests below would prove little."""
    assert len({len(hypothesis.token_ids) for hypothesis in alone.values()}) > 2
    assert any(hypothesis.finished for hypothesis in alone.values())
    assert len({hypothesis.token_ids for hypothesis in alone.values()}) > 3


def test_a_window_in_a_slot_is_held_once(
    checkpoint: Checkpoint, tokenizer: Tokenizer, encoder_states: Tensor
) -> None:
    """As keys and values, not as the encoder states they were made from too."""
    jobs = make_jobs(checkpoint, tokenizer, [states.clone() for states in encoder_states[:3]])
    held = [weakref.ref(job.states) for job in jobs]
    search = make_search(checkpoint, tokenizer, n_slots=3)
    search.admit(jobs)
    del jobs
    gc.collect()
    assert len(held) == 3
    assert not [one for one in held if one() is not None]


@pytest.mark.parametrize("for_s", [0.0, 1e6])
def test_a_hopeless_text_is_cut_at_the_same_place_whenever_it_is_looked_at(
    checkpoint: Checkpoint, tokenizer: Tokenizer, encoder_states: Tensor, for_s: float
) -> None:
    rules = make_rules(tokenizer, timestamps=False, suppress=[tokenizer.eot])
    jobs = make_jobs(checkpoint, tokenizer, encoder_states[:3], timestamps=False, max_new_tokens=70)
    wanted = decode(make_search(checkpoint, tokenizer, n_slots=1, rules=rules), jobs)
    judged: list[int] = []

    def hopeless(token_ids: Sequence[int]) -> bool:
        judged.append(len(token_ids))
        return len(token_ids) >= 33

    search = make_search(checkpoint, tokenizer, n_slots=3, rules=rules)
    search.admit([jobs[0], replace(jobs[1], hopeless=hopeless), jobs[2]])
    found: dict[int, Hypothesis] = {}
    while search.n_free < 3:
        found |= search.step(for_s)
    n = 3 * TOKENS_PER_JUDGEMENT
    assert judged == [n // 3, 2 * n // 3, n]
    assert found[1].token_ids == wanted[1].token_ids[:n]
    assert found[1].logprobs == pytest.approx(wanted[1].logprobs[:n], abs=1e-6)
    assert not found[1].finished
    for ticket in (0, 2):
        assert_same(found[ticket], wanted[ticket])


def test_cached_search_equals_choosing_from_the_full_pass(
    checkpoint: Checkpoint, tokenizer: Tokenizer, encoder_states: Tensor
) -> None:
    """Without rules but the suppressed ids, each token is the best of an uncached pass."""
    states = encoder_states[:2]
    jobs = make_jobs(checkpoint, tokenizer, states, timestamps=False, max_new_tokens=12)
    rules = make_rules(tokenizer, timestamps=False)
    found = decode(make_search(checkpoint, tokenizer, n_slots=2, rules=rules), jobs)
    model = checkpoint.model
    for row, hypothesis in found.items():
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


@pytest.mark.slow
@settings(max_examples=12)
@given(data=st.data())
def test_a_window_says_the_same_in_any_company(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    jobs: list[Job],
    alone: dict[int, Hypothesis],
    data: st.DataObject,
) -> None:
    """Any number of slots, any order, however many windows come in before a step."""
    order = data.draw(st.permutations(jobs))
    n_slots, at_a_time = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 3))
    search = make_search(checkpoint, tokenizer, n_slots=n_slots)
    found = decode(search, order, at_a_time=at_a_time)
    assert found.keys() == alone.keys()
    for ticket, hypothesis in found.items():
        assert_same(hypothesis, alone[ticket])
    assert search.n_free == n_slots


def test_a_window_that_comes_in_late_takes_the_slot_of_one_that_left(
    checkpoint: Checkpoint, tokenizer: Tokenizer, jobs: list[Job], alone: dict[int, Hypothesis]
) -> None:
    """The first of three leaves, so that the last moves up, and another comes in behind."""
    short, *others = sorted(jobs, key=lambda job: len(alone[job.ticket].token_ids))
    middle, last, late = others[-3:]
    assert len(alone[short.ticket].token_ids) < len(alone[middle.ticket].token_ids)
    search = make_search(checkpoint, tokenizer, n_slots=3)
    search.admit([short, middle, last])
    found: dict[int, Hypothesis] = {}
    while not found:
        assert search.n_free == 0
        found |= search.step()
    assert found.keys() == {short.ticket}
    assert (search.n_slots, search.n_free) == (3, 1)
    search.step()
    found |= decode(search, [late])
    for job in (short, middle, last, late):
        assert_same(found[job.ticket], alone[job.ticket])


def test_prompts_of_different_lengths_equal_windows_alone(
    checkpoint: Checkpoint, tokenizer: Tokenizer, encoder_states: Tensor
) -> None:
    plain = tokenizer.prompt_ids(language=None, timestamps=True)
    prompts = [
        plain,
        [*tokenizer.previous_ids(tokenizer.encode(" the end")), *plain],
        [*tokenizer.previous_ids(tokenizer.encode(" there in the other thin line")), *plain],
        plain,
    ]
    jobs = make_jobs(checkpoint, tokenizer, encoder_states[:4], prompts, max_new_tokens=20)
    for n_slots in (2, 4):
        together = decode(make_search(checkpoint, tokenizer, n_slots=n_slots), jobs)
        for job in jobs:
            found = decode(make_search(checkpoint, tokenizer, n_slots=1), [job])
            assert_same(together[job.ticket], found[job.ticket])


def test_no_speech_is_judged_at_start_of_transcript_whatever_comes_before_it(
    checkpoint: Checkpoint, tokenizer: Tokenizer, encoder_states: Tensor
) -> None:
    model = checkpoint.model
    prompt = [
        *tokenizer.previous_ids(tokenizer.encode(" the end")),
        *tokenizer.prompt_ids(language=None, timestamps=False),
    ]
    rules = make_rules(tokenizer, timestamps=False)
    jobs = make_jobs(checkpoint, tokenizer, encoder_states[:1], [prompt], max_new_tokens=1)
    found = decode(make_search(checkpoint, tokenizer, n_slots=2, rules=rules), jobs)
    with torch.inference_mode():
        cross = model.decoder.cross_cache(encoder_states[:1])
        ids = torch.tensor([prompt[: prompt.index(tokenizer.sot) + 1]])
        logits = model.decoder.project(model.decoder(ids, cross)[0, -1])
    wanted = logits.softmax(dim=-1)[tokenizer.no_speech].item()
    assert found[0].no_speech_prob == pytest.approx(wanted, rel=1e-5)


def test_windows_of_different_lengths_equal_windows_alone(
    checkpoint: Checkpoint, tokenizer: Tokenizer, encoder_states: Tensor
) -> None:
    """A longer window comes in among shorter ones, and shorter ones follow it in its slot."""
    n_frames = (40, 300, 1500, 7, 300, 90)
    cut = [states[:n] for states, n in zip(encoder_states, n_frames, strict=True)]
    jobs = make_jobs(checkpoint, tokenizer, cut, max_new_tokens=20)
    for ticket, n in enumerate(n_frames):
        if ticket % 2 == 0:  # whose last frame counts as several
            jobs[ticket] = replace(jobs[ticket], kept=KeptFrames(n - 1, 1))
    alone = {
        ticket: hypothesis
        for job in jobs
        for ticket, hypothesis in decode(
            make_search(checkpoint, tokenizer, n_slots=1), [job]
        ).items()
    }
    for n_slots, order in ((2, jobs), (3, jobs[::-1]), (6, jobs)):
        together = decode(make_search(checkpoint, tokenizer, n_slots=n_slots), order)
        for ticket, hypothesis in together.items():
            assert_same(hypothesis, alone[ticket])


def test_a_window_alone_looks_at_no_more_keys_for_longer_texts_before_it(
    checkpoint: Checkpoint, tokenizer: Tokenizer, encoder_states: Tensor
) -> None:
    before = tokenizer.previous_ids(tokenizer.encode(" the end" * TOKENS_PER_BLOCK))
    prompt = [*before, *tokenizer.prompt_ids(language=None, timestamps=False)]
    long = make_jobs(checkpoint, tokenizer, encoder_states[:1], [prompt], max_new_tokens=5)
    short = make_jobs(checkpoint, tokenizer, encoder_states[2:3], max_new_tokens=20)
    search = make_search(checkpoint, tokenizer, n_slots=2)
    decode(search, long)
    assert search._lane.cache.capacity > TOKENS_PER_BLOCK
    (found,) = decode(search, short).values()
    assert search._lane.cache.capacity == TOKENS_PER_BLOCK
    (alone,) = decode(make_search(checkpoint, tokenizer, n_slots=2), short).values()
    assert_same(found, alone)


def heated(jobs: Iterable[Job], temperature: float) -> list[Job]:
    return [
        replace(job, temperature=temperature, seed=100 + job.ticket, max_new_tokens=12)
        for job in jobs
    ]


def test_what_is_sampled_does_not_depend_on_the_company(
    checkpoint: Checkpoint, tokenizer: Tokenizer, jobs: list[Job]
) -> None:
    hot = heated(jobs, 0.8)
    wanted: dict[int, Hypothesis] = {}
    for job in hot:
        wanted |= decode(make_search(checkpoint, tokenizer, n_slots=1), [job])
    for n_slots, order in ((6, hot), (4, hot[::-1]), (2, hot)):
        found = decode(make_search(checkpoint, tokenizer, n_slots=n_slots), order)
        assert {t: h.token_ids for t, h in found.items()} == {
            t: h.token_ids for t, h in wanted.items()
        }
    plain = decode(
        make_search(checkpoint, tokenizer, n_slots=6),
        [replace(job, max_new_tokens=12) for job in jobs],
    )
    assert all(plain[ticket].token_ids != wanted[ticket].token_ids for ticket in plain)


def test_windows_at_temperature_zero_are_not_sampled_beside_those_that_are(
    checkpoint: Checkpoint, tokenizer: Tokenizer, jobs: list[Job], alone: dict[int, Hypothesis]
) -> None:
    mixed = [*jobs[:2], *heated(jobs[2:4], 1.0), *jobs[4:]]
    found = decode(make_search(checkpoint, tokenizer, n_slots=4), mixed)
    for ticket in (0, 1, 4, 5):
        assert_same(found[ticket], alone[ticket])


def test_another_seed_is_another_sample_and_the_same_seed_the_same(
    checkpoint: Checkpoint, tokenizer: Tokenizer, jobs: list[Job]
) -> None:
    [job] = heated(jobs[:1], 1.0)
    seeds = [replace(job, ticket=n, seed=n // 2) for n in range(8)]
    found = decode(make_search(checkpoint, tokenizer, n_slots=3), seeds)
    said = [found[n].token_ids for n in range(8)]
    assert said[::2] == said[1::2]
    assert len(set(said)) == 4


def test_samples_are_as_frequent_as_they_are_likely(
    checkpoint: Checkpoint, tokenizer: Tokenizer, encoder_states: Tensor
) -> None:
    vocab_size = checkpoint.model.config.vocab_size
    ids = [11, 12, 13, 14]
    rules = DecodingRules(
        suppress=[i for i in range(vocab_size) if i not in ids], begin_suppress=[], timestamps=None
    )
    temperature, n_samples = 0.7, 600
    [job] = make_jobs(
        checkpoint, tokenizer, encoder_states[:1, :20], timestamps=False, max_new_tokens=1
    )
    many = [replace(job, ticket=n, seed=n, temperature=temperature) for n in range(n_samples)]
    found = decode(make_search(checkpoint, tokenizer, n_slots=200, rules=rules), many)
    with torch.inference_mode():
        cross = checkpoint.model.decoder.cross_cache(job.states[None])
        states = checkpoint.model.decoder(torch.tensor([job.prompt]), cross)[0, -1]
        logits = checkpoint.model.decoder.project(states)[ids]
    wanted = (logits / temperature).softmax(dim=-1)
    assert wanted.max() - wanted.min() > 0.1
    said = [hypothesis.token_ids[0] for hypothesis in found.values()]
    frequency = torch.tensor([said.count(i) / n_samples for i in ids], dtype=torch.float64)
    # Four standard deviations of a share of one half.
    torch.testing.assert_close(frequency, wanted, rtol=0, atol=4 * 0.5 / n_samples**0.5)
    # The score is that of the model, not of what it was heated to.
    scores = dict(zip(ids, logits.log_softmax(dim=-1).tolist(), strict=True))
    for hypothesis in found.values():
        assert hypothesis.avg_logprob == pytest.approx(scores[hypothesis.token_ids[0]], abs=1e-5)


def test_a_window_that_does_not_end_is_cut_off(
    checkpoint: Checkpoint, tokenizer: Tokenizer, jobs: list[Job], alone: dict[int, Hypothesis]
) -> None:
    limits = {job.ticket: 2 + job.ticket % 3 for job in jobs}
    limited = [replace(job, max_new_tokens=limits[job.ticket]) for job in jobs]
    found = decode(make_search(checkpoint, tokenizer, n_slots=4), limited)
    assert any(not hypothesis.finished for hypothesis in found.values())
    for ticket, hypothesis in found.items():
        whole = alone[ticket].token_ids
        assert hypothesis.token_ids == whole[: limits[ticket]]
        assert hypothesis.finished == (len(whole) < limits[ticket])


def test_all_positions_can_be_filled(
    checkpoint: Checkpoint, tokenizer: Tokenizer, encoder_states: Tensor
) -> None:
    """The last of 448 tokens is said, though there is no place to read it from."""
    prompt = [tokenizer.sot_prev, *[5] * 438, tokenizer.sot]
    silent = DecodingRules(suppress=[tokenizer.eot], begin_suppress=[], timestamps=None)
    states = encoder_states[:2, :20]
    [full] = make_jobs(checkpoint, tokenizer, states[:1], [prompt], max_new_tokens=8)
    [less] = make_jobs(checkpoint, tokenizer, states[:1], [prompt], max_new_tokens=7)
    found = decode(make_search(checkpoint, tokenizer, n_slots=1, rules=silent), [full])[0]
    before = decode(make_search(checkpoint, tokenizer, n_slots=1, rules=silent), [less])[0]
    assert len(found.token_ids) == 8
    assert found.token_ids[:7] == before.token_ids


def test_what_is_cleared_is_forgotten(
    checkpoint: Checkpoint, tokenizer: Tokenizer, jobs: list[Job], alone: dict[int, Hypothesis]
) -> None:
    search = make_search(checkpoint, tokenizer, n_slots=3)
    search.admit([*heated(jobs[:1], 1.0), *jobs[1:3]])
    search.step()
    search.step()
    search.clear()
    assert (search.n_slots, search.n_free) == (3, 3)
    assert search.step() == []
    for ticket, hypothesis in decode(search, jobs).items():
        assert_same(hypothesis, alone[ticket])


def test_what_it_costs_is_counted(
    checkpoint: Checkpoint, tokenizer: Tokenizer, jobs: list[Job], alone: dict[int, Hypothesis]
) -> None:
    said = {ticket: len(h.token_ids) + h.finished for ticket, h in alone.items()}
    search = make_search(checkpoint, tokenizer, n_slots=6)
    assert search.counts == Counts()
    decode(search, jobs)
    total = sum(said.values())
    assert search.counts == Counts(steps=max(said.values()), row_steps=total, tokens=total)
    assert search.counts.tokens_per_step == 1
    single = make_search(checkpoint, tokenizer, n_slots=1)
    decode(single, jobs)
    assert single.counts == Counts(steps=total, row_steps=total, tokens=total)
    both = search.counts + single.counts
    assert (both.steps, both.tokens) == (max(said.values()) + total, 2 * total)


def test_shares_of_nothing_are_zero() -> None:
    nothing = Counts()
    assert (nothing.acceptance, nothing.tokens_per_step) == (0, 0)
    some = Counts(row_steps=10, tokens=25, drafted=30, accepted=15)
    assert (some.acceptance, some.tokens_per_step) == (0.5, 2.5)
    assert some.describe_draft() == "50 % of 30 drafted tokens accepted, 2.5 tokens a step"


def test_jobs_that_cannot_be_are_refused(
    checkpoint: Checkpoint, tokenizer: Tokenizer, jobs: list[Job]
) -> None:
    search = make_search(checkpoint, tokenizer, n_slots=2)
    for job, message in [
        (replace(jobs[0], max_new_tokens=448), r"448 positions, found 1 \+ 448"),
        (replace(jobs[0], prompt=(5, 6)), "must hold start of transcript"),
        (replace(jobs[0], draft_states=jobs[0].states), "exactly where there is a draft"),
    ]:
        with pytest.raises(ValueError, match=message):
            search.admit([jobs[1], job])
        assert search.n_free == search.n_slots  # the good one beside it was not taken either
    search.admit(jobs[:1])
    with pytest.raises(ValueError, match="1 slots are free, found 2 windows"):
        search.admit(jobs[1:3])


def test_broken_weights_are_named_not_decoded(
    tokenizer: Tokenizer, jobs: list[Job], tiny_model: Path
) -> None:
    broken = load_checkpoint(tiny_model, dtype=torch.float64)
    broken.model.decoder.layer_norm.weight.data[0] = torch.nan
    search = make_search(broken, tokenizer, n_slots=2)
    with pytest.raises(NonFiniteOutput, match="must be finite"):
        decode(search, [replace(job, max_new_tokens=3) for job in jobs[:2]])


def test_languages_share_one_and_are_those_of_the_full_pass(tiny_multilingual_model: Path) -> None:
    checkpoint = load_checkpoint(tiny_multilingual_model, dtype=torch.float64)
    model, tokenizer = checkpoint.model, Tokenizer.from_folder(tiny_multilingual_model)
    codes, ids = zip(*tokenizer.languages.items(), strict=True)
    states = 3 * torch.randn(
        2, 1500, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    with torch.inference_mode():
        cross = model.decoder.cross_cache(states)
        logits = model.decoder.project(model.decoder(torch.tensor([[tokenizer.sot]] * 2), cross))
    wanted = logits[:, 0, list(ids)].softmax(dim=-1)
    torch.testing.assert_close(wanted.sum(dim=1), torch.ones(2, dtype=torch.float64))
    decoder = WindowDecoder(checkpoint, tokenizer, DecodingSettings())
    windows = [Window(torch.zeros(80, 3000), 480_000) for _ in states]
    for window, one in zip(windows, states, strict=True):
        window.states[model.encoder] = one
    for window, probabilities in zip(windows, wanted, strict=True):
        found = decoder.detect_language([window])
        assert found.code == codes[int(probabilities.argmax())]
        assert found.probability == pytest.approx(float(probabilities.max()), rel=1e-5)
    both = wanted.log().mean(dim=0).softmax(dim=0)
    assert decoder.detect_language(windows).probability == pytest.approx(
        float(both.max()), rel=1e-5
    )
