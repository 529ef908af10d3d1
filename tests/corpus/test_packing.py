from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilwhisper.corpus.batches import Example, load_windows
from distilwhisper.corpus.packing import pack_examples
from distilwhisper.corpus.records import Manifest, Utterance
from distilwhisper.speech.audio import load_samples, write_wav
from distilwhisper.text.tokens import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return Tokenizer.from_folder(tiny_model)


def example(
    tokenizer: Tokenizer,
    number: int,
    duration_s: float | None,
    *,
    timestamps: bool = True,
    ends_s: float | None = None,
    **facts: str,
) -> Example:
    """An utterance that says " a", from its beginning to ``ends_s``."""
    said = tokenizer.encode(" a")
    if timestamps:
        end_s = min(ends_s or duration_s or 1.0, 30.0)
        said = [tokenizer.timestamp_id(0.0), *said, tokenizer.timestamp_id(end_s)]
    prompt = tokenizer.prompt_ids(language=None, timestamps=timestamps)
    utterance = Utterance(f"u{number}", f"u{number}.wav", duration_s=duration_s, **facts)
    return Example((utterance,), (0.0,), (*prompt, *said, tokenizer.eot))


def pack(
    examples: list[Example], tokenizer: Tokenizer, *, max_s: float = 30.0, across: bool = True,
    pause_s: float = 0.5, seed: int = 0,
) -> list[Example]:  # fmt: skip
    return pack_examples(
        examples, tokenizer, max_s=max_s, pause_s=pause_s, across_recordings=across, seed=seed
    )


@given(
    lengths=st.lists(st.integers(10, 3000), min_size=1, max_size=60),
    max_s=st.floats(1.0, 30.0),
    pause_s=st.floats(0.0, 2.0),
    seed=st.integers(0, 100),
)
def test_every_utterance_is_in_one_window_that_holds_it(
    tokenizer: Tokenizer, lengths: list[int], max_s: float, pause_s: float, seed: int
) -> None:
    examples = [example(tokenizer, i, n / 100) for i, n in enumerate(lengths)]
    packed = pack(examples, tokenizer, max_s=max_s, pause_s=pause_s, seed=seed)
    ids = [utterance.id for window in packed for utterance in window.utterances]
    assert sorted(ids) == sorted(e.id for e in examples)
    for window in packed:
        ends = [
            start_s + (utterance.duration_s or 0)
            for start_s, utterance in zip(window.starts_s, window.utterances, strict=True)
        ]
        assert len(ends) == 1 or ends[-1] <= max_s
        for end_s, start_s in zip(ends, window.starts_s[1:], strict=False):
            assert pause_s - 1e-6 <= start_s - end_s <= pause_s + 0.02 + 1e-6
        times = [tokenizer.timestamp_s(i) for i in window.token_ids if tokenizer.is_timestamp(i)]
        assert times == sorted(times)
        assert times[::2] == pytest.approx(window.starts_s, abs=1e-6)
        assert window.token_ids[0] == tokenizer.sot
        assert window.token_ids.count(tokenizer.eot) == 1
        assert window.token_ids[-1] == tokenizer.eot


def test_windows_are_of_varied_length(tokenizer: Tokenizer) -> None:
    examples = [example(tokenizer, i, 1.0) for i in range(400)]
    sizes = [len(window.utterances) for window in pack(examples, tokenizer)]
    assert min(sizes) <= 3
    assert max(sizes) >= 17


def test_the_same_seed_packs_the_same_and_another_one_does_not(tokenizer: Tokenizer) -> None:
    examples = [example(tokenizer, i, 1.0) for i in range(40)]
    assert pack(examples, tokenizer) == pack(examples, tokenizer)
    assert pack(examples, tokenizer) != pack(examples, tokenizer, seed=1)


def test_speakers_and_recordings_are_not_mixed_unless_asked(tokenizer: Tokenizer) -> None:
    facts = [
        {"recording": "r1", "speaker": "a"},
        {"recording": "r1", "speaker": "b"},
        {"recording": "r2", "speaker": "b"},
        {"speaker": "c"},
        {"speaker": "d"},
        {},
        {},
    ]
    examples = [example(tokenizer, i, 0.1, **fact) for i, fact in enumerate(facts)]
    assert [w.id for w in pack(examples, tokenizer, across=False)] == [e.id for e in examples]
    same = [example(tokenizer, i, 0.1, recording="r", speaker="a") for i in range(30)]
    assert max(len(w.utterances) for w in pack(same, tokenizer, across=False)) > 5
    ids = [u.id for w in pack(same, tokenizer, across=False) for u in w.utterances]
    assert ids == [e.id for e in same]  # in the order they were said


def test_labels_of_different_prompts_stay_apart(tokenizer: Tokenizer) -> None:
    examples = [example(tokenizer, i, 0.1, timestamps=bool(i % 2)) for i in range(30)]
    for window in pack(examples, tokenizer):
        with_times = tokenizer.no_timestamps not in window.token_ids
        assert all(int(u.id[1:]) % 2 == with_times for u in window.utterances)


def test_an_utterance_of_unknown_length_stays_alone(tokenizer: Tokenizer) -> None:
    examples = [example(tokenizer, i, None if i == 3 else 0.1) for i in range(10)]
    [alone] = [w for w in pack(examples, tokenizer) if "u3" in w.id.split("+")]
    assert alone.id == "u3"


def test_a_label_that_runs_into_the_padding_is_cut_back_to_its_sound(tokenizer: Tokenizer) -> None:
    examples = [example(tokenizer, i, 1.0, ends_s=4.0) for i in range(20)]
    window = max(pack(examples, tokenizer), key=lambda w: len(w.utterances))
    times = [tokenizer.timestamp_s(i) for i in window.token_ids if tokenizer.is_timestamp(i)]
    assert times[1::2] == pytest.approx([start_s + 1.0 for start_s in window.starts_s])


def test_tokens_never_exceed_the_decoder(tokenizer: Tokenizer) -> None:
    long = [example(tokenizer, i, 0.01) for i in range(400)]
    assert max(len(w.token_ids) for w in pack(long, tokenizer, pause_s=0.0)) <= 448


def test_the_sound_of_a_window_is_its_utterances_at_their_places(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    utterances = []
    for i in range(3):
        samples = generator.uniform(-0.5, 0.5, 4_000 + 1_000 * i).astype(np.float32)
        write_wav(tmp_path / f"u{i}.wav", samples)
        utterances.append(Utterance(f"u{i}", f"u{i}.wav", duration_s=len(samples) / 16_000))
    manifest = Manifest(tmp_path / "m.jsonl", tmp_path, tuple(utterances))
    window = Example(tuple(utterances), (0.0, 0.5, 1.0), ())
    [sound] = load_windows(manifest, [window])
    assert len(sound) == 16_000 + 6_000
    for utterance, start in zip(utterances, (0, 8_000, 16_000), strict=True):
        alone = load_samples(tmp_path / utterance.audio)
        assert np.array_equal(sound[start : start + len(alone)], alone)
    assert not sound[4_000:8_000].any()
