import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import Tensor

from distilwhisper.decoding.alignment import (
    Aligner,
    LabelledSpeech,
    _best_heads,
    _JoinedWindow,
    alignment_heads,
    cheapest_path,
    measure_alignment_heads,
    trim_words,
    upper_half_heads,
    with_alignment_heads,
)
from distilwhisper.decoding.segments import TimedWord
from distilwhisper.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from distilwhisper.model.whisper import Whisper, WhisperConfig
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.mel import log_mel, stack_windows
from distilwhisper.stages.layers import StudentSettings
from distilwhisper.stages.student import build_student
from distilwhisper.text.tokens import Tokenizer
from openai_reference import openai_model


@pytest.fixture(scope="module")
def checkpoint(tiny_model: Path) -> Checkpoint:
    return load_checkpoint(tiny_model, dtype=torch.float64)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return Tokenizer.from_folder(tiny_model)


@pytest.fixture(scope="module")
def encoder_states(checkpoint: Checkpoint) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    mel = torch.randn(1, 80, 3000, dtype=torch.float64, generator=generator)
    with torch.inference_mode():
        return checkpoint.model.encoder(mel)[0]


# The path


def plain_path(costs: np.ndarray) -> list[tuple[int, int]]:
    """Dynamic time warping as the textbook has it."""
    n, m = costs.shape
    total = np.full((n + 1, m + 1), np.inf)
    total[0, 0] = 0
    came_from = {}
    for j in range(1, m + 1):
        for i in range(1, n + 1):
            both, token, frame = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
            ways = [(frame, (i, j - 1)), (both, (i - 1, j - 1)), (token, (i - 1, j))]
            least, came_from[i, j] = min(ways, key=lambda way: way[0])  # the first of equals
            total[i, j] = costs[i - 1, j - 1] + least
    at = (n, m)
    path = []
    while at != (0, 0):
        path.append((at[0] - 1, at[1] - 1))
        at = came_from[at]
    return path[::-1]


SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 14))


@given(npst.arrays(np.float64, SHAPES, elements=st.integers(-20, 20)))
def test_the_path_is_that_of_a_plain_loop(costs: np.ndarray) -> None:
    """Whole numbers add up exactly, so that even ties must fall alike."""
    tokens, frames = cheapest_path(costs)
    assert list(zip(tokens.tolist(), frames.tolist(), strict=True)) == plain_path(costs)


@given(npst.arrays(np.float64, SHAPES, elements=st.floats(-10, 10)))
def test_no_path_is_cheaper_and_steps_go_on_by_one(costs: np.ndarray) -> None:
    tokens, frames = cheapest_path(costs)
    best = sum(costs[step] for step in plain_path(costs))
    # Running sums round otherwise than a loop: 23 terms of up to 10, at 1e-16 each.
    assert costs[tokens, frames].sum() == pytest.approx(best, abs=1e-12)
    assert (tokens[0], frames[0]) == (0, 0)
    assert (tokens[-1] + 1, frames[-1] + 1) == costs.shape
    steps = np.stack([np.diff(tokens), np.diff(frames)])
    assert set(steps.flatten()) <= {0, 1}
    assert (steps.sum(axis=0) > 0).all()


# Attention


def attention(
    model: Whisper,
    tokenizer: Tokenizer,
    encoder_states: Tensor,
    ids: list[int],
    *,
    heads: list[tuple[int, int]],
    n_frames: int,
) -> Tensor:
    aligner = Aligner(model, encoder_states, (), tokenizer, heads, n_frames)
    return aligner.attention(ids)[0]


def test_weights_sum_to_one_over_the_sound(
    checkpoint: Checkpoint, tokenizer: Tokenizer, encoder_states: Tensor
) -> None:
    heads = [(3, 1), (0, 0)]
    ids = list(range(9))
    weights = partial(attention, checkpoint.model, tokenizer, encoder_states, ids, heads=heads)
    some = weights(n_frames=40)
    assert some.shape == (2, 9, 40)
    torch.testing.assert_close(some.sum(dim=-1), torch.ones(2, 9, dtype=torch.float64))
    whole = weights(n_frames=1500)
    sounding = whole[..., :40]
    torch.testing.assert_close(some, sounding / sounding.sum(dim=-1, keepdim=True))


