"""Live captions of long files: how late their words are settled, and what they cost in words.

The sound comes as from a microphone, on a clock that runs on while a pass is computed, by the time
the processor worked on it: that is what one core does that has nothing else to do. Run it with
OMP_NUM_THREADS=1.

    python benchmarks/live_captions.py MANIFEST MODEL [--margin SECONDS]
"""

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from distilwhisper.corpus.batches import load_utterances
from distilwhisper.corpus.records import read_manifest
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.model.hardware import Hardware
from distilwhisper.serving.captions import Captions, CaptionSettings, live_settings
from distilwhisper.speech.audio import Samples
from distilwhisper.speech.units import seconds_to_samples
from distilwhisper.text.normalize import normalizer_for
from distilwhisper.text.wer import ErrorCounts, word_errors

FED_S = 0.1  # as a page sends it


@dataclass(frozen=True)
class Captioned:
    """What came of one file."""

    text: str
    delays_s: list[float]  # of each word, behind its end
    busy_s: float
    n_passes: int


def caption(transcriber: Transcriber, samples: Samples, settings: CaptionSettings) -> Captioned:
    """Caption a recording on a clock of its own."""
    captions = Captions(settings)
    silence = np.zeros(seconds_to_samples(2.0), dtype=np.float32)
    sound = np.concatenate([samples, silence])  # the speaker has stopped
    fed = n_passes = 0
    clock_s = busy_s = 0.0
    text, delays_s = "", []
    while fed < len(sound) or (one := captions.next_pass()) is not None:
        clock_s = max(clock_s, fed / 16_000)
        ready = min(seconds_to_samples(clock_s), len(sound))
        if ready > fed:
            captions.feed(sound[fed:ready])
            fed = ready
        one = captions.next_pass()
        if one is None:
            clock_s += FED_S
            continue
        began_s = time.process_time()
        words = one.fit(transcriber).transcribe(one.samples).words if len(one.samples) else ()
        took_s = time.process_time() - began_s
        clock_s, busy_s, n_passes = clock_s + took_s, busy_s + took_s, n_passes + 1
        for word in captions.settle(one, words):
            text += word.text
            delays_s.append(clock_s - word.end)
    return Captioned(text, delays_s, busy_s, n_passes)


def main() -> None:
    """Print a line for each file, and one for all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("model")
    parser.add_argument("--margin", type=float)
    parser.add_argument("--files", type=int)
    parser.add_argument("--dtype", default="auto")
    asked = parser.parse_args()
    base = DecodingSettings(language="en")
    offline = Transcriber.from_model(asked.model, base, Hardware("cpu", asked.dtype))
    live = replace(offline, settings=live_settings(base, asked.margin))
    normalize = normalizer_for("en")
    delays_s: list[float] = []
    busy_s = audio_s = 0.0
    live_errors = offline_errors = ErrorCounts()
    manifest = read_manifest(asked.manifest)
    for utterance, samples in load_utterances(manifest, manifest.utterances[: asked.files]):
        if isinstance(samples, Exception):
            raise samples
        came = caption(live, samples, CaptionSettings())
        whole = offline.transcribe(samples).text
        reference = normalize(utterance.text or "")
        found = [word_errors(reference, normalize(text)) for text in (came.text, whole)]
        live_errors, offline_errors = live_errors + found[0], offline_errors + found[1]
        delays_s += came.delays_s
        busy_s, audio_s = busy_s + came.busy_s, audio_s + len(samples) / 16_000
        print(_line(utterance.id, came.delays_s, came.busy_s / (len(samples) / 16_000)), flush=True)
        print(f"  {came.n_passes} passes; WER {found[0].wer:.3f} live, {found[1].wer:.3f} offline")
    print(_line("all", delays_s, busy_s / audio_s))
    print(f"  WER {live_errors.wer:.3f} live, {offline_errors.wer:.3f} offline")


def _line(name: str, delays_s: list[float], share: float) -> str:
    median, late = np.quantile(delays_s, [0.5, 0.95])
    return f"{name}: delay {median:.2f} s, 95 % {late:.2f} s; {share:.2f} of a core"


if __name__ == "__main__":
    main()
