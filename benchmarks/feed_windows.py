"""Feeding the trainer: decoding and mel against transformers' extractor, and how full windows are.

    python benchmarks/feed_windows.py [--seconds 30] [--repeats 7]

Mel: the same samples through WhisperFeatureExtractor and through log_mel, first checked to agree,
then timed in turn, on one thread and on two. Decoding: speech read by load_windows, one thread and
two. Packing: a corpus of made-up lengths, a gamma distribution of 7 s on average.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from distilwhisper.corpus.batches import Example, load_windows
from distilwhisper.corpus.packing import Fill, pack_examples
from distilwhisper.corpus.records import Manifest, Utterance
from distilwhisper.model.hub import resolve_model
from distilwhisper.speech.audio import Samples, write_wav
from distilwhisper.speech.mel import log_mel, stack_windows
from distilwhisper.speech.units import SAMPLE_RATE_HZ
from distilwhisper.text.tokens import Tokenizer


def main() -> None:
    """Run all three, slowest first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="of sound in each window")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--utterances", type=int, default=100_000, help="to pack")
    options = parser.parse_args()
    compare_mel(options.seconds, options.repeats)
    time_decoding(options.repeats)
    pack(options.utterances)


def compare_mel(seconds: float, repeats: int) -> None:
    """Time the mel of eight windows on both sides, which must agree."""
    from transformers import WhisperFeatureExtractor

    noise = np.random.default_rng(0)
    n_samples = round(seconds * SAMPLE_RATE_HZ)
    pieces = [(0.1 * noise.standard_normal(n_samples)).astype(np.float32) for _ in range(8)]
    extractor = WhisperFeatureExtractor()

    def theirs() -> torch.Tensor:
        rows = [extractor(p, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt") for p in pieces]
        return torch.cat([row.input_features for row in rows])

    def numpys() -> torch.Tensor:
        rows = [extractor._np_extract_fbank_features(p[None], "cpu") for p in pieces_padded]
        return torch.from_numpy(np.concatenate(rows))

    def ours() -> torch.Tensor:
        return torch.cat([log_mel(stack_windows([p]), n_mels=80) for p in pieces])

    pieces_padded = list(stack_windows(pieces).numpy())
    torch.testing.assert_close(ours(), theirs(), rtol=0, atol=1e-3)
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        times = interleaved({"theirs": theirs, "numpy": numpys, "ours": ours}, repeats)
        ms = {name: 1000 * statistics.median(t) / len(pieces) for name, t in times.items()}
        print(
            f"mel, {seconds:g} s of sound, {n_threads} threads: transformers {ms['theirs']:.1f} ms "
            f"a window (without torch {ms['numpy']:.1f}), ours {ms['ours']:.1f}: "
            f"{ms['theirs'] / ms['ours']:.2f} times as fast ({ms['numpy'] / ms['ours']:.2f})"
        )


def interleaved(
    sides: dict[str, Callable[[], torch.Tensor]], repeats: int
) -> dict[str, list[float]]:
    """Return the seconds that each side took, in turn, after one warm-up each."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, side in sides.items():
            began = time.perf_counter()
            side()
            if turn:
                times[name].append(time.perf_counter() - began)
    return times


def time_decoding(repeats: int) -> None:
    """Time the reading of 64 short files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        noise: Samples = 0.1 * np.random.default_rng(0).standard_normal(7 * SAMPLE_RATE_HZ)
        utterances = []
        for i in range(64):
            write_wav(folder / f"{i}.wav", noise.astype(np.float32))
            utterances.append(Utterance(f"u{i}", f"{i}.wav", duration_s=7.0))
        manifest = Manifest(folder / "m.jsonl", folder, tuple(utterances))
        examples = [Example((utterance,), (0.0,), ()) for utterance in utterances]
        for n_threads in (1, 2):
            took = []
            for _ in range(repeats):
                began = time.perf_counter()
                load_windows(manifest, examples, n_threads=n_threads)
                took.append(time.perf_counter() - began)
            rate = 7.0 * len(examples) / statistics.median(took)
            print(f"decoding, 7-s WAV files, {n_threads} threads: {rate:.0f} times real time")


def pack(n: int) -> None:
    """Pack a made-up corpus in every way, and say what memory it takes."""
    tokenizer = Tokenizer.from_folder(resolve_model("openai/whisper-tiny.en"))
    generator = np.random.default_rng(0)
    lengths_s = np.clip(generator.gamma(4, 7 / 4, n), 1, 20)
    before = resident_bytes()
    shared: dict[int, int] = {}
    examples = []
    for i, seconds in enumerate(lengths_s.tolist()):
        drawn = generator.integers(300, 50_000, round(3.5 * seconds)).tolist()
        text = [shared.setdefault(id_, id_) for id_ in drawn]
        end = tokenizer.timestamp_id(round(seconds, 2))
        ids = (tokenizer.sot, tokenizer.timestamp_begin, *text, end, tokenizer.eot)
        audio = f"shard-{i // 1000:04}.tar#{i:07}.opus"
        utterance = Utterance(f"corpus/{i:07}", audio, duration_s=seconds, text="x" * 100)
        examples.append(Example((utterance,), (0.0,), ids))
    size = (resident_bytes() - before) / n
    print(f"memory: {size:.0f} bytes an example, {size * 1e6 / 1e9:.2f} GB a million")
    for fill, pause_s in (("varied", 0.5), ("full", 0.5), ("full", 0.2)):
        report_packing(examples, tokenizer, fill, pause_s)  # type: ignore[arg-type]


def report_packing(
    examples: list[Example], tokenizer: Tokenizer, fill: Fill, pause_s: float
) -> None:
    """Pack once, and say how full the windows are."""
    began = time.perf_counter()
    windows = pack_examples(
        examples,
        tokenizer,
        max_s=30.0,
        pause_s=pause_s,
        fill=fill,
        across_recordings=True,
        seed=0,
    )
    took = time.perf_counter() - began
    sound = sum(e.end_s or 0.0 for e in examples) / len(windows) / 30
    filled = sum(w.end_s or 0.0 for w in windows) / len(windows) / 30
    print(
        f"packing, {fill}, pauses of {pause_s:g} s: windows filled to {100 * filled:.1f} % "
        f"({100 * sound:.1f} % speech), {1e6 * took / len(examples):.0f} s a million"
    )


def resident_bytes() -> int:
    """Return what this process holds in memory."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096


if __name__ == "__main__":
    main()