def test_heads_come_in_the_order_asked_for(
    checkpoint: Checkpoint, tokenizer: Tokenizer, encoder_states: Tensor
) -> None:
    ids = [5, 6, 7]
    weights = partial(attention, checkpoint.model, tokenizer, encoder_states, ids, n_frames=30)
    both = weights(heads=[(2, 1), (1, 0)])
    assert torch.equal(both[0], weights(heads=[(2, 1)])[0])
    assert torch.equal(both[1], weights(heads=[(1, 0)])[0])
    assert not torch.allclose(both[0], both[1])


@pytest.mark.parametrize("heads", [[(4, 0)], [(0, 2)], [(-1, 0)], [(0, 0), (9, 9)], []])
def test_heads_that_do_not_fit_are_refused(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    encoder_states: Tensor,
    heads: list[tuple[int, int]],
) -> None:
    with pytest.raises(ValueError, match="needs heads of the decoder's 4 layers of 2 heads"):
        attention(checkpoint.model, tokenizer, encoder_states, [1], heads=heads, n_frames=5)
    with pytest.raises(ValueError, match="needs heads of the decoder's 4 layers of 2 heads"):
        align(checkpoint.model, tokenizer, encoder_states, [[1]], heads=heads)
    with pytest.raises(ValueError, match="needs heads of the decoder's 4 layers of 2 heads"):
        with_alignment_heads(checkpoint, heads)


@pytest.mark.parametrize("n_frames", [0, 1501])
def test_frames_beyond_the_window_are_refused(
    checkpoint: Checkpoint, tokenizer: Tokenizer, encoder_states: Tensor, n_frames: int
) -> None:
    model = checkpoint.model
    with pytest.raises(ValueError, match=r"n_frames must lie in 1 \.\.\. 1500"):
        attention(model, tokenizer, encoder_states, [1], heads=[(0, 0)], n_frames=n_frames)


@pytest.mark.parametrize("n_tokens", [0, 449])
def test_sequences_that_do_not_fit_are_refused(
    checkpoint: Checkpoint, tokenizer: Tokenizer, encoder_states: Tensor, n_tokens: int
) -> None:
    ids = [1] * n_tokens
    with pytest.raises(ValueError, match=f"1 to 448 tokens, found {n_tokens}"):
        attention(checkpoint.model, tokenizer, encoder_states, ids, heads=[(0, 0)], n_frames=9)


# Words


def align(
    model: Whisper,
    tokenizer: Tokenizer,
    encoder_states: Tensor,
    words: list[list[int]],
    *,
    heads: list[tuple[int, int]],
    n_frames: int = 300,
    timestamps: bool = False,
) -> list[TimedWord]:
    prompt_ids = tokenizer.prompt_ids(language=None, timestamps=timestamps)
    aligner = Aligner(model, encoder_states, prompt_ids, tokenizer, heads, n_frames)
    return aligner.place([TimedWord(tokenizer.decode(ids), tuple(ids), 9, 9, 0) for ids in words])


CODES = 32  # positions that a planted head can tell apart


def planted_model(vocab_size: int, shifts: list[int], strength: float = 4.0) -> Whisper:
    """A decoder layer whose heads look where the encoder states hold a position's own number.

    A head with a shift of -1 looks for the number of the position before.
    """
    width = CODES * len(shifts)
    config = WhisperConfig(vocab_size, 80, width, 1, 1, 8, 1, len(shifts), 8)
    model = Whisper(config).eval()
    for parameter in model.decoder.parameters():
        parameter.data.zero_()
    layer = model.decoder.layers[0]
    for module in model.decoder.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.weight.data.fill_(1)
    codes = torch.arange(CODES)
    model.decoder.embed_positions.weight.data[codes, codes] = 1
    for head, shift in enumerate(shifts):
        wanted = head * CODES + (codes + shift) % CODES
        layer.encoder_attn.q_proj.weight.data[wanted, codes] = strength
        layer.encoder_attn.k_proj.weight.data[head * CODES + codes, codes] = 1
    return model


