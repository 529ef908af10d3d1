"""Errors between two transcripts, counted first and divided last."""

import math
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from functools import partial
from itertools import zip_longest
from operator import add
from typing import Literal, cast

from distilwhisper.extras import needed_by

with needed_by("counting errors", extra="train"):
    from rapidfuzz.distance import Levenshtein


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """Word errors of one transcript or, as ``sum(counts, ErrorCounts())``, of a corpus.

    Rates come from the sums, never from the mean of rates: that would give a word in a short clip
    more weight. The total is the edit distance and exact. Its split into kinds is that of one best
    alignment; where several are equally good, another tool may split it in another way.
    """

    substitutions: int = 0  # words replaced by others
    deletions: int = 0  # reference words that the hypothesis lacks
    insertions: int = 0  # hypothesis words that the reference lacks
    words: int = 0  # words of the reference; characters, where characters were counted

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        return ErrorCounts(*map(add, astuple(self), astuple(other)))

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def wer(self) -> float:
        """Errors over reference words, a fraction that may exceed 1.

        Without reference words, here and below: 0.0 if there are no errors either, else infinity.
        """
        return self._per_word(self.errors)

    @property
    def rate(self) -> float | None:
        """The same, where there are reference words to divide by."""
        return self.wer if self.words else None

    @property
    def ser(self) -> float:
        """Substitutions over reference words."""
        return self._per_word(self.substitutions)

    @property
    def der(self) -> float:
        """Deletions over reference words."""
        return self._per_word(self.deletions)

    @property
    def ier(self) -> float:
        """Insertions over reference words."""
        return self._per_word(self.insertions)

    def _per_word(self, count: int) -> float:
        if self.words == 0:
            return math.inf if count else 0.0
        return count / self.words


Step = Literal["equal", "substitute", "delete", "insert"]


@dataclass(frozen=True, slots=True)
class Alignment:
    """One step of the way from a reference to a hypothesis."""

    kind: Step  # what happened to the word
    reference: str | None  # the reference's word; None for an insertion
    hypothesis: str | None  # the hypothesis's word; None for a deletion


def text_errors(reference: str, hypothesis: str, *, spaced: bool) -> ErrorCounts:
    """Count what to change to turn a reference into a hypothesis, normalised in the same way.

    That is words, which white space separates, or characters, for scripts that are written without
    spaces between words. There white space does not count: the normaliser leaves a space for each
    punctuation mark, and nobody pronounces those. What counts is a Unicode code point, and the
    ``words`` of the counts are the characters of the reference. This is Whisper's normaliser with
    split letters, followed by a word error rate.
    """
    expected, actual = (
        text.split() if spaced else "".join(text.split()) for text in (reference, hypothesis)
    )
    kinds = [step.tag for step in Levenshtein.editops(expected, actual)]
    return ErrorCounts(
        substitutions=kinds.count("replace"),
        deletions=kinds.count("delete"),
        insertions=kinds.count("insert"),
        words=len(expected),
    )


word_errors = partial(text_errors, spaced=True)
character_errors = partial(text_errors, spaced=False)


def align_words(reference: str, hypothesis: str) -> list[Alignment]:
    """The word-by-word difference whose counts :func:`word_errors` gives.

    Reading the reference's words in order gives the reference, and likewise the hypothesis.
    """
    expected, actual = reference.split(), hypothesis.split()
    steps: list[Alignment] = []
    for step in Levenshtein.opcodes(expected, actual):
        old = expected[step.src_start : step.src_end]
        new = actual[step.dest_start : step.dest_end]
        kind = cast(Step, "substitute" if step.tag == "replace" else step.tag)
        steps += [Alignment(kind, *words) for words in zip_longest(old, new)]
    return steps


def repeated_ngrams(texts: Iterable[str], *, n: int = 5) -> int:
    """How many n-grams of a set of texts have occurred before in it.

    All n-grams, of ``n`` words each, less the distinct ones, over the texts joined in their order,
    so that one may begin in one text and end in the next. With n = 5, on normalised predictions,
    this is the 5-Dup of the Distil-Whisper paper. It grows with the size of the set: compare it on
    one set only.

    Source: arXiv:2311.00430, table 8; huggingface/distil-whisper,
    training/flax/run_pt_long_form_transcription.py, ``compute_metrics``.
    """
    if n < 1:
        raise ValueError(f"an n-gram must have at least 1 word, found n = {n}")
    words = [word for text in texts for word in text.split()]
    ngrams = list(zip(*(words[first:] for first in range(n)), strict=False))
    return len(ngrams) - len({*ngrams})
