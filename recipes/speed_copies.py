"""Copy a corpus at other speeds: other voices to a model, at no cost but disk.

    python recipes/speed_copies.py train.jsonl --out data/copies

Every utterance is played 10 % slower or faster, pitch and tempo together, by chance and the same
for the same seed. A copy is labelled like any other recording: its timestamps have moved. Unlike
training.augment, which changes sound anew every epoch, copies can be used with cached encoder
outputs.

Writes DIR/manifest.jsonl and one wav file an utterance. What cannot be read, or would last over
30 s, is left out.
"""

import argparse
import itertools
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from distilwhisper.corpus.batches import load_utterances
from distilwhisper.corpus.records import Manifest, Utterance, read_manifest, write_manifest
from distilwhisper.speech.audio import write_wav
from distilwhisper.speech.augment import change_speed
from distilwhisper.speech.units import WINDOW_S, samples_to_seconds

SPEEDS = (0.9, 1.1)


def main() -> None:
    """Write the copies that the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    manifest = read_manifest(options.manifest)
    place = replace(manifest, utterances=())  # all that a process needs of it
    make = partial(copy, manifest=place, out=options.out.absolute(), seed=options.seed)
    with ProcessPoolExecutor(options.processes) as pool:
        made = [*pool.map(make, itertools.count(), manifest.utterances, chunksize=32)]
    copies = [utterance for utterance in made if utterance is not None]
    write_manifest(options.out / "manifest.jsonl", copies)
    hours = sum(utterance.duration_s or 0.0 for utterance in copies) / 3600
    print(
        f"{options.out / 'manifest.jsonl'}: {len(copies)} of {len(made)} utterances, {hours:.2f} h"
    )


def copy(
    number: int, utterance: Utterance, *, manifest: Manifest, out: Path, seed: int
) -> Utterance | None:
    """Write one utterance at another speed; return its row."""
    speed = random.Random(f"{seed}/{utterance.id}").choice(SPEEDS)
    ((_, samples),) = load_utterances(manifest, [utterance], n_threads=1)
    if isinstance(samples, Exception) or not len(samples):
        return None
    changed = change_speed(samples, speed)
    duration_s = samples_to_seconds(len(changed))
    if duration_s > WINDOW_S:
        return None
    path = out / f"{number:06d}.wav"
    write_wav(path, changed)
    return replace(
        utterance,
        id=f"{utterance.id}@{speed:g}",
        audio=path.name,
        start_s=0.0,
        duration_s=duration_s,
        channel=None,
        speaker=None if utterance.speaker is None else f"{utterance.speaker}@{speed:g}",
        source=None if utterance.source is None else f"{utterance.source}@speed",
    )


if __name__ == "__main__":
    main()