def planted_states(model: Whisper, starts: list[int], first: int, n_frames: int) -> Tensor:
    """From frame ``starts[i]`` on, the sound belongs to position ``first + i``."""
    states = torch.zeros(1500, model.config.width)
    for i, (start, stop) in enumerate(itertools.pairwise([*starts, n_frames])):
        states[start:stop, first + i] = 1
    return states


def test_planted_attention_gives_planted_times(tokenizer: Tokenizer) -> None:
    vocab_size = tokenizer.timestamp_begin + 1501
    model = planted_model(vocab_size, [0])
    words = [tokenizer.encode(text) for text in (" the", " a", " other,", " sat", ".")]
    text = [i for word in words for i in word]
    starts = [0, *itertools.accumulate([7, 12, 4, 9, 30, 5, 6, 21, 8, 5, 40, 11][: len(text)])]
    assert len(starts) == len(text) + 1
    n_frames = starts[-1] + 25
    states = planted_states(model, starts, 1, n_frames)
    timed = align(model, tokenizer, states, words, heads=[(0, 0)], n_frames=n_frames)
    times = [start / 50 for start in starts]
    at = 0
    for word, ids in zip(timed, words, strict=True):
        comma = word.text == " other,"
        assert word.text == tokenizer.decode(ids)
        assert (word.start_s, word.end_s) == (times[at], times[at + len(ids) - comma])
        assert word.probability == pytest.approx(1 / tokenizer.eot)  # no token is likelier
        at += len(ids)


def test_words_are_in_order_inside_the_sound(
    checkpoint: Checkpoint, tokenizer: Tokenizer, encoder_states: Tensor
) -> None:
    words = [tokenizer.encode(text) for text in (" the", " in!", " — ", " other", "?", " a") * 8]
    heads = upper_half_heads(checkpoint.model.config)
    for n_frames in (1, 3, 4, 60, 1500):
        timed = align(
            checkpoint.model, tokenizer, encoder_states, words, heads=heads, n_frames=n_frames
        )
        times = [time for word in timed for time in (word.start_s, word.end_s)]
        assert times == sorted(times)
        assert times[0] >= 0
        assert times[-1] <= n_frames / 50
        assert all(0 < word.probability < 1 for word in timed)


def test_bfloat16_finds_probable_words_probable(
    checkpoint: Checkpoint, tokenizer: Tokenizer, encoder_states: Tensor, tiny_model: Path
) -> None:
    words = [tokenizer.encode(text) for text in (" the", " other")]
    exact = align(checkpoint.model, tokenizer, encoder_states, words, heads=[(3, 0)])
    coarse = load_checkpoint(tiny_model, dtype=torch.bfloat16).model
    weights = attention(coarse, tokenizer, encoder_states, [1, 2], heads=[(3, 0)], n_frames=9)
    assert weights.dtype == torch.float32
    rounded = align(coarse, tokenizer, encoder_states, words, heads=[(3, 0)])
    for ours, theirs in zip(rounded, exact, strict=True):
        # Eight bits of mantissa through four layers.
        assert ours.probability == pytest.approx(theirs.probability, rel=0.3)


def test_a_word_is_as_probable_as_its_tokens_are_on_average(
    checkpoint: Checkpoint, tokenizer: Tokenizer, encoder_states: Tensor
) -> None:
    prompt = tokenizer.prompt_ids(language=None, timestamps=False)
    word = tokenizer.encode(" other")
    [timed] = align(checkpoint.model, tokenizer, encoder_states, [word], heads=[(3, 0)])
    decoder = checkpoint.model.decoder
    with torch.inference_mode():
        cross = decoder.cross_cache(encoder_states[None])
        states = decoder(torch.tensor([[*prompt, *word]]), cross)[0, len(prompt) - 1 : -1]
        odds = decoder.project(states)[:, : tokenizer.eot].softmax(dim=-1)
    expected = np.mean([float(row[i]) for row, i in zip(odds, word, strict=True)])
    assert timed.probability == pytest.approx(expected)


def test_no_text_gives_no_words(
    checkpoint: Checkpoint, tokenizer: Tokenizer, encoder_states: Tensor
) -> None:
    assert align(checkpoint.model, tokenizer, encoder_states, [], heads=[(3, 0)]) == []
    assert trim_words([], [(0.0, 1.0)], spoken_s=0.0) == []


