"""Pairs of sound and reference spoilt on purpose, so that it is known what a filter is to find."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np

from distilwhisper.checks import SHARE, ruled
from distilwhisper.corpus.batches import load_readable
from distilwhisper.corpus.records import (
    Label,
    Utterance,
    Verdict,
    read_labels,
    read_manifest,
    write_manifest,
)
from distilwhisper.run.stages import fingerprint
from distilwhisper.speech.audio import Samples, write_wav
from distilwhisper.speech.noise import mix_at_snr, white_noise
from distilwhisper.speech.units import samples_to_seconds
from distilwhisper.stages.filter import judge
from distilwhisper.stages.label import label_manifests
from distilwhisper.stages.settings import Workers
from distilwhisper.text.normalize import scoring_rule
from experiments.cells import digest, model_folder
from experiments.context import Context
from experiments.results import Row, score_texts
from experiments.settings import LabelledSettings
from experiments.students import Corpus, train_set

Generator: TypeAlias = np.random.Generator
SpoilText: TypeAlias = Callable[[Utterance, Generator], str]
SpoilSound: TypeAlias = Callable[[Samples, Generator], Samples]


@dataclass(frozen=True)
class SpoilingSettings(LabelledSettings):
    """How many pairs are spoilt, and how much."""

    corrupted_share: float = ruled(0.2, SHARE)
    """Share of the utterances that are spoilt, the same ones in every way."""
    corrupted_words: float = ruled(0.2, SHARE)
    """Share of the words of a spoilt reference that are wrong, or gone."""
    corrupted_snr_db: float = 0.0
    """Ratio of speech to white noise in spoilt sound."""


@dataclass(frozen=True)
class SpoiltPairs:
    """Pairs that were spoilt in one way, by id of the utterance."""

    truth: Mapping[str, Row]  # their labels against the right references
    verdicts: Mapping[str, Verdict]  # of the pair as it was judged


def spoil_pairs(
    context: Context[SpoilingSettings], corpus: Corpus, ids: Sequence[str]
) -> dict[str, SpoiltPairs]:
    """Spoil the same share of some utterances in every way, and judge what comes of it.

    Args:
        context: says how many, and how much.
        corpus: with the labels of the pairs as they are.
        ids: of the utterances to draw from; they have labels and references.
    """
    settings = context.settings
    by_id = {utterance.id: utterance for utterance in corpus.manifest.utterances}
    chosen = [by_id[id_] for id_ in _drawn(ids, settings.corrupted_share, seed=settings.seed)]
    spoiler = Spoiler([by_id[id_] for id_ in ids], settings.corrupted_words)
    texts: dict[str, SpoilText] = {
        "reference, other words": spoiler.other_words,
        "reference, words gone": spoiler.words_gone,
        "reference, another utterance's": spoiler.other_text,
    }
    sounds: dict[str, SpoilSound] = {
        f"sound, noise at {settings.corrupted_snr_db:g} dB": (
            lambda samples, generator: add_noise(samples, generator, settings.corrupted_snr_db)
        ),
        "sound, second half gone": lambda samples, _: first_half(samples),
    }
    return {
        **{way: _with_texts(context, corpus, chosen, way, spoil) for way, spoil in texts.items()},
        **{way: _with_sounds(context, corpus, chosen, way, spoil) for way, spoil in sounds.items()},
    }


def _drawn(ids: Sequence[str], share: float, *, seed: int) -> list[str]:
    n_drawn = max(1, round(share * len(ids)))
    return [ids[i] for i in sorted(np.random.default_rng(seed).permutation(len(ids))[:n_drawn])]


def _generator(context: Context[SpoilingSettings], way: str, utterance: Utterance) -> Generator:
    """Return what is drawn for an utterance, whichever others are spoilt."""
    return np.random.default_rng(int(digest([context.settings.seed, way, utterance.id]), 16))


# References


@dataclass(frozen=True)
class Spoiler:
    """Writes wrong references, of the words and texts of right ones.

    Args:
        utterances: the right ones.
        share: of a reference's words that are made wrong; one at least.

    Words are characters where they are not spaced.
    """

    utterances: Sequence[Utterance]
    share: float

    def other_words(self, utterance: Utterance, generator: Generator) -> str:
        """Put words of any references in the place of some words.

        Raises:
            ValueError: there are no others.
        """
        words = _words(utterance)
        for place in self._places(words, generator):
            words[place] = _other(self._vocabulary, words[place], utterance, generator)
        return _joined(words, utterance)

    def words_gone(self, utterance: Utterance, generator: Generator) -> str:
        """Leave some words out."""
        words = _words(utterance)
        gone = self._places(words, generator)
        return _joined([word for place, word in enumerate(words) if place not in gone], utterance)

    def other_text(self, utterance: Utterance, generator: Generator) -> str:
        """Return another utterance's reference, which says something else.

        Raises:
            ValueError: all say the same.
        """
        return _other(self._texts, utterance.text or "", utterance, generator)

    def _places(self, words: Sequence[str], generator: Generator) -> set[int]:
        n_wrong = min(len(words), max(1, math.ceil(self.share * len(words))))
        return set(generator.choice(len(words), n_wrong, replace=False).tolist())

    @cached_property
    def _texts(self) -> list[str]:
        return [utterance.text or "" for utterance in self.utterances]

    @cached_property
    def _vocabulary(self) -> list[str]:
        return sorted({word for utterance in self.utterances for word in _words(utterance)})


def _words(utterance: Utterance) -> list[str]:
    text = utterance.text or ""
    return text.split() if scoring_rule(utterance.text, utterance.language).spaced else list(text)


def _joined(words: Sequence[str], utterance: Utterance) -> str:
    return (" " if scoring_rule(utterance.text, utterance.language).spaced else "").join(words)


def _other(choices: Sequence[str], text: str, of: Utterance, generator: Generator) -> str:
    """Return a choice that is not the same text, however it is written."""
    normalize = scoring_rule(of.text, of.language).normalize
    first = int(generator.integers(len(choices)))
    for choice in (*choices[first:], *choices[:first]):
        if normalize(choice) != normalize(text):
            return choice
    raise ValueError(
        f"a wrong reference for {of.id!r} must differ from {text!r}, found nothing else in the "
        "references of the manifest: name one with more texts"
    )


def score_label(context: Context[SpoilingSettings], utterance: Utterance, label: Label) -> Row:
    """Count a label's errors as the filter does, which judges each utterance by its own script."""
    [row] = score_texts("", train_set(context).name, [(utterance, label.text)])
    return row


