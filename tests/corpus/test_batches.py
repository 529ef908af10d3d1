from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distilwhisper.corpus.batches import (
    IGNORE,
    Example,
    UnreadableRecording,
    decoder_sequence,
    epoch_order,
    join_kept,
    keeps_timestamps,
    load_utterances,
    load_windows,
    token_batch,
)
from distilwhisper.corpus.records import (
    Label,
    Manifest,
    Utterance,
    Verdict,
    read_manifest,
    write_manifest,
)
from distilwhisper.speech.audio import CorruptAudio, write_wav
from distilwhisper.text.tokens import Tokenizer


@pytest.fixture(scope="session")
def english(tiny_model: Path) -> Tokenizer:
    return Tokenizer.from_folder(tiny_model)


@pytest.fixture(scope="session")
def multilingual(tiny_multilingual_model: Path) -> Tokenizer:
    return Tokenizer.from_folder(tiny_multilingual_model)


# The order of an epoch


@given(n=st.integers(0, 200), seed=st.integers(0, 2**32), epoch=st.integers(0, 1000))
def test_an_epoch_visits_every_example_once_and_is_always_the_same(
    n: int, seed: int, epoch: int
) -> None:
    order = epoch_order(n, seed=seed, epoch=epoch)
    assert sorted(order) == list(range(n))
    np.random.seed(7)  # an order drawn from a global state would follow it
    assert epoch_order(n, seed=seed, epoch=epoch) == order


def test_orders_differ_by_epoch_and_by_seed() -> None:
    orders = [epoch_order(50, seed=seed, epoch=epoch) for seed in range(4) for epoch in range(4)]
    assert len(set(map(tuple, orders))) == 16


# The draw of timestamps


@given(id_=st.text(max_size=20), seed=st.integers(0, 2**32), epoch=st.integers(0, 1000))
def test_a_probability_of_zero_or_one_is_no_draw(id_: str, seed: int, epoch: int) -> None:
    assert not keeps_timestamps(id_, probability=0.0, seed=seed, epoch=epoch)
    assert keeps_timestamps(id_, probability=1.0, seed=seed, epoch=epoch)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_draws_are_as_frequent_as_asked_and_always_the_same(probability: float) -> None:
    def draw() -> list[bool]:
        return [
            keeps_timestamps(f"utterance-{i}", probability=probability, seed=3, epoch=2)
            for i in range(4000)
        ]

    # 5 standard deviations of 4,000 draws are at most 0.04.
    assert np.mean(draw()) == pytest.approx(probability, abs=0.04)
    assert draw() == draw()


def test_timestamps_are_drawn_anew_by_epoch_utterance_and_seed() -> None:
    def draws(**changed: list[int]) -> list[bool]:
        ranges = {"i": [0], "seed": [0], "epoch": [0], **changed}
        return [
            keeps_timestamps(f"u{i}", probability=0.5, seed=seed, epoch=epoch)
            for i in ranges["i"]
            for seed in ranges["seed"]
            for epoch in ranges["epoch"]
        ]

    many = list(range(400))
    by_epoch, by_seed, by_id = draws(epoch=many), draws(seed=many), draws(i=many)
    for drawn in (by_epoch, by_seed, by_id):
        assert 140 < sum(drawn) < 260  # 6 standard deviations of 400 fair draws
    assert by_epoch != by_seed != by_id != by_epoch


# A label as the decoder is to say it


def timed(tokenizer: Tokenizer, text: str, language: str | None) -> list[int]:
    """A label as the teacher decodes it: two segments with timestamps."""
    first, second = tokenizer.encode(f" {text}"), tokenizer.encode(" the end")
    return [
        *tokenizer.prompt_ids(language=language, timestamps=True),
        *[tokenizer.timestamp_id(0.0), *first, tokenizer.timestamp_id(1.5)],
        *[tokenizer.timestamp_id(1.5), *second, tokenizer.timestamp_id(2.0)],
        tokenizer.eot,
    ]


def bare(tokenizer: Tokenizer, text: str, language: str | None) -> list[int]:
    """The same, as decoded without timestamps."""
    return [
        *tokenizer.prompt_ids(language=language, timestamps=False),
        *tokenizer.encode(f" {text}"),
        *tokenizer.encode(" the end"),
        tokenizer.eot,
    ]


def test_timestamps_are_kept_when_they_are_to_be_kept(english: Tokenizer) -> None:
    label = timed(english, "a cat", None)
    assert decoder_sequence(label, english, timestamps=True) == label


def test_without_timestamps_an_english_prompt_says_so_second(english: Tokenizer) -> None:
    stripped = decoder_sequence(timed(english, "a cat", None), english, timestamps=False)
    assert stripped == bare(english, "a cat", None)
    assert stripped.index(english.no_timestamps) == 1