def test_a_text_that_fills_every_position_is_aligned(
    checkpoint: Checkpoint, tokenizer: Tokenizer, encoder_states: Tensor
) -> None:
    words = [[1]] * 446  # with the two of the prompt: 448, and no place for an end
    assert len(align(checkpoint.model, tokenizer, encoder_states, words, heads=[(3, 0)])) == 446
    with pytest.raises(ValueError, match="1 to 448 tokens"):
        align(checkpoint.model, tokenizer, encoder_states, [*words, [1]], heads=[(3, 0)])


def test_timestamps_and_empty_words_are_refused(
    checkpoint: Checkpoint, tokenizer: Tokenizer, encoder_states: Tensor
) -> None:
    for word in ([], [1, tokenizer.timestamp_id(1.0)]):
        with pytest.raises(ValueError, match="in word 1: leave timestamps"):
            align(checkpoint.model, tokenizer, encoder_states, [[1], word], heads=[(3, 0)])
    with pytest.raises(ValueError, match="the prompt must end with"):
        align(checkpoint.model, tokenizer, encoder_states, [[1]], heads=[(3, 0)], timestamps=True)


# Pauses


def spoken(*words: tuple[str, float, float], segment: int = 0) -> list[TimedWord]:
    return [TimedWord(text, (), start_s, end_s, segment, 0.5) for text, start_s, end_s in words]


def times(words: list[TimedWord]) -> list[tuple[float, float]]:
    return [(word.start_s, word.end_s) for word in words]


EVEN = [(" a", 10.0, 10.3), (" b", 10.3, 10.6), (" c", 10.6, 10.9), (" d", 10.9, 11.2)]


def test_words_of_usual_length_stay_as_they_are() -> None:
    words = spoken(*EVEN)
    assert trim_words(words, [(10.0, 11.2)], spoken_s=0.0) == words


def test_a_word_gives_the_pause_after_a_sentence_back() -> None:
    words = spoken(*EVEN, (" end.", 11.2, 11.5), (" Then", 11.5, 14.0))
    trimmed = trim_words(words, [(10.0, 14.0)], spoken_s=10.0)
    assert times(trimmed)[-1] == pytest.approx((13.4, 14.0))
    assert trimmed[:-1] == words[:-1]
    comma = spoken(*EVEN, (" end,", 11.2, 11.5), (" then", 11.5, 14.0))
    assert trim_words(comma, [(10.0, 14.0)], spoken_s=10.0) == comma


def test_the_sentence_may_end_with_the_segment_before() -> None:
    words = [*spoken(*EVEN, (" end.", 11.2, 11.5)), *spoken((" Then", 11.5, 12.4), segment=1)]
    trimmed = trim_words(words, [(10.0, 11.5), (11.5, 12.4)], spoken_s=10.0)
    assert times(trimmed)[-1] == pytest.approx((11.8, 12.4))


def test_the_first_word_after_a_pause_is_shortened() -> None:
    words = spoken((" Well", 6.0, 10.0), *EVEN)
    trimmed = trim_words(words, [(6.0, 11.2)], spoken_s=5.0)
    assert times(trimmed)[0] == pytest.approx((9.4, 10.0))
    assert trimmed[1:] == words[1:]
    # Nobody paused before it: then it may be that long.
    assert trim_words(words, [(6.0, 11.2)], spoken_s=9.9) == words


def test_a_segments_own_times_stop_its_first_and_last_word() -> None:
    words = spoken((" Well", 9.0, 10.0), *EVEN, (" so", 11.2, 13.0))
    trimmed = trim_words(words, [(9.6, 11.4)], spoken_s=9.0)
    assert times(trimmed)[0] == pytest.approx((9.6, 10.0))
    assert times(trimmed)[-1] == pytest.approx((11.2, 11.5))  # not shorter than usual
    assert trimmed[1:-1] == words[1:-1]


MOMENTS = st.lists(st.integers(0, 1500), min_size=2, max_size=16).map(sorted)