def _with_texts(
    context: Context[SpoilingSettings],
    corpus: Corpus,
    chosen: Sequence[Utterance],
    way: str,
    spoil: SpoilText,
) -> SpoiltPairs:
    """Judge labels by wrong references; they are as good as before."""
    truth, verdicts = {}, {}
    for utterance in chosen:
        label = corpus.labels[utterance.id]
        wrong = replace(utterance, text=spoil(utterance, _generator(context, way, utterance)))
        truth[utterance.id] = score_label(context, utterance, label)
        verdicts[utterance.id] = judge(wrong, label, context.settings.filter)
    return SpoiltPairs(truth, verdicts)


# Sound


def add_noise(samples: Samples, generator: Generator, snr_db: float) -> Samples:
    """Return speech under white noise, not louder than can be written; silence stays silent."""
    if not samples.any():
        return samples
    mixed = mix_at_snr(samples, white_noise(len(samples), generator), snr_db)
    return mixed / max(1.0, float(np.abs(mixed).max()))


def first_half(samples: Samples) -> Samples:
    """Return what is said first, one sample at least."""
    return samples[: max(1, len(samples) // 2)]


def _with_sounds(
    context: Context[SpoilingSettings],
    corpus: Corpus,
    chosen: Sequence[Utterance],
    way: str,
    spoil: SpoilSound,
) -> SpoiltPairs:
    """Label wrong sound anew, and judge that by the right references."""
    settings = context.settings
    made_of = [
        fingerprint(corpus.manifest.path), [u.id for u in chosen], way, settings.seed,
        settings.teacher, asdict(settings.label),
    ]  # fmt: skip
    folder = context.folder / "spoilt" / digest(made_of)
    manifest = folder / "sound" / "manifest.jsonl"
    if not manifest.exists():
        _write_sounds(context, corpus, chosen, way, spoil, manifest)
    label_manifests(
        {manifest: folder / "labels"},
        str(model_folder(settings.teacher)),
        settings.label,
        Workers(settings.hardware),
        force=context.force,
    )
    labels = read_labels(folder / "labels")
    truth, verdicts = {}, {}
    for utterance in read_manifest(manifest).utterances:
        label = labels[utterance.id]
        truth[utterance.id] = score_label(context, utterance, label)
        verdicts[utterance.id] = judge(utterance, label, settings.filter)
    return SpoiltPairs(truth, verdicts)


def _write_sounds(
    context: Context[SpoilingSettings],
    corpus: Corpus,
    chosen: Sequence[Utterance],
    way: str,
    spoil: SpoilSound,
    manifest: Path,
) -> None:
    """Write spoilt sound, and last the manifest, by which it is known to be whole."""
    manifest.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for number, (utterance, samples) in enumerate(load_readable(corpus.manifest, chosen)):
        spoilt = spoil(samples, _generator(context, way, utterance))
        name = f"{number:06d}.wav"
        write_wav(manifest.parent / name, spoilt)
        written.append(
            replace(
                utterance,
                audio=name,
                start_s=0.0,
                duration_s=samples_to_seconds(len(spoilt)),
                channel=None,
            )
        )
    write_manifest(manifest, written)