@pytest.mark.parametrize("language", ["en", "de", "zh"])
def test_without_timestamps_a_multilingual_prompt_says_so_after_the_task(
    multilingual: Tokenizer, language: str
) -> None:
    label = timed(multilingual, "a cat", language)
    stripped = decoder_sequence(label, multilingual, timestamps=False)
    assert stripped == bare(multilingual, "a cat", language)
    assert stripped.index(multilingual.no_timestamps) == 3


@pytest.mark.parametrize("timestamps", [True, False])
def test_a_label_decoded_without_timestamps_stays_as_it_is(
    english: Tokenizer, multilingual: Tokenizer, timestamps: bool
) -> None:
    for tokenizer, language in ((english, None), (multilingual, "de")):
        label = bare(tokenizer, "a cat", language)
        assert decoder_sequence(label, tokenizer, timestamps=timestamps) == label


def test_with_text_before_it_the_last_start_of_transcript_counts(
    english: Tokenizer, multilingual: Tokenizer
) -> None:
    for tokenizer, language in ((english, None), (multilingual, "en")):
        before = tokenizer.previous_text_ids("what was said")
        label = [*before, *timed(tokenizer, "a cat", language)]
        stripped = decoder_sequence(label, tokenizer, timestamps=False)
        assert stripped == [*before, *bare(tokenizer, "a cat", language)]


@settings(deadline=None)
@given(data=st.data(), text=st.lists(st.integers(0, 255), max_size=30))
def test_stripping_takes_timestamps_alone_and_a_second_time_changes_nothing(
    english: Tokenizer, data: st.DataObject, text: list[int]
) -> None:
    times = st.integers(english.timestamp_begin, english.timestamp_begin + 1500)
    mixed = data.draw(
        st.lists(times, max_size=6).flatmap(lambda t: st.permutations([*text[:10], *t]))
    )
    stripped = decoder_sequence([english.sot, *mixed, english.eot], english, timestamps=False)
    spoken = [id_ for id_ in mixed if id_ < english.timestamp_begin]
    assert stripped == [english.sot, english.no_timestamps, *spoken, english.eot]
    assert decoder_sequence(stripped, english, timestamps=False) == stripped


# Inputs and targets


def test_a_batch_by_hand(multilingual: Tokenizer) -> None:
    """Language, task and no-timestamps are learnt; so is the end, once."""
    t = multilingual
    assert t.transcribe is not None
    long = [t.sot, t.languages["de"], t.transcribe, t.no_timestamps, 5, 6, t.eot]
    short = [t.sot_prev, 9, t.sot, t.languages["en"], t.eot]
    batch = token_batch([long, short], t)
    assert batch.inputs.tolist() == [
        long[:-1],
        [t.sot_prev, 9, t.sot, t.languages["en"], t.eot, t.eot],
    ]
    assert batch.labels.tolist() == [
        long[1:],
        [IGNORE, IGNORE, t.languages["en"], t.eot, IGNORE, IGNORE],
    ]
    assert batch.n_tokens == 8
    assert batch.inputs.dtype == batch.labels.dtype == torch.long