@given(
    moments=MOMENTS,
    texts=st.lists(st.sampled_from([" a", " b.", " c?"]), min_size=15, max_size=15),
    cut=st.integers(0, 15),
    spans=st.lists(st.tuples(st.floats(0, 30), st.floats(0, 30)), min_size=2, max_size=2),
    spoken_s=st.floats(0, 30),
)
def test_words_only_become_shorter(
    moments: list[int],
    texts: list[str],
    cut: int,
    spans: list[tuple[float, float]],
    spoken_s: float,
) -> None:
    pairs = itertools.pairwise(moments)
    words = [
        TimedWord(text, (), a / 50, b / 50, int(number >= cut), 0.5)
        for number, ((a, b), text) in enumerate(zip(pairs, texts, strict=False))
    ]
    trimmed = trim_words(words, spans, spoken_s=spoken_s)
    for old, new in zip(words, trimmed, strict=True):
        assert old.start_s <= new.start_s <= new.end_s <= old.end_s
        assert replace(new, start_s=old.start_s, end_s=old.end_s) == old


# Heads


def test_a_checkpoints_heads_are_read_where_they_fit(checkpoint: Checkpoint) -> None:
    config = checkpoint.model.config
    assert alignment_heads(checkpoint.generation_config, config) == [(3, 0)]
    for named in ([[3, 0], [4, 0]], [[0, 2]], [[0, -1]], [], None, [[1]], [1, 2], 5):
        assert alignment_heads({"alignment_heads": named}, config) is None
    assert alignment_heads({}, config) is None


def test_without_heads_the_upper_half_serves(checkpoint: Checkpoint) -> None:
    assert upper_half_heads(checkpoint.model.config) == [(2, 0), (2, 1), (3, 0), (3, 1)]
    one_layer = WhisperConfig(10, 80, 4, 1, 2, 8, 1, 2, 8)
    assert upper_half_heads(one_layer) == [(0, 0), (0, 1)]


def test_heads_are_stored_with_the_checkpoint(checkpoint: Checkpoint, tmp_path: Path) -> None:
    before = dict(checkpoint.generation_config)
    named = with_alignment_heads(checkpoint, [(1, 0), (2, 1)])
    assert checkpoint.generation_config == before
    assert named.generation_config == {**before, "alignment_heads": [[1, 0], [2, 1]]}
    save_checkpoint(named, tmp_path / "model")
    loaded = load_checkpoint(tmp_path / "model")
    assert alignment_heads(loaded.generation_config, loaded.model.config) == [(1, 0), (2, 1)]


def test_heads_that_follow_the_written_token_are_chosen_over_sharper_ones(
    tokenizer: Tokenizer,
) -> None:
    """Three heads follow the token that is read: sharp, and one word behind."""
    model = planted_model(tokenizer.timestamp_begin + 1501, [-1, 0, 0, -1, 0, 0, -1])
    layer = model.decoder.layers[0]
    for head in (1, 2, 4, 5):
        rows = slice(head * CODES, (head + 1) * CODES)
        layer.encoder_attn.q_proj.weight.data[rows] *= 0.5
    starts = [0, 20, 40, 55, 75, 90]  # two words, a full stop in the pause, two words, the end
    joins = tuple((token, 40 / 50, 55 / 50) for token in (2, 3))
    states = planted_states(model, starts, 1, 100)
    aligner = Aligner(model, states, (0, 1), tokenizer, (), 100)
    window = _JoinedWindow(aligner, tuple(range(2, 7)), joins)
    assert _best_heads(model.config, [window]) == [(0, 1), (0, 2), (0, 4), (0, 5)]


def test_measuring_needs_two_utterances_in_a_window(
    checkpoint: Checkpoint, tokenizer: Tokenizer
) -> None:
    long = LabelledSpeech(np.zeros(16_000 * 20, dtype=np.float32), (1, 2))
    for utterances in ([], [long], [long, long]):
        with pytest.raises(ValueError, match=f"found {len(utterances)} that do not"):
            measure_alignment_heads(
                checkpoint.model,
                utterances,
                prompt_ids=tokenizer.prompt_ids(language=None, timestamps=False),
                tokenizer=tokenizer,
            )


# Real weights


