"""Labelling with one window per clip against short clips that share windows: speed and errors.

    python benchmarks/label_packing.py MODEL MANIFEST [--every 3] [--rounds 3]

Both sides label the same clips with the same loaded model, greedily, in float32 on one thread, and
take turns: A B A B. Speed is clips per second of the process's own computing time, so that other
work on the machine counts less. MANIFEST needs references.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from distilwhisper.corpus.records import Label, Utterance, read_manifest
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.model.hardware import Hardware
from distilwhisper.speech.units import WINDOW_S
from distilwhisper.stages.label import label_utterances
from distilwhisper.text.normalize import normalizer_for
from distilwhisper.text.wer import ErrorCounts, word_errors


def main() -> None:
    """Measure, and print two lines of a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--every", type=int, default=1, help="take every n-th clip")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transcriber = Transcriber.from_model(
        arguments.model, DecodingSettings(temperature=(0.0,)), Hardware("cpu", "float32")
    )
    manifest = read_manifest(arguments.manifest)
    clips = [u for u in manifest.utterances if (u.duration_s or 0.0) <= WINDOW_S]
    clips = clips[:: arguments.every]
    speeds: dict[bool, list[float]] = {False: [], True: []}
    labels: dict[bool, list[Label]] = {False: [], True: []}
    for turn in range(arguments.rounds):
        part = clips[turn :: arguments.rounds]
        for pack in (False, True):
            began = time.process_time()
            labels[pack] += label_utterances(
                transcriber, manifest, part, pack=pack, on_progress=lambda n, audio_s=0.0: None
            )
            speeds[pack].append(len(part) / (time.process_time() - began))
    by_id = {clip.id: clip for clip in clips}
    print(f"{len(clips)} clips")
    for pack, name in ((False, "one window a clip"), (True, "shared windows")):
        errors = count_errors(by_id, labels[pack])
        shared = sum(label.no_speech_prob is None for label in labels[pack])
        each = ", ".join(f"{speed:.2f}" for speed in speeds[pack])
        print(
            f"{name}: {statistics.median(speeds[pack]):.2f} clips/s ({each}), "
            f"WER {100 * errors.wer:.1f} % ({errors.substitutions} S, {errors.deletions} D, "
            f"{errors.insertions} I of {errors.words}), {shared} from shared windows"
        )


def count_errors(clips: dict[str, Utterance], labels: list[Label]) -> ErrorCounts:
    """Return the errors of labels against the references, summed."""
    total = ErrorCounts(0, 0, 0, 0)
    for label in labels:
        normalize = normalizer_for(clips[label.id].language or "en")
        total += word_errors(normalize(clips[label.id].text or ""), normalize(label.text))
    return total


if __name__ == "__main__":
    main()
