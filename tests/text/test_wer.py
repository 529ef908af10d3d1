import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilwhisper.text.wer import (
    Alignment,
    ErrorCounts,
    align_words,
    character_errors,
    repeated_ngrams,
    word_errors,
)

# Few words, so that two random texts share many of them.
texts = st.lists(st.sampled_from(["a", "b", "c", "the", "cat"]), max_size=12).map(" ".join)
counts = st.builds(ErrorCounts, *[st.integers(0, 1000)] * 4)


def edit_distance(reference: list[str], hypothesis: list[str]) -> int:
    """The textbook's table, row by row: an implementation that shares nothing with ours."""
    row = list(range(len(hypothesis) + 1))
    for i, expected in enumerate(reference, start=1):
        diagonal, row[0] = row[0], i
        for j, found in enumerate(hypothesis, start=1):
            diagonal, row[j] = row[j], min(
                row[j] + 1, row[j - 1] + 1, diagonal + (expected != found)
            )  # fmt: skip
    return row[-1]


# --- counting -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("the cat sat", "the cat sat", ErrorCounts(0, 0, 0, 3)),
        ("the cat sat", "the hat sat", ErrorCounts(1, 0, 0, 3)),
        ("the cat sat", "the sat", ErrorCounts(0, 1, 0, 3)),
        ("the cat sat", "the black cat sat", ErrorCounts(0, 0, 1, 3)),
        ("the cat sat", "", ErrorCounts(0, 3, 0, 3)),
        ("", "thank you", ErrorCounts(0, 0, 2, 0)),
        ("", "", ErrorCounts(0, 0, 0, 0)),
        (" \n", "\t", ErrorCounts(0, 0, 0, 0)),
        ("  the\tcat ", "the cat", ErrorCounts(0, 0, 0, 2)),
    ],
)
def test_words_are_counted_by_kind(reference: str, hypothesis: str, expected: ErrorCounts) -> None:
    assert word_errors(reference, hypothesis) == expected


def test_characters_are_counted_without_white_space() -> None:
    assert character_errors("你好 世界", "你好世 畀") == ErrorCounts(1, 0, 0, 4)
    assert character_errors("", " ") == ErrorCounts(0, 0, 0, 0)


@given(reference=texts, hypothesis=texts)
def test_errors_equal_the_edit_distance(reference: str, hypothesis: str) -> None:
    errors = word_errors(reference, hypothesis).errors
    assert errors == edit_distance(reference.split(), hypothesis.split())


@given(reference=texts, hypothesis=texts)
def test_errors_lie_between_the_difference_and_the_maximum(reference: str, hypothesis: str) -> None:
    n_reference, n_hypothesis = len(reference.split()), len(hypothesis.split())
    found = word_errors(reference, hypothesis)
    assert found.words == n_reference
    assert abs(n_reference - n_hypothesis) <= found.errors <= max(n_reference, n_hypothesis)
    assert found.insertions - found.deletions == n_hypothesis - n_reference


@given(text=texts)
def test_a_text_has_no_errors_against_itself(text: str) -> None:
    assert word_errors(text, text) == ErrorCounts(words=len(text.split()))


@given(reference=texts, hypothesis=texts)
def test_swapping_the_texts_keeps_the_total(reference: str, hypothesis: str) -> None:
    forth, back = word_errors(reference, hypothesis), word_errors(hypothesis, reference)
    assert forth.errors == back.errors
    # What one way inserts, the other deletes; single kinds may differ between two alignments
    # that are equally good, so the difference is what can be compared.
    assert forth.insertions - forth.deletions == back.deletions - back.insertions


@given(reference=texts, hypothesis=texts)
def test_only_deletions_for_a_part_of_the_reference(reference: str, hypothesis: str) -> None:
    longer = f"{reference} {hypothesis}"
    assert word_errors(longer, hypothesis) == ErrorCounts(
        deletions=len(reference.split()), words=len(longer.split())
    )
    assert word_errors(hypothesis, longer) == ErrorCounts(
        insertions=len(reference.split()), words=len(hypothesis.split())
    )


# --- rates ----------------------------------------------------------------------------------


def test_rates_are_over_reference_words() -> None:
    found = ErrorCounts(substitutions=3, deletions=2, insertions=1, words=4)
    assert (found.errors, found.wer) == (6, 1.5)
    assert (found.ser, found.der, found.ier) == (0.75, 0.5, 0.25)


def test_rates_without_reference_words() -> None:
    assert ErrorCounts().wer == ErrorCounts().ser == ErrorCounts().der == ErrorCounts().ier == 0.0
    invented = word_errors("", "thank you")
    assert (invented.wer, invented.ier) == (math.inf, math.inf)
    assert (invented.ser, invented.der) == (0.0, 0.0)


