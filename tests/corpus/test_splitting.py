from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilwhisper.corpus.records import Manifest, Utterance
from distilwhisper.corpus.splitting import split_manifest


def corpus(*utterances: Utterance) -> Manifest:
    return Manifest(Path("all.jsonl"), Path("/"), utterances)


def said(id_: str, text: str | None, **other: str) -> Utterance:
    return Utterance(id_, f"{id_}.wav", text=text, language="en", **other)


PARTS = {"test": 0.2, "validation": 0.1}


def part_of(parts: dict[str, list[Utterance]]) -> dict[str, str]:
    return {utterance.id: name for name, part in parts.items() for utterance in part}


def test_a_split_has_the_sizes_asked_for_and_all_utterances_in_order() -> None:
    manifest = corpus(*(said(f"{i:04d}", f"line number {i}") for i in range(4000)))
    parts = split_manifest(manifest, PARTS, seed=0)
    assert list(parts) == ["train", "test", "validation"]
    assert sorted(u.id for part in parts.values() for u in part) == [
        u.id for u in manifest.utterances
    ]
    assert all([u.id for u in part] == sorted(u.id for u in part) for part in parts.values())
    # 4000 draws: five standard deviations are 126 and 95.
    assert abs(len(parts["test"]) - 800) < 130
    assert abs(len(parts["validation"]) - 400) < 100


def test_a_split_depends_on_seed_and_content_alone() -> None:
    utterances = [said(f"{i:03d}", f"line number {i}") for i in range(300)]
    first = part_of(split_manifest(corpus(*utterances), PARTS, seed=0))
    assert part_of(split_manifest(corpus(*reversed(utterances)), PARTS, seed=0)) == first
    assert part_of(split_manifest(corpus(*utterances), PARTS, seed=1)) != first
    renamed = [replace(u, id=f"x{u.id}") for u in utterances]
    assert part_of(split_manifest(corpus(*renamed), PARTS, seed=0)) == {
        f"x{id_}": part for id_, part in first.items()
    }


def test_utterances_that_come_later_move_none() -> None:
    utterances = [said(f"{i:03d}", f"line number {i}") for i in range(400)]
    before = part_of(split_manifest(corpus(*utterances[:300]), PARTS, seed=0))
    after = part_of(split_manifest(corpus(*utterances), PARTS, seed=0))
    assert before.items() <= after.items()


texts = st.none() | st.sampled_from(
    ["Ten cats.", "10 cats", "ten CATS", "a dog", "a cow", "...", ""]
)
sources = st.none() | st.sampled_from(["r1", "r2", "r3"])


@settings(max_examples=200)
@given(
    rows=st.lists(st.tuples(texts, sources, sources), max_size=12),
    seed=st.integers(0, 5),
    by_speaker=st.booleans(),
)
def test_no_text_recording_or_speaker_is_in_two_parts(
    rows: list[tuple[str | None, str | None, str | None]], seed: int, by_speaker: bool
) -> None:
    utterances = [
        Utterance(f"{i}", "a.wav", text=text, recording=recording, speaker=speaker)
        for i, (text, recording, speaker) in enumerate(rows)
    ]
    # Three that nothing holds together, so that there is something to split.
    utterances += [said(f"alone {i}", f"alone {i}") for i in range(3)]
    parts = split_manifest(corpus(*utterances), PARTS, seed=seed, keep_speakers_together=by_speaker)
    assert all(parts.values())
    place = part_of(parts)
    assert len(place) == len(utterances)
    for one in utterances:
        for other in utterances:
            same_text = {one.text, other.text} <= {"Ten cats.", "10 cats", "ten CATS"} or (
                one.text == other.text and one.text not in (None, "", "...")
            )
            same_recording = one.recording is not None and one.recording == other.recording
            same_speaker = one.speaker is not None and one.speaker == other.speaker
            if same_text or same_recording or (by_speaker and same_speaker):
                assert place[one.id] == place[other.id]


def test_a_small_corpus_gives_every_part_something() -> None:
    utterances = [said(str(i), f"line {i}") for i in range(3)]
    for seed in range(20):
        parts = split_manifest(corpus(*utterances), {"test": 0.01, "validation": 0.98}, seed=seed)
        assert [len(part) for part in parts.values()] == [1, 1, 1]


def test_what_cannot_be_split_is_refused() -> None:
    together = [said(str(i), f"line {i}", recording="one") for i in range(9)]
    with pytest.raises(ValueError, match=r"at least 3 groups .* found 1 in 9 utterances"):
        split_manifest(corpus(*together), PARTS, seed=0)


