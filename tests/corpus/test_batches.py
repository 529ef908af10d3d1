from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distilwhisper.corpus.batches import (
    IGNORE,
    Drawn,
    Example,
    Mixture,
    UnreadableRecording,
    decoder_sequence,
    epoch_order,
    example_generator,
    follow_each_other,
    join_kept,
    keeps_previous,
    keeps_timestamps,
    load_readable,
    load_utterances,
    load_windows,
    token_batch,
    with_previous_text,
    with_prompt,
)
from distilwhisper.corpus.packing import pack_examples
from distilwhisper.corpus.records import (
    Label,
    Manifest,
    Utterance,
    Verdict,
    read_manifest,
    write_manifest,
)
from distilwhisper.speech.audio import write_wav
from distilwhisper.speech.sources import CorruptAudio
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


# The stream of examples


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    weights=st.lists(st.floats(0.05, 10.0), min_size=4, max_size=4),
    seed=st.integers(0, 2**40),
    start=st.integers(0, 60_000),
    workers=st.integers(1, 4),
)
def test_the_stream_is_the_same_from_any_place_and_for_any_number_of_readers(
    sizes: list[int], weights: list[float], seed: int, start: int, workers: int
) -> None:
    sources = [f"s{part}" for part, size in enumerate(sizes) for _ in range(size)]
    by_source = {f"s{part}": weights[part] for part in range(len(sizes))}
    whole = Mixture(sources, by_source, seed=seed)
    stream = [whole.at(place) for place in range(start, start + 60)]
    resumed = Mixture(sources, by_source, seed=seed)
    assert [resumed.at(place) for place in range(start + 30, start + 60)] == stream[30:]
    readers = [Mixture(sources, by_source, seed=seed) for _ in range(workers)]
    dealt = [readers[i % workers].at(start + i) for i in reversed(range(60))]
    assert dealt[::-1] == stream


@pytest.mark.parametrize("weights", [{}, {"a": 1.0}, {"a": 1.0, "b": 3.0, "c": 0.5}])
def test_every_epoch_of_a_source_has_each_of_its_examples_once(weights: dict[str, float]) -> None:
    sources = [s for s in (weights or "ab") for _ in range({"a": 300, "b": 500, "c": 11}[s])]
    mixture = Mixture(sources, weights, seed=3)
    drawn = [mixture.at(place) for place in range(11_000)]
    for source in weights or {None: 1.0}:
        members = {i for i, s in enumerate(sources) if source in (s, None)}
        of_source = [d for d in drawn if d.example in members]
        n_epochs = len(of_source) // len(members)
        assert n_epochs >= 5
        orders = [
            of_source[epoch * len(members) : (epoch + 1) * len(members)]
            for epoch in range(n_epochs)
        ]
        for epoch, order in enumerate(orders):
            assert {d.epoch for d in order} == {epoch}
            assert {d.example for d in order} == members
        assert [d.example for d in orders[0]] != [d.example for d in orders[1]]


def test_without_weights_the_stream_is_epoch_after_epoch() -> None:
    mixture = Mixture([None] * 5, {}, seed=2)
    orders = [(i, epoch) for epoch in range(4) for i in epoch_order(5, seed=2, epoch=epoch)]
    assert [mixture.at(place) for place in range(20)] == [Drawn(*pair) for pair in orders]