def test_a_corpus_divides_once() -> None:
    rows = [word_errors("a", "b"), word_errors("a b c d e f g h i", "a b c d e f g h i")]
    corpus = sum(rows, ErrorCounts())
    assert corpus == ErrorCounts(substitutions=1, words=10)
    assert corpus.wer == 0.1  # the mean of the two clips would be 0.5


def test_words_invented_in_silence_count_in_a_corpus() -> None:
    rows = [word_errors("", "thank you"), word_errors("a b c d", "a b c d")]
    assert sum(rows, ErrorCounts()).wer == 0.5


@given(rows=st.lists(counts, max_size=5))
def test_sums_keep_every_count(rows: list[ErrorCounts]) -> None:
    corpus = sum(rows, ErrorCounts())
    assert corpus == sum(reversed(rows), ErrorCounts())
    assert corpus.errors == sum(row.errors for row in rows)
    assert corpus.words == sum(row.words for row in rows)
    assert corpus.substitutions == sum(row.substitutions for row in rows)


# --- alignment ------------------------------------------------------------------------------


def test_an_alignment_shows_each_kind() -> None:
    # Long enough that no other alignment is as good.
    assert align_words("the cat sat down at home", "a cat down at home now") == [
        Alignment("substitute", "the", "a"),
        Alignment("equal", "cat", "cat"),
        Alignment("delete", "sat", None),
        Alignment("equal", "down", "down"),
        Alignment("equal", "at", "at"),
        Alignment("equal", "home", "home"),
        Alignment("insert", None, "now"),
    ]
    assert align_words("", "") == []


@given(reference=texts, hypothesis=texts)
def test_an_alignment_holds_both_texts_and_the_counts(reference: str, hypothesis: str) -> None:
    steps = align_words(reference, hypothesis)
    assert [step.reference for step in steps if step.reference is not None] == reference.split()
    assert [step.hypothesis for step in steps if step.hypothesis is not None] == hypothesis.split()
    for step in steps:
        assert (step.kind == "equal") == (step.reference == step.hypothesis)
    kinds = Counter(step.kind for step in steps)
    found = word_errors(reference, hypothesis)
    assert kinds["substitute"] == found.substitutions
    assert kinds["delete"] == found.deletions
    assert kinds["insert"] == found.insertions


# --- repetition -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("predictions", "expected"),
    [
        ([], 0),
        (["a b c d"], 0),
        (["a b c d e"], 0),
        (["a b c d e f a b c d e"], 1),
        (["thank you " * 10], 14),  # 20 words, 16 5-grams, 2 of them distinct
        (["a b c d e", "a b c d e"], 1),
        (["a b c", "d e", "", "f a b", "c d e"], 1),  # over the ends of texts
    ],
)
def test_repeated_5_grams(predictions: list[str], expected: int) -> None:
    assert repeated_ngrams(predictions) == expected


@given(predictions=st.lists(texts, max_size=4), n=st.integers(1, 6))
def test_repetition_equals_the_published_formula(predictions: list[str], n: int) -> None:
    words = " ".join(predictions).split()
    ngrams = list(zip(*(words[i:] for i in range(n)), strict=False))
    assert repeated_ngrams(iter(predictions), n=n) == len(ngrams) - len(set(ngrams))


def test_an_ngram_has_words() -> None:
    with pytest.raises(ValueError, match="found n = 0"):
        repeated_ngrams(["a b"], n=0)


# --- equal to jiwer ---------------------------------------------------------------------------


@pytest.mark.reference
@given(pairs=st.lists(st.tuples(texts.filter(bool), texts), min_size=1, max_size=5))
def test_a_corpus_equals_jiwer(pairs: list[tuple[str, str]]) -> None:
    """Totals and rate are exact. Which of several best alignments gives the kinds is not agreed."""
    jiwer = pytest.importorskip("jiwer")
    references, hypotheses = [one for one, _ in pairs], [other for _, other in pairs]
    theirs = jiwer.process_words(references, hypotheses)
    ours = sum((word_errors(*pair) for pair in pairs), ErrorCounts())
    assert ours.errors == theirs.substitutions + theirs.deletions + theirs.insertions
    assert ours.words == theirs.hits + theirs.substitutions + theirs.deletions
    assert ours.wer == theirs.wer  # both divide the same two integers once


@pytest.mark.reference
@given(reference=texts.filter(bool), hypothesis=texts)
def test_characters_equal_jiwer_without_white_space(reference: str, hypothesis: str) -> None:
    jiwer = pytest.importorskip("jiwer")
    expected = jiwer.cer(reference.replace(" ", ""), hypothesis.replace(" ", ""))
    assert character_errors(reference, hypothesis).wer == expected
