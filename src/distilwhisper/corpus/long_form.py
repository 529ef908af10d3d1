"""A long recording made of known utterances, so that its text is known to the word."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distilwhisper.corpus.batches import load_readable
from distilwhisper.corpus.records import Manifest, Utterance, write_manifest
from distilwhisper.speech.audio import Samples, write_wav
from distilwhisper.speech.units import samples_to_seconds, seconds_to_samples


def join_recordings(
    manifest: Manifest, utterances: Sequence[Utterance], out: Path, *, pause_s: float
) -> Path:
    """Write one long recording and its manifest of a single line.

    Args:
        manifest: which the utterances are of.
        utterances: with references, in the order in which they are joined.
        out: folder for ``long.wav`` and ``manifest.jsonl``.
        pause_s: silence between two utterances.

    Returns:
        The manifest's path.

    Raises:
        UnreadableRecording: an utterance's audio cannot be read.
    """
    pause: Samples = np.zeros(seconds_to_samples(pause_s), dtype=np.float32)
    pieces: list[Samples] = []
    for _, samples in load_readable(manifest, utterances):
        pieces += [samples, pause]
    whole = np.concatenate(pieces)
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
    path = out / "manifest.jsonl"
    write_manifest(path, [record])
    return path