@pytest.mark.parametrize("fractions", [{"test": 0.0}, {"test": -0.1}, {"a": 0.5, "b": 0.5}])
def test_fractions_that_leave_no_training_part_are_refused(fractions: dict[str, float]) -> None:
    utterances = [said(str(i), f"line {i}") for i in range(9)]
    with pytest.raises(ValueError, match="sum to less than 1, found"):
        split_manifest(corpus(*utterances), fractions, seed=0)


@pytest.mark.parametrize("n", [20, 30, 55, 200])
def test_parts_of_few_utterances_have_just_the_size_asked_for(n: int) -> None:
    manifest = corpus(*(said(f"{i:03d}", f"line number {i}") for i in range(n)))
    fractions = {"test": 0.1, "validation": 0.1}
    for seed in range(20):
        parts = split_manifest(manifest, fractions, seed=seed)
        assert [len(part) for part in parts.values()] == [
            n - 2 * int(n / 10 + 0.5),
            int(n / 10 + 0.5),
            int(n / 10 + 0.5),
        ]


def test_every_part_of_few_utterances_has_its_share_of_every_language_and_source() -> None:
    kinds = [("en", "a"), ("en", "b"), ("de", "a")]
    utterances = [
        Utterance(f"{i:03d}", "a.wav", text=f"line {i}", language=language, source=source)
        for i, (language, source) in enumerate(kinds * 20)
    ]
    for seed in range(20):
        parts = split_manifest(corpus(*utterances), PARTS, seed=seed)
        for name, n in (("test", 12), ("validation", 6)):
            found = Counter((u.language, u.source) for u in parts[name])
            assert sum(found.values()) == n
            assert all(abs(found[kind] - n / 3) <= 1 for kind in kinds)


def speakers_of(part: list[Utterance]) -> set[str | None]:
    return {utterance.speaker for utterance in part}


@settings(max_examples=50)
@given(
    sizes=st.lists(st.integers(1, 8), min_size=3, max_size=40),
    seed=st.integers(0, 5),
)
def test_speakers_are_in_one_part_and_sizes_as_near_as_that_allows(
    sizes: list[int], seed: int
) -> None:
    utterances = [
        said(f"{speaker}-{i}", f"line {speaker} {i}", speaker=f"s{speaker}")
        for speaker, n in enumerate(sizes)
        for i in range(n)
    ]
    parts = split_manifest(corpus(*utterances), PARTS, seed=seed)
    assert sum(len(speakers_of(part)) for part in parts.values()) == len(sizes)
    for name, fraction in PARTS.items():
        assert parts[name]
        n_over = len(parts[name]) - fraction * len(utterances)
        # No more than half of the largest speaker over, unless one speaker is all there is.
        assert n_over <= max(sizes) / 2 or len(speakers_of(parts[name])) == 1


def test_two_speakers_of_one_name_in_two_sources_are_two() -> None:
    utterances = [
        said(f"{source}{i}", f"line {source} {i}", speaker=f"{i % 5}", source=source)
        for source in "abc"
        for i in range(20)
    ]
    parts = split_manifest(corpus(*utterances), PARTS, seed=0)
    assert [len(part) for part in parts.values()] == [40, 12, 8]


@pytest.mark.parametrize("n_speakers", [1, 2])
def test_where_speakers_are_too_few_their_utterances_are_shared_out_and_it_is_said(
    n_speakers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    utterances = [said(f"{i}", f"line {i}", speaker=str(i % n_speakers)) for i in range(30)]
    parts = split_manifest(corpus(*utterances), PARTS, seed=0)
    assert [len(part) for part in parts.values()] == [21, 6, 3]
    assert "all.jsonl has too few speakers to hold some out: parts share" in capsys.readouterr().err


def test_one_speaker_of_most_utterances_is_not_held_out() -> None:
    utterances = [said(f"{i}", f"line {i}", speaker="one") for i in range(400)]
    utterances += [said(f"x{i}", f"other {i}", speaker=f"s{i}") for i in range(350)]
    for seed in range(10):
        parts = split_manifest(corpus(*utterances), PARTS, seed=seed)
        assert "one" in speakers_of(parts["train"])


def test_parts_that_were_made_stay_as_they_are() -> None:
    utterances = [
        replace(said(f"{i}", f"line {i % 25}"), split=("train", None, "test")[i % 3])
        for i in range(60)
    ]
    parts = split_manifest(corpus(*utterances), PARTS, seed=0)
    assert parts["test"] == utterances[2::3]
    assert len(parts["validation"]) == 4  # a tenth of the others
    made = [
        replace(u, split="validation" if u in parts["validation"] else u.split) for u in utterances
    ]
    assert split_manifest(corpus(*made), PARTS, seed=1) == {
        name: [
            replace(u, split=m.split) for u, m in zip(utterances, made, strict=True) if u in part
        ]
        for name, part in parts.items()
    }
