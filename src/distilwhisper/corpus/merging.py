"""Several manifests as one, and several utterances as one long recording."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from distilwhisper.corpus.batches import load_readable
from distilwhisper.corpus.records import (
    BadManifest,
    Label,
    Manifest,
    Utterance,
    audio_from,
    write_manifest,
)
from distilwhisper.speech.audio import Samples, write_wav
from distilwhisper.speech.units import samples_to_seconds, seconds_to_samples


def merge_manifests(manifests: Mapping[str, Manifest], path: Path) -> None:
    """Write the utterances of several manifests as one manifest, which appears whole.

    The names of the manifests become the sources of those of their utterances that have none.
    Audio stays where it is.

    Raises:
        BadManifest: an id is in two of them.
        StoreError: the disk is full, or the path cannot be written.
    """
    where: dict[str, Path] = {}
    twice = [
        f"{utterance.id!r} in {first} and in {manifest.path}"
        for manifest in manifests.values()
        for utterance in manifest.utterances
        if (first := where.setdefault(utterance.id, manifest.path)) != manifest.path
    ]
    if twice:
        raise BadManifest(
            f"ids must differ over all manifests that are merged, found {len(twice)} in two: "
            f"{'; '.join(twice[:3])}{' ...' if len(twice) > 3 else ''}: give those of one other ids"
        )
    merged = [
        utterance if utterance.source is not None else replace(utterance, source=name)
        for name, manifest in manifests.items()
        for utterance in moved_to(path.parent, manifest)
    ]
    write_manifest(path, merged)


def moved_to(folder: Path, manifest: Manifest) -> list[Utterance]:
    """Return a manifest's utterances as one in another folder has them; audio stays where it is."""
    return [
        replace(utterance, audio=audio_from(folder, manifest.audio_source(utterance)))
        for utterance in manifest.utterances
    ]


def with_labels_as_texts(manifest: Manifest, labels: Mapping[str, Label]) -> Manifest:
    """Return a manifest in which an utterance without a text has its label's, if it has one."""
    with_texts = (
        replace(utterance, text=labels[utterance.id].text)
        if utterance.text is None and labels[utterance.id].error is None
        else utterance
        for utterance in manifest.utterances
    )
    return replace(manifest, utterances=tuple(with_texts))


def join_recordings(
    manifest: Manifest, utterances: Sequence[Utterance], out: Path, *, pause_s: float
) -> Path:
    """Join utterances to ``out/long.wav``, whose text is known to the word.

    Returns the path of its manifest, of a single line. Audio is read as by ``load_readable``.
    """
    pause: Samples = np.zeros(seconds_to_samples(pause_s), dtype=np.float32)
    loaded = load_readable(manifest, utterances)
    whole = np.concatenate([piece for _, samples in loaded for piece in (samples, pause)])
    out.mkdir(parents=True, exist_ok=True)
    write_wav(out / "long.wav", whole)
    record = Utterance(
        id="long",
        audio="long.wav",
        duration_s=round(samples_to_seconds(len(whole)), 3),
        text=" ".join(utterance.text or "" for utterance in utterances),
        language=utterances[0].language,
        source=f"{len(utterances)} utterances joined with {pause_s:g} s of silence",
    )
    write_manifest(out / "manifest.jsonl", [record])
    return out / "manifest.jsonl"