@settings(deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.none() | st.lists(st.integers(0, 255), max_size=8),
            st.lists(st.integers(0, 255), max_size=20),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_targets_are_exactly_the_tokens_behind_the_last_start(
    english: Tokenizer, rows: list[tuple[list[int] | None, list[int]]]
) -> None:
    sequences, behind = [], []
    for before, text in rows:
        prompt = [] if before is None else [english.sot_prev, *before]
        behind.append([english.no_timestamps, *text, english.eot])
        sequences.append([*prompt, english.sot, *behind[-1]])
    batch = token_batch(sequences, english)
    assert batch.inputs.shape == batch.labels.shape == (len(rows), max(map(len, sequences)) - 1)
    for inputs, labels, sequence, targets in zip(
        batch.inputs.tolist(), batch.labels.tolist(), sequences, behind, strict=True
    ):
        assert inputs[: len(sequence) - 1] == sequence[:-1]
        assert set(inputs[len(sequence) - 1 :]) <= {english.eot}
        assert [id_ for id_ in labels if id_ != IGNORE] == targets
        for at, label in enumerate(labels):
            assert label == IGNORE or label == sequence[at + 1]
    assert batch.n_tokens == sum(map(len, behind))


# Stages joined


def label(id_: str, *token_ids: int) -> Label:
    return Label(id_, token_ids, "", "en", -0.1, 0.0, 1.0, None)


def test_kept_utterances_come_in_the_manifests_order() -> None:
    utterances = tuple(Utterance(id=id_, audio=f"{id_}.wav") for id_ in "dbca")
    labels = {id_: label(id_, 1, i) for i, id_ in enumerate("abcd")}
    verdicts = {id_: Verdict(id_, id_ != "b", "") for id_ in "abc"}  # none of d
    examples = join_kept(Manifest(Path("m"), Path("/"), utterances), labels, verdicts)
    assert [example.id for example in examples] == ["c", "a"]
    assert [tuple(example.token_ids) for example in examples] == [(1, 2), (1, 0)]


@pytest.mark.parametrize("lacking", ["utterance", "label"])
def test_a_kept_verdict_without_its_utterance_or_label_is_refused(lacking: str) -> None:
    utterances = tuple(
        Utterance(id=id_, audio="a.wav") for id_ in "ab" if (id_, lacking) != ("b", "utterance")
    )
    labels = {id_: label(id_, 1) for id_ in "ab" if (id_, lacking) != ("b", "label")}
    manifest = Manifest(Path("m"), Path("/"), utterances)
    dropped = {"a": Verdict("a", True, ""), "b": Verdict("b", False, "")}
    assert len(join_kept(manifest, labels, dropped)) == 1
    with pytest.raises(ValueError, match=r"1 have not, first 'b'.*filter again"):
        join_kept(manifest, labels, {**dropped, "b": Verdict("b", True, "")})


# Audio, read ahead


@pytest.mark.parametrize("n_threads", [1, 3])
def test_recordings_come_in_order_and_errors_as_values(tmp_path: Path, n_threads: int) -> None:
    n = 40  # several times what is read ahead
    lengths = [1600 + 160 * ((7 * i) % n) for i in range(n)]
    utterances = []
    for i, length in enumerate(lengths):
        if i == 5:
            (tmp_path / f"{i}.wav").write_bytes(b"no sound at all")
        elif i != 20:
            write_wav(tmp_path / f"{i}.wav", np.full(length, i / 64, dtype=np.float32))
        utterances.append(Utterance(id=str(i), audio=f"{i}.wav"))
    write_manifest(tmp_path / "m.jsonl", utterances)
    manifest = read_manifest(tmp_path / "m.jsonl")
    loaded = list(load_utterances(manifest, manifest.utterances, n_threads=n_threads))
    assert [utterance.id for utterance, _ in loaded] == [str(i) for i in range(n)]
    for i, (_, samples) in enumerate(loaded):
        if i == 5:
            assert isinstance(samples, CorruptAudio)
        elif i == 20:
            assert isinstance(samples, FileNotFoundError)
        else:
            assert isinstance(samples, np.ndarray)
            assert samples.tolist() == [i / 64] * lengths[i]


def test_only_the_utterances_span_is_loaded(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.arange(16_000, dtype=np.float32) / 32768)
    utterances = [
        Utterance(id="middle", audio="a.wav", start_s=0.25, duration_s=0.5),
        Utterance(id="end", audio="a.wav", start_s=0.75),
    ]
    write_manifest(tmp_path / "m.jsonl", utterances)
    manifest = read_manifest(tmp_path / "m.jsonl")
    (_, middle), (_, end) = load_utterances(manifest, manifest.utterances)
    assert isinstance(middle, np.ndarray)
    assert isinstance(end, np.ndarray)
    assert (middle[0] * 32768, len(middle)) == (4000, 8000)
    assert (end[0] * 32768, len(end)) == (12_000, 4000)


def test_utterances_lie_where_their_window_says_with_silence_between(tmp_path: Path) -> None:
    for name, value in (("a", 0.25), ("b", 0.5)):
        write_wav(tmp_path / f"{name}.wav", np.full(1600, value, dtype=np.float32))
    a, b = (Utterance(id=name, audio=f"{name}.wav") for name in "ab")
    write_manifest(tmp_path / "m.jsonl", [a, b])
    manifest = read_manifest(tmp_path / "m.jsonl")
    examples = [Example((b,), (0.0,), ()), Example((a, b), (0.0, 0.3), ())]
    alone, together = load_windows(manifest, examples)
    assert alone.tolist() == [0.5] * 1600
    assert together.tolist() == [0.25] * 1600 + [0.0] * 3200 + [0.5] * 1600


def test_a_recording_that_is_gone_is_named(tmp_path: Path) -> None:
    utterance = Utterance(id="lost", audio="lost.wav")
    manifest = Manifest(tmp_path / "m.jsonl", tmp_path, (utterance,))
    with pytest.raises(UnreadableRecording, match=r"'lost'.*lost\.wav.*label and filter again"):
        load_windows(manifest, [Example((utterance,), (0.0,), ())])
