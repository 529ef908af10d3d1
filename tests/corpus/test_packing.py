from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilwhisper.corpus.batches import Example, load_windows
from distilwhisper.corpus.packing import (
    LOOK_AHEAD,
    MAX_TOKENS,
    Fill,
    pack_examples,
)
from distilwhisper.corpus.records import Manifest, Utterance
from distilwhisper.speech.audio import load_samples, write_wav
from distilwhisper.speech.units import seconds_to_samples
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
    pause_s: float = 0.5, fill: Fill = "varied", seed: int = 0,
) -> list[Example]:  # fmt: skip
    return pack_examples(
        examples, tokenizer, max_s=max_s, pause_s=pause_s, fill=fill,
        across_recordings=across, seed=seed,
    )  # fmt: skip


FILLS: tuple[Fill, ...] = ("varied", "full")


@pytest.mark.parametrize("fill", FILLS)
@given(
    lengths=st.lists(st.integers(1, 480_000), min_size=1, max_size=60),
    voices=st.lists(st.sampled_from(["", "a", "b"]), min_size=60, max_size=60),
    across=st.booleans(),
    max_s=st.floats(1.0, 30.0),
    pause_s=st.floats(0.0, 2.0),
    seed=st.integers(0, 100),
)
def test_every_utterance_is_in_one_window_that_holds_it(
    tokenizer: Tokenizer, fill: Fill, lengths: list[int], voices: list[str], across: bool,
    max_s: float, pause_s: float, seed: int,
) -> None:  # fmt: skip
    examples = [
        example(tokenizer, i, n / 16_000, **({"speaker": voice} if voice else {}))
        for i, (n, voice) in enumerate(zip(lengths, voices, strict=False))
    ]
    packed = pack(
        examples, tokenizer, max_s=max_s, pause_s=pause_s, across=across, fill=fill, seed=seed
    )
    ids = [utterance.id for window in packed for utterance in window.utterances]
    assert sorted(ids) == sorted(e.id for e in examples)
    for window in packed:
        if not across and len(window.utterances) > 1:
            assert len({utterance.speaker for utterance in window.utterances}) == 1
        ends = [
            start_s + (utterance.duration_s or 0)
            for start_s, utterance in zip(window.starts_s, window.utterances, strict=True)
        ]
        assert len(ends) == 1 or seconds_to_samples(ends[-1]) <= seconds_to_samples(max_s)
        assert seconds_to_samples(ends[-1]) <= 480_000
        assert window.end_s == ends[-1]
        for end_s, start_s in zip(ends, window.starts_s[1:], strict=False):
            assert pause_s - 1e-6 <= start_s - end_s <= pause_s + 0.02 + 1e-6
        times = [tokenizer.timestamp_s(i) for i in window.token_ids if tokenizer.is_timestamp(i)]
        assert times == sorted(times)
        assert times[::2] == pytest.approx(window.starts_s, abs=1e-6)
        assert len(times) == 2 * len(ends)
        assert times[-1] <= min(ends[-1] + 0.0201, 30.0)
        assert len(window.token_ids) <= MAX_TOKENS
        assert window.token_ids[0] == tokenizer.sot
        assert window.token_ids.count(tokenizer.eot) == 1
        assert window.token_ids[-1] == tokenizer.eot


def test_a_window_of_exactly_480_000_samples_is_whole(tokenizer: Tokenizer) -> None:
    lengths = [160_000, 160_000, 160_000]
    examples = [example(tokenizer, i, n / 16_000) for i, n in enumerate(lengths)]
    (window,) = pack(examples, tokenizer, pause_s=0.0, fill="full")
    assert window.end_s == 30.0
    longer = [*examples[:2], example(tokenizer, 2, 160_001 / 16_000)]
    assert len(pack(longer, tokenizer, pause_s=0.0, fill="full")) == 2


