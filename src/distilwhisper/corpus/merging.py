"""Several manifests as one, whose utterances know which of them they come from."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from distilwhisper.corpus.records import (
    BadManifest,
    Manifest,
    Utterance,
    audio_from,
    write_manifest,
)


def merge_manifests(manifests: Mapping[str, Manifest], path: Path) -> None:
    """Write the utterances of several manifests as one manifest, which appears whole.

    Args:
        manifests: by name, which becomes the source of those of their utterances that have none.
        path: the new manifest, a .jsonl file; audio stays where it is.

    Raises:
        BadManifest: an id is in two of them.
        StoreError: the disk is full, or the path cannot be written.
    """
    _check_ids(manifests.values())
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


def _check_ids(manifests: Iterable[Manifest]) -> None:
    where: dict[str, Path] = {}
    twice: list[str] = []
    for manifest in manifests:
        for utterance in manifest.utterances:
            first = where.setdefault(utterance.id, manifest.path)
            if first != manifest.path:
                twice.append(f"{utterance.id!r} in {first} and in {manifest.path}")
    if twice:
        raise BadManifest(
            f"ids must differ over all manifests that are merged, found {len(twice)} in two: "
            f"{'; '.join(twice[:3])}{' ...' if len(twice) > 3 else ''}: give the utterances of "
            "one of them other ids"
        )
