"""Word error rates of a student in training, on sets that it does not learn from."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from distilwhisper.corpus.batches import load_utterances
from distilwhisper.corpus.records import Manifest, Utterance
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.units import WINDOW_S, WINDOW_SAMPLES
from distilwhisper.text.normalize import scoring_rule
from distilwhisper.text.wer import ErrorCounts, text_errors
from distilwhisper.training.ranks import Ranks


def check_set(manifest: Manifest, transcriber: Transcriber | None = None) -> None:
    """Check before a run what would end it at its first checkpoint.

    Raises:
        ValueError: the set holds no text that is left by the normaliser, utterances over 30 s, or a
            language that the student does not know.
    """
    utterances = _spoken(manifest)
    if not any(_count(utterance, "").words for utterance in utterances):
        raise ValueError(
            f"{manifest.path} must hold utterances with a text to validate by, found "
            f"{len(utterances)} texts, of which normalising leaves no word"
        )
    too_long = [u.id for u in utterances if (u.duration_s or 0.0) > WINDOW_S]
    if too_long:
        raise ValueError(
            f"validation utterances must last at most {WINDOW_S:g} s, found {len(too_long)} "
            f"longer ones in {manifest.path}, first {too_long[0]!r}: leave them to the test set"
        )
    if transcriber is not None:
        transcriber.check_languages({u.id: u.language for u in utterances})


def validation_wers(
    transcriber: Transcriber, sets: Mapping[str, Manifest], ranks: Ranks
) -> dict[str, float]:
    """Return a student's WER on every set.

    In scripts without spaces characters are counted. An utterance that cannot be read, or turns out
    to be no window (over 30 s, empty, not of numbers), counts as an empty hypothesis.
    Each rank transcribes a part; all get the whole.
    """
    wers = {}
    for name, manifest in sets.items():
        utterances = _spoken(manifest)[ranks.rank :: ranks.n_ranks]
        texts = _texts(transcriber, manifest, utterances)
        counts = sum((_count(u, texts.get(u.id, "")) for u in utterances), ErrorCounts())
        errors, words = ranks.total(counts.errors, counts.words)
        wers[name] = errors / words
    return wers


def _spoken(manifest: Manifest) -> list[Utterance]:
    return [utterance for utterance in manifest.utterances if utterance.text]


def _texts(
    transcriber: Transcriber, manifest: Manifest, utterances: Sequence[Utterance]
) -> dict[str, str]:
    """Return the hypotheses of the utterances that are windows of sound, by id."""
    ids: list[str] = []

    def windows() -> Iterator[tuple[Samples, str | None]]:
        for utterance, samples in load_utterances(manifest, utterances):
            if isinstance(samples, Exception) or not 0 < len(samples) <= WINDOW_SAMPLES:
                continue
            if np.isfinite(samples).all():
                ids.append(utterance.id)
                yield samples, utterance.language

    return {ids[number]: window.text for number, window in transcriber.decode_each(windows())}


def _count(utterance: Utterance, text: str) -> ErrorCounts:
    rule = scoring_rule(utterance.text, utterance.language)
    reference = rule.normalize(utterance.text or "")
    return text_errors(reference, rule.normalize(text), spaced=rule.spaced)