@settings(max_examples=3)
@given(weights=st.lists(st.floats(0.01, 10.0), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_the_shares_of_the_stream_are_the_weights(weights: list[float], seed: int) -> None:
    sources = [f"s{part}" for part in range(len(weights))]  # one example each
    mixture = Mixture(sources, dict(zip(sources, weights, strict=True)), seed=seed)
    counts = np.bincount([mixture.at(place).example for place in range(10_000)])
    shares = np.array(weights) / sum(weights)
    assert np.abs(counts - 10_000 * shares).max() < 1
    # Early on as well: 6 standard deviations of 400 draws.
    early = np.bincount([mixture.at(p).example for p in range(400)], minlength=len(weights))
    assert (np.abs(early / 400 - shares) <= 6 * np.sqrt(shares * (1 - shares) / 400)).all()


def test_weights_that_are_not_of_the_sources_are_refused() -> None:
    with pytest.raises(ValueError, match=r"weights of 'a', 'x' and utterances of 'a', None"):
        Mixture(["a", None], {"a": 1.0, "x": 1.0}, seed=0)
    with pytest.raises(ValueError, match=r"at least 1/10000 of all, found 1e-05 of 1"):
        Mixture(["a", "b"], {"a": 1.0, "b": 1e-5}, seed=0)


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


def test_what_is_drawn_for_one_example_is_drawn_each_by_itself() -> None:
    ids = [f"u{i}" for i in range(400)]
    fixed = {"probability": 0.5, "seed": 1, "epoch": 2}
    times = [keeps_timestamps(id_, **fixed) for id_ in ids]
    prompts = [keeps_previous(id_, **fixed) for id_ in ids]
    assert 140 < sum(prompts) < 260
    assert 140 < sum(a == b for a, b in zip(times, prompts, strict=True)) < 260
    assert prompts == [keeps_previous(id_, **fixed) for id_ in ids]
    assert prompts != [keeps_previous(id_, **{**fixed, "epoch": 3}) for id_ in ids]
    assert prompts != [keeps_previous(id_, **{**fixed, "seed": 3}) for id_ in ids]
    sounds = {
        example_generator(id_, seed=seed, epoch=epoch).random()
        for id_ in ids[:5] for seed in range(5) for epoch in range(5)
    }  # fmt: skip
    assert len(sounds) == 125


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
        before = tokenizer.previous_ids(tokenizer.encode(" what was said"))
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


@given(
    steps=st.lists(st.integers(0, 1500), min_size=1, max_size=8).map(sorted),
    speed=st.floats(0.5, 2.0),
)
def test_faster_sound_has_earlier_timestamps(
    english: Tokenizer, steps: list[int], speed: float
) -> None:
    times = [english.timestamp_begin + step for step in steps]
    sequence = [english.sot, times[0], 7, *times[1:], english.eot]
    changed = decoder_sequence(sequence, english, timestamps=True, speed=speed)
    assert [id_ for id_ in changed if not english.is_timestamp(id_)] == [
        english.sot, 7, english.eot
    ]  # fmt: skip
    moved = [id_ - english.timestamp_begin for id_ in changed if english.is_timestamp(id_)]
    assert moved == sorted(moved)
    assert moved == pytest.approx([min(step / speed, 1500) for step in steps], abs=0.51)
    bare = decoder_sequence(sequence, english, timestamps=False)
    assert decoder_sequence(sequence, english, timestamps=False, speed=speed) == bare


# What was said before


def follower(
    tokenizer: Tokenizer, id_: str, start_s: float, *, said: str, n: int = 1, **facts: Any
) -> Example:
    """An utterance of one second, whose label has timestamps."""
    utterance = Utterance(id_, **{"audio": "a.wav", "start_s": start_s, "duration_s": 1.0, **facts})
    text = tokenizer.encode(f" {said}") * n
    times = tokenizer.timestamp_id(0.0), tokenizer.timestamp_id(1.0)
    ids = (tokenizer.sot, times[0], *text, times[1], tokenizer.eot)
    return Example((utterance,), (0.0,), ids)


def previous_of(
    tokenizer: Tokenizer, examples: list[Example], *, dropped: tuple[str, ...] = ()
) -> dict[str, str]:
    """What precedes each, the manifest being in any order."""
    order = np.random.default_rng(0).permutation(len(examples))
    utterances = tuple(examples[i].utterances[0] for i in order)
    manifest = Manifest(Path("m"), Path("/"), utterances)
    kept = [e for e in examples if e.id not in dropped]
    found = with_previous_text(manifest, kept, tokenizer, max_gap_s=2.0)
    assert [replace(e, previous=()) for e in found] == kept
    return {e.id: tokenizer.decode(e.previous) for e in found}


def test_what_was_said_just_before_precedes(english: Tokenizer) -> None:
    said = [follower(english, f"u{i}", 1.5 * i, said=f"word {i}", speaker="s") for i in range(3)]
    found = previous_of(english, said)
    assert found == {"u0": "", "u1": " word 0", "u2": " word 0 word 1"}


@pytest.mark.parametrize(
    "facts",
    [
        {"start_s": 3.1},  # too long a silence
        {"start_s": 0.9},  # spoken at once
        {"speaker": "t"},
        {"recording": "other"},
        {"audio": "b.wav"},
    ],
)
def test_what_is_of_another_time_or_voice_does_not_precede(
    english: Tokenizer, facts: dict[str, Any]
) -> None:
    first = follower(english, "u0", 0.0, said="word", speaker="s", recording="r")
    same = {"start_s": 3.0, "speaker": "s", "recording": "r"}
    good, bad = (
        follower(english, "u1", said="two", **{**same, **changed})
        for changed in ({}, facts)
    )  # fmt: skip
    assert previous_of(english, [first, good])["u1"] == " word"
    assert previous_of(english, [first, bad])["u1"] == ""


def test_nothing_precedes_past_what_was_dropped_or_said_by_another(english: Tokenizer) -> None:
    three = [follower(english, f"u{i}", 1.0 * i, said=f"word {i}", speaker="s") for i in range(3)]
    assert previous_of(english, three, dropped=("u1",)) == {"u0": "", "u2": ""}
    three[1] = follower(english, "u1", 1.0, said="no", speaker="t")
    assert previous_of(english, three) == {"u0": "", "u1": "", "u2": ""}


def test_a_prompt_is_cut_on_its_left_to_223_tokens_and_448_in_all(english: Tokenizer) -> None:
    many = [follower(english, f"u{i}", 1.0 * i, said="a", n=100) for i in range(4)]
    manifest = Manifest(Path("m"), Path("/"), tuple(e.utterances[0] for e in many))
    last = with_previous_text(manifest, many, english, max_gap_s=2.0)[-1]
    assert len(last.previous) == 223
    numbered = list(range(200))
    for length, kept in ((100, 200), (248, 199), (300, 147), (446, 1), (447, 0), (448, 0)):
        sequence = [english.sot, *[5] * (length - 2), english.eot]
        prompted = with_prompt(sequence, numbered, english, max_tokens=448)
        before = [english.sot_prev, *numbered[200 - kept :]] if kept else []
        assert prompted == [*before, *sequence]
        assert len(prompted) <= 448
    long = with_prompt([english.sot, english.eot], list(range(240)), english, max_tokens=448)
    assert long == [english.sot_prev, *range(17, 240), english.sot, english.eot]


def test_utterances_of_one_channel_follow_each_other_while_the_other_channel_speaks() -> None:
    spans = [(0, 0.0), (1, 0.5), (0, 2.0), (1, 2.5)]
    utterances = tuple(
        Utterance(id=f"{at}", audio="call.wav", start_s=at, duration_s=1.0, channel=channel)
        for channel, at in spans
    )
    manifest = Manifest(Path("manifest.jsonl"), Path(), utterances)
    assert follow_each_other(manifest, max_gap_s=1.5)
    assert not follow_each_other(manifest, max_gap_s=0.5)


def test_a_prompt_is_given_and_not_learnt(multilingual: Tokenizer) -> None:
    """One start-of-prev, found by its text, and text without timestamps; the rest is learnt."""
    t = multilingual
    one, two = (follower(t, f"u{i}", 1.0 * i, said=f"word {i}") for i in range(2))
    manifest = Manifest(Path("m"), Path("/"), (one.utterances[0], two.utterances[0]))
    previous = with_previous_text(manifest, [one, two], t, max_gap_s=2.0)[1].previous
    label = timed(t, "a cat", "de")
    for timestamps in (True, False):
        sequence = decoder_sequence(label, t, timestamps=timestamps)
        prompted = with_prompt(sequence, previous, t, max_tokens=448)
        assert t.decode(previous) == " word 0"
        assert prompted == [t.sot_prev, *previous, *sequence]
        batch = token_batch([prompted], t)
        n_given = len(previous) + 1
        assert batch.inputs[0].tolist() == prompted[:-1]
        assert batch.labels[0].tolist() == [IGNORE] * n_given + sequence[1:]
        assert t.languages["de"] in batch.labels
        assert t.transcribe in batch.labels
        assert (t.no_timestamps in batch.labels) == (not timestamps)


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


def test_kept_utterances_come_in_the_manifests_order(english: Tokenizer) -> None:
    utterances = tuple(Utterance(id=id_, audio=f"{id_}.wav") for id_ in "dbca")
    labels = {id_: label(id_, english.sot, i) for i, id_ in enumerate("abcd")}
    verdicts = {id_: Verdict(id_, id_ != "b", "") for id_ in "abc"}  # none of d
    manifest = Manifest(Path("m"), Path("/"), utterances)
    examples = join_kept(manifest, labels, verdicts, english)
    assert [example.id for example in examples] == ["c", "a"]
    assert [tuple(example.token_ids) for example in examples] == [
        (english.sot, 2),
        (english.sot, 0),
    ]


def test_an_utterance_to_the_end_of_its_file_is_as_long_as_what_was_heard(
    english: Tokenizer,
) -> None:
    manifest = Manifest(Path("m"), Path("/"), (Utterance(id="a", audio="a.wav"),))
    heard = {"a": replace(label("a", english.sot), duration_s=2.5)}
    (example,) = join_kept(manifest, heard, {"a": Verdict("a", True, "")}, english)
    assert example.end_s == 2.5


@pytest.mark.parametrize("lacking", ["utterance", "label"])
def test_a_kept_verdict_without_its_utterance_or_label_is_refused(
    english: Tokenizer, lacking: str
) -> None:
    utterances = tuple(
        Utterance(id=id_, audio="a.wav") for id_ in "ab" if (id_, lacking) != ("b", "utterance")
    )
    labels = {id_: label(id_, english.sot) for id_ in "ab" if (id_, lacking) != ("b", "label")}
    manifest = Manifest(Path("m"), Path("/"), utterances)
    dropped = {"a": Verdict("a", True, ""), "b": Verdict("b", False, "")}
    assert len(join_kept(manifest, labels, dropped, english)) == 1
    with pytest.raises(ValueError, match=r"1 have not, first 'b'.*filter again"):
        join_kept(manifest, labels, {**dropped, "b": Verdict("b", True, "")}, english)


def test_what_a_teacher_was_told_is_no_part_of_the_label(english: Tokenizer) -> None:
    """Labels of an initial prompt go through packing, batches and prompts as all others do."""
    told = english.previous_ids(english.encode(" names to expect"))
    utterances = tuple(
        Utterance(id_, f"{id_}.wav", duration_s=1.0, recording="r", start_s=float(i))
        for i, id_ in enumerate("ab")
    )
    plain = {
        id_: label(id_, *timed(english, text, None)) for id_, text in (("a", "one"), ("b", "two"))
    }
    prompted = {id_: replace(one, token_ids=(*told, *one.token_ids)) for id_, one in plain.items()}
    verdicts = {id_: Verdict(id_, True, "") for id_ in plain}
    manifest = Manifest(Path("m"), Path("/"), utterances)
    found, expected = (
        join_kept(manifest, labels, verdicts, english) for labels in (prompted, plain)
    )
    assert found == expected
    (window,) = pack_examples(
        found, english, max_s=30.0, pause_s=0.5, fill="full", across_recordings=False, seed=0
    )
    assert window.token_ids.count(english.sot) == 1
    batch = token_batch([window.token_ids], english)
    assert batch.n_tokens == len(window.token_ids) - 1
    cut = {"a": label("a", *english.encode(" one"), english.eot)}
    with pytest.raises(ValueError, match=r"start of transcript \(\d+\), found none in that of 'a'"):
        join_kept(manifest, cut, {"a": verdicts["a"]}, english)


@pytest.mark.parametrize("timestamps", [True, False])
@pytest.mark.parametrize("language", [None, "de"])
def test_what_is_kept_of_silence_is_an_empty_transcript(
    english: Tokenizer, multilingual: Tokenizer, language: str | None, timestamps: bool
) -> None:
    """Whatever the teacher heard in it, cut off or not, with a prompt or without."""
    tokenizer = english if language is None else multilingual
    whole = timed(tokenizer, "thank you", language)
    before = tokenizer.previous_ids(tokenizer.encode(" names to expect"))
    manifest = Manifest(Path("m"), Path("/"), (Utterance("a", "a.wav", text=""),))
    verdicts = {"a": Verdict("a", True, "")}
    prompt = tokenizer.prompt_ids(language=language, timestamps=timestamps)
    begin = [tokenizer.timestamp_id(0.0)] if timestamps else []
    for heard in (whole, whole[:-1], [*before, *whole], [*whole[: len(prompt)], tokenizer.eot]):
        (example,) = join_kept(manifest, {"a": label("a", *heard)}, verdicts, tokenizer)
        taught = decoder_sequence(example.token_ids, tokenizer, timestamps=timestamps)
        assert taught == [*prompt, *begin, tokenizer.eot]
    bare_label = {"a": label("a", *bare(tokenizer, "thank you", language))}
    (example,) = join_kept(manifest, bare_label, verdicts, tokenizer)
    without = tokenizer.prompt_ids(language=language, timestamps=False)
    assert example.token_ids == (*without, tokenizer.eot)
    assert decoder_sequence(example.token_ids, tokenizer, timestamps=timestamps) == [
        *without,
        tokenizer.eot,
    ]


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
    again = load_windows(manifest, examples, n_threads=5)
    assert [w.tolist() for w in again] == [alone.tolist(), together.tolist()]
    assert alone.tolist() == [0.5] * 1600
    assert together.tolist() == [0.25] * 1600 + [0.0] * 3200 + [0.5] * 1600


def test_a_recording_that_is_gone_is_named(tmp_path: Path) -> None:
    utterance = Utterance(id="lost", audio="lost.wav")
    manifest = Manifest(tmp_path / "m.jsonl", tmp_path, (utterance,))
    message = r"'lost' of .*m\.jsonl must.*lost\.wav.*label and filter again"
    with pytest.raises(UnreadableRecording, match=message):
        load_windows(manifest, [Example((utterance,), (0.0,), ())])


def test_what_comes_before_a_recording_that_must_be_read_and_cannot_is_read(tmp_path: Path) -> None:
    write_wav(tmp_path / "here.wav", np.full(1600, 0.25, dtype=np.float32))
    utterances = tuple(Utterance(id=name, audio=f"{name}.wav") for name in ("here", "lost"))
    manifest = Manifest(tmp_path / "m.jsonl", tmp_path, utterances)
    readable = load_readable(manifest, utterances)
    utterance, samples = next(readable)
    assert (utterance.id, samples.tolist()) == ("here", [0.25] * 1600)
    with pytest.raises(UnreadableRecording, match="'lost' of"):
        next(readable)