@pytest.mark.slow
def test_measured_heads_place_words_as_the_published_ones(
    tiny_en: Path, prompts: list[tuple[Samples, str]]
) -> None:
    checkpoint = load_checkpoint(tiny_en)
    tokenizer = Tokenizer.from_folder(tiny_en)
    prompt_ids = tokenizer.prompt_ids(language=None, timestamps=False)
    speech = [LabelledSpeech(s, tuple(tokenizer.encode(f" {text}"))) for s, text in prompts]
    ordered = [*speech, *speech[::-1], *speech[1::2], *speech[::2]]
    measured = measure_alignment_heads(
        checkpoint.model, ordered, prompt_ids=prompt_ids, tokenizer=tokenizer
    )
    published = alignment_heads(checkpoint.generation_config, checkpoint.model.config)
    assert published is not None
    assert len(set(measured) & set(published)) >= 2  # 8 of the 24 heads are published
    apart_s: list[float] = []
    for samples, text in prompts:
        with torch.inference_mode():
            states = checkpoint.model.encoder(log_mel(stack_windows([samples]), n_mels=80))[0]
        words = [tokenizer.encode(f" {word}") for word in text.split()]
        n_frames = len(samples) // 320
        ours, theirs = (
            align(checkpoint.model, tokenizer, states, words, heads=heads, n_frames=n_frames)
            for heads in (measured, published)
        )
        apart_s += [abs(a.start_s - b.start_s) for a, b in zip(ours, theirs, strict=True)]
    assert np.median(apart_s) <= 0.1  # half a short word


@pytest.mark.slow
def test_a_students_heads_are_its_own(tiny_en: Path, prompts: list[tuple[Samples, str]]) -> None:
    teacher = load_checkpoint(tiny_en)
    student = build_student(teacher, StudentSettings())
    config = student.model.config
    assert alignment_heads(teacher.generation_config, config) is None
    tokenizer = Tokenizer.from_folder(tiny_en)
    heads = measure_alignment_heads(
        student.model,
        [LabelledSpeech(s, tuple(tokenizer.encode(f" {text}"))) for s, text in prompts],
        prompt_ids=tokenizer.prompt_ids(language=None, timestamps=False),
        tokenizer=tokenizer,
    )
    named = with_alignment_heads(student, heads)
    assert alignment_heads(named.generation_config, config) == heads


@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed file .*tiktoken:ResourceWarning")
def test_times_equal_openai_whisper(tiny_en: Path, prompts: list[tuple[Samples, str]]) -> None:
    from whisper.timing import find_alignment
    from whisper.tokenizer import get_tokenizer

    checkpoint = load_checkpoint(tiny_en)
    tokenizer = Tokenizer.from_folder(tiny_en)
    heads = alignment_heads(checkpoint.generation_config, checkpoint.model.config)
    assert heads is not None
    reference = openai_model(checkpoint.model)
    mask = torch.zeros(checkpoint.model.config.decoder_layers, reference.dims.n_text_head)
    for head in heads:
        mask[head] = 1
    reference.register_buffer("alignment_heads", mask.bool().to_sparse(), persistent=False)
    theirs = get_tokenizer(multilingual=False)
    n_words, apart = 0, 0
    for samples, text in prompts:
        mel = log_mel(stack_windows([samples]), n_mels=80)
        with torch.inference_mode():
            states = checkpoint.model.encoder(mel)[0]
        ids = tokenizer.encode(f" {text}")
        n_frames = len(samples) // 320
        expected = find_alignment(reference, theirs, ids, mel[0], 2 * n_frames)
        words = [word.tokens for word in expected]
        found = align(
            checkpoint.model, tokenizer, states, words, heads=sorted(heads), n_frames=n_frames
        )
        for word, wanted in zip(found, expected, strict=True):
            n_words += 1
            apart += (word.start_s, word.end_s) != (wanted.start, wanted.end)
            # Their sums of costs are float32: a tie may fall to the frame beside.
            assert word.start_s == pytest.approx(wanted.start, abs=0.0201)
            assert word.end_s == pytest.approx(wanted.end, abs=0.0201)
            assert word.text == wanted.word
            assert word.probability == pytest.approx(wanted.probability, abs=1e-4)
    assert n_words > 80
    assert apart <= n_words / 50
