"""An exported model beside its original, on speech: what it costs in words, and what it saves."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from distilwhisper.corpus.batches import load_utterances
from distilwhisper.corpus.records import Manifest, Utterance
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.evaluation.scoring import are_spaced, count_errors
from distilwhisper.extras import needed_by
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.units import SAMPLE_RATE_HZ, WINDOW_SAMPLES, samples_to_seconds
from distilwhisper.text.wer import ErrorCounts

with needed_by("checking an export", extra="train"):
    from rapidfuzz.distance import Levenshtein

# Both sides: greedy, without timestamps, one window at a time.
CHECKED_DECODING = DecodingSettings(timestamps=False, temperature=(0.0,), batch_size=1)


@dataclass(frozen=True)
class CheckedSide:
    """One of the two models on a checked set."""

    errors: ErrorCounts
    compute_s: float
    n_bytes: int  # of the weights of the original, of all files of the exported model


@dataclass(frozen=True)
class Check:
    """What came of running an exported model beside its original."""

    set: str
    unit: str  # "word"; "character" where any language of the set is written without spaces
    n_utterances: int
    n_long: int  # over 30 s, and left out
    failed: dict[str, str]  # utterance id to why it could not be read
    audio_s: float
    n_equal: int  # utterances of the same text
    n_tokens: int  # of the original's texts and of what the exported model adds to them
    n_tokens_equal: int
    original: CheckedSide
    exported: CheckedSide

    @property
    def wer_increase(self) -> float:
        """By how much the exported model's error rate is higher, a fraction."""
        return self.exported.errors.wer - self.original.errors.wer

    def fault(self, max_increase: float) -> str | None:
        """Return how much higher the error rate is, where it is so by more than some points."""
        if 100 * self.wer_increase <= max_increase + 1e-9:
            return None
        return (
            f"{100 * self.wer_increase:.2f} points more errors than the original, "
            f"{max_increase:g} are allowed"
        )

    def table(self) -> str:
        """Return the comparison as a table in Markdown."""
        sides = (self.original, self.exported)
        errors = [side.errors for side in sides]
        rate = "WER" if self.unit == "word" else "CER"
        share = self.n_tokens_equal / self.n_tokens if self.n_tokens else 1.0
        rows = [
            ["", "original", "exported"],
            ["---", "---:", "---:"],
            [f"{rate}, %", *(f"{100 * each.wer:.2f}" for each in errors)],
            ["S / D / I", *(f"{e.substitutions} / {e.deletions} / {e.insertions}" for e in errors)],
            ["tokens as the original's, %", "", f"{100 * share:.2f}"],
            ["utterances as the original's", "", f"{self.n_equal} of {self.n_utterances}"],
            ["size, MB", *(f"{side.n_bytes / 1e6:.1f}" for side in sides)],
            ["RTFx", *(f"{self.audio_s / side.compute_s:.1f}" for side in sides)],
        ]
        return "".join(f"| {' | '.join(row)} |\n" for row in rows)

    def describe(self) -> str:
        """Say what the table was measured on."""
        long = f", {self.n_long} over 30 s left out" if self.n_long else ""
        unread = f", {len(self.failed)} unreadable" if self.failed else ""
        return (
            f"`{self.set}`: {self.n_utterances} utterances{long}{unread}, {self.audio_s:.0f} s, "
            f"{self.original.errors.words} {self.unit}s"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, and the rates made of them, for programs."""
        sides = {
            name: {
                "wer": side.errors.wer,
                "errors": side.errors.errors,
                "words": side.errors.words,
                "n_bytes": side.n_bytes,
                "rtfx": round(self.audio_s / side.compute_s, 2),
            }
            for name, side in (("original", self.original), ("exported", self.exported))
        }
        audio_s = round(self.audio_s, 3)
        return {**asdict(self), "audio_s": audio_s, "wer_increase": self.wer_increase, **sides}


def check_export(
    original: Transcriber,
    exported: Callable[[Samples, str], str],
    manifest: Manifest,
    *,
    sizes: tuple[int, int],
) -> Check:
    """Run an exported model beside its original, utterance by utterance.

    Both are told the language that the original was told or has found. Reading the files is not
    timed, and neither is a first second of silence.

    The original has :data:`CHECKED_DECODING`. What has no reference, or lasts over 30 s, is left
    out. Sizes are in bytes.

    Raises:
        ValueError: nothing is left of the set, or the model does not know a language of it.
    """

    def recognised(
        samples: Samples, language: str | None
    ) -> tuple[tuple[str, str], tuple[float, float]]:
        """Return the two texts, and the seconds that they took."""
        began = time.perf_counter()
        (window,) = original.decode([samples], languages=[language])
        between = time.perf_counter()
        text = exported(samples, window.language)
        return (window.text, text), (between - began, time.perf_counter() - between)

    original.check_languages({u.id: u.language for u in manifest.utterances})
    recognised(np.zeros(SAMPLE_RATE_HZ, dtype=np.float32), None)
    spoken = [utterance for utterance in manifest.utterances if utterance.text is not None]
    failed: dict[str, str] = {}
    n_long, audio_s = 0, 0.0
    pairs: list[tuple[Utterance, tuple[str, str]]] = []
    compute_s = [0.0, 0.0]
    for utterance, samples in load_utterances(manifest, spoken):
        if isinstance(samples, Exception):
            failed[utterance.id] = str(samples)
        elif len(samples) > WINDOW_SAMPLES:
            n_long += 1
        else:
            texts, took_s = recognised(samples, utterance.language)
            pairs.append((utterance, texts))
            audio_s += samples_to_seconds(len(samples))
            compute_s = [so_far + more for so_far, more in zip(compute_s, took_s, strict=True)]
    spaced = are_spaced(utterance for utterance, _ in pairs)
    sides = []
    for side in range(2):
        rows = (count_errors(u, texts[side], spaced=spaced)["errors"] for u, texts in pairs)
        errors = sum((ErrorCounts(**row) for row in rows), ErrorCounts())
        sides.append(CheckedSide(errors, compute_s[side], sizes[side]))
    if not sides[0].errors.words:
        raise ValueError(
            f"{manifest.path}: a set to check an export on must hold utterances of at most 30 s "
            f"with references, found none that could be read of {len(manifest.utterances)}"
        )
    # As the original's tokens, whatever the other program's own are.
    tokens = [[original.tokenizer.encode(f" {t.strip()}") for t in texts] for _, texts in pairs]
    n_tokens = sum(max(map(len, both)) for both in tokens)
    return Check(
        set=manifest.path.name,
        unit="word" if spaced else "character",
        n_utterances=len(pairs),
        n_long=n_long,
        failed=failed,
        audio_s=audio_s,
        n_equal=sum(ours == theirs for ours, theirs in tokens),
        n_tokens=n_tokens,
        n_tokens_equal=n_tokens - sum(Levenshtein.distance(*both) for both in tokens),
        original=sides[0],
        exported=sides[1],
    )
