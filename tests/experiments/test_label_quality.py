import pytest
from experiments.label_quality import pack_then_filter, trial
from experiments.results import Row, score_texts

from distilwhisper.corpus.records import Utterance, Verdict


def row(id_: str, reference: str, label: str) -> Row:
    utterance = Utterance(id_, f"{id_}.wav", text=reference)
    [scored] = score_texts("", "train", [(utterance, label)])
    return scored


TRUTH = {
    "right": row("right", "the cat sat", "the cat sat"),
    "right too": row("right too", "it rains", "it rains"),
    "spoilt": row("spoilt", "the dog ran", "the dog ran"),
    "wrong": row("wrong", "hello there", "yellow hair"),
}


def verdicts(kept: set[str]) -> dict[str, Verdict]:
    return {id_: Verdict(id_, id_ in kept, "any") for id_ in TRUTH}


def test_a_perfect_filter_drops_what_is_bad_and_a_right_label_with_it() -> None:
    found = trial(TRUTH, verdicts({"right", "right too"}), {"spoilt"}, 0.1)
    assert (found.n_spoilt, found.recall, found.precision, found.wrong_kept) == (1, 1.0, 1.0, 0.0)
    assert found.right_lost == pytest.approx(1 / 3)  # its reference was spoilt, not the label
    assert [one.id for one in found.kept] == ["right", "right too"]


def test_a_filter_that_errs() -> None:
    found = trial(TRUTH, verdicts({"right", "spoilt", "wrong"}), {"spoilt"}, 0.1)
    assert (found.recall, found.precision) == (0.0, 0.0)  # it drops "right too" alone
    assert found.wrong_kept == pytest.approx(1 / 3)
    assert found.right_lost == pytest.approx(1 / 3)


def test_shares_of_nothing_are_unknown() -> None:
    found = trial(TRUTH, verdicts(set(TRUTH)), (), 0.1)
    assert (found.recall, found.precision) == (None, None)
    assert found.wrong_kept == 0.25


def test_a_wholly_wrong_clip_passes_in_its_window() -> None:
    # 2.6 s of 30 s: 8 words among 92 that are right are 8.0 %, within lambda = 10 %.
    long = " ".join(["rain"] * 46)
    truth = {
        "a": row("a", long, long),
        "clip": row("clip", "he said no and then he went home", "yes yes yes yes yes yes yes yes"),
        "b": row("b", long, long),
    }
    together = pack_then_filter([["a", "clip", "b"]], truth, 0.10)
    assert (together.wrong_kept, together.right_lost) == (1.0, 0.0)
    assert together.hidden == pytest.approx(1 / 3)
    assert together.errors_kept.wer == pytest.approx(0.08)
    alone = pack_then_filter([["a"], ["clip"], ["b"]], truth, 0.10)
    assert (alone.wrong_kept, alone.right_lost, alone.hidden) == (0.0, 0.0, 0.0)
    # A window that fails takes what is right with it.
    strict = pack_then_filter([["a", "clip", "b"]], truth, 0.05)
    assert (strict.wrong_kept, strict.right_lost) == (0.0, 1.0)