def test_full_windows_are_full(tokenizer: Tokenizer) -> None:
    """Clips of 7 s on average, in one pass, with 64 windows open."""
    drawn = np.random.default_rng(0).gamma(4, 7 / 4, 2_500)
    one = example(tokenizer, 0, 1.0)
    examples = [
        replace(one, utterances=(Utterance(f"u{i}", "u.wav", duration_s=float(seconds)),))
        for i, seconds in enumerate(np.clip(drawn, 1, 20))
    ]
    packed = pack(examples, tokenizer, fill="full", pause_s=0.2)
    sound_s = sum(e.end_s or 0.0 for e in examples)
    assert sound_s / len(packed) / 30 > 0.95
    assert np.mean([(w.end_s or 0.0) / 30 for w in packed]) > 0.96


@pytest.mark.parametrize("fill", FILLS)
def test_windows_are_closed_when_too_many_are_open(tokenizer: Tokenizer, fill: Fill) -> None:
    """Three utterances of a source would share a window, if windows stayed open long enough."""
    n_sources = 20 * LOOK_AHEAD
    examples = [
        example(tokenizer, i, 1.0, source=f"s{i % n_sources}") for i in range(3 * n_sources)
    ]
    assert len(pack(examples, tokenizer, fill=fill)) > 2.5 * n_sources
    few = examples[:: n_sources // LOOK_AHEAD]
    assert len(pack(few, tokenizer, fill="full")) == LOOK_AHEAD


def test_a_recording_is_packed_in_the_order_of_its_times(tokenizer: Tokenizer) -> None:
    """However its lines lie in the manifest; its files follow each other."""
    examples = []
    for number in range(40):
        file, place = divmod(number, 20)
        made = example(tokenizer, number, 2.0, recording="r", speaker="a")
        utterance = replace(made.utterances[0], audio=f"{file}.wav", start_s=3.0 * place)
        examples.append(replace(made, utterances=(utterance,)))
    mixed = [examples[i] for i in [0, 20, *np.random.default_rng(0).permutation(40)] if i < 40]
    mixed = list({e.id: e for e in mixed}.values())
    for fill in FILLS:
        packed = pack(mixed, tokenizer, across=False, fill=fill)
        assert [u.id for w in packed for u in w.utterances] == [e.id for e in examples]


def test_a_window_follows_what_its_first_utterance_follows(tokenizer: Tokenizer) -> None:
    examples = [replace(example(tokenizer, i, 5.0, recording="r"), previous=(i,)) for i in range(4)]
    (window,) = pack(examples, tokenizer, across=False, fill="full")
    assert window.previous == (0,)


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
    assert sorted(w.id for w in pack(examples, tokenizer, across=False)) == [e.id for e in examples]
    same = [example(tokenizer, i, 0.1, recording="r", speaker="a") for i in range(30)]
    of_two = [example(tokenizer, i, 0.1, source="ab"[i % 2]) for i in range(30)]
    for window in pack(of_two, tokenizer):
        assert len({utterance.source for utterance in window.utterances}) == 1
    assert max(len(w.utterances) for w in pack(same, tokenizer, across=False)) > 5
    ids = [u.id for w in pack(same, tokenizer, across=False) for u in w.utterances]
    assert ids == [e.id for e in same]  # in the order they were said


def test_labels_of_different_prompts_stay_apart(tokenizer: Tokenizer) -> None:
    examples = [example(tokenizer, i, 0.1, timestamps=bool(i % 2)) for i in range(30)]
    for window in pack(examples, tokenizer):
        with_times = tokenizer.no_timestamps not in window.token_ids
        assert all(int(u.id[1:]) % 2 == with_times for u in window.utterances)


def test_silence_in_a_window_only_takes_its_time(tokenizer: Tokenizer) -> None:
    spoken = [example(tokenizer, i, 2.0 + i, speaker="a") for i in range(3)]
    silence = spoken[1] = replace(spoken[1], token_ids=(tokenizer.sot, tokenizer.eot))
    (window,) = pack(spoken, tokenizer, fill="full", across=False, pause_s=0.5)
    said = [tokenizer.timestamp_s(id_) for id_ in window.token_ids if tokenizer.is_timestamp(id_)]
    assert said == [0.0, 2.0, 6.0, 10.0]
    (window,) = pack([silence, replace(silence)], tokenizer, fill="full", across=False)
    assert window.token_ids == silence.token_ids
    assert len(window.utterances) == 2


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
