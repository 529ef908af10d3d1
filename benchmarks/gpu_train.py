"""The training step on one GPU, ours against one of the published structure, at large-v2's shape.

    python benchmarks/gpu_train.py --out gpu_train.json
    python benchmarks/gpu_train.py --tiny --device cpu --out smoke.json

No file is read: weights, sound and labels are random and seeded. The teacher is in bfloat16, the
student's decoder has two layers in float32 under autocast, and its encoder is the teacher's. The
sides take turns (A B A B ...) after an update each, whose losses and gradient norms are compared
before any time is taken. Peak memory is what a side allocates beside what was there before it:
its optimiser's moments, activations and gradients.
"""

import argparse
import copy
import datetime
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from training_step import (
    CACHED,
    OURS,
    PUBLISHED,
    Disagreement,
    Done,
    Ours,
    Published,
    Side,
    Work,
    check_same,
    release,
    rows_of,
    table,
    take_turns,
    timed,
)

from distilwhisper.corpus.batches import IGNORE, TokenBatch
from distilwhisper.model.checkpoint import Checkpoint
from distilwhisper.model.hardware import Hardware
from distilwhisper.model.layout import ModelFiles
from distilwhisper.model.whisper import Whisper, WhisperConfig, sinusoids
from distilwhisper.plan import model_sizes
from distilwhisper.stages.layers import StudentSettings
from distilwhisper.stages.student import build_student

ROOT = Path(__file__).resolve().parent.parent
SEED = 0
N_ROUNDS = 5
SIDES = (PUBLISHED, OURS, CACHED)

LARGE_V2 = model_sizes("openai/whisper-large-v2")
TINY = WhisperConfig(
    vocab_size=400,
    n_mels=8,
    width=32,
    encoder_layers=1,
    encoder_heads=2,
    encoder_ffn=64,
    decoder_layers=4,
    decoder_heads=2,
    decoder_ffn=64,
    max_frames=20,
    max_tokens=40,
)


def main(words: list[str] | None = None) -> int:
    """Measure, write and print; return 0 if both sides agree."""
    arguments = parse_arguments(words)
    started = time.monotonic()
    config = TINY if arguments.tiny else LARGE_V2
    device = Hardware(device=arguments.device).pick_device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    n_windows = 3 if arguments.tiny else arguments.batch
    tokens = config.max_tokens // 4 if arguments.tiny else arguments.tokens
    teacher = random_model(config, device, dtype)
    work = random_work(teacher, n_windows, tokens)
    sides: dict[str, Side] = {}
    first: dict[str, Done] = {}
    peaks: dict[str, int | None] = {}
    for name in SIDES:
        release(device)
        before = reset_peak(device)
        sides[name] = make(name, teacher, work)
        first[name] = sides[name](work)
        timed(lambda side=sides[name]: side(work), device)  # warm: the moments are there
        peaks[name] = peak_since(device, before)
    failed = None
    seconds: dict[str, tuple[float, ...]] = {}
    try:
        check_same(first, dtype)
        calls = {name: lambda side=side: side(work) for name, side in sides.items()}
        deadline = started + 60 * arguments.minutes
        seconds = take_turns(calls, device, n_rounds=N_ROUNDS, deadline=deadline)
    except Disagreement as error:
        failed = str(error)
    rows = rows_of(seconds, peaks, n_windows) if seconds else []
    result = {
        **conditions(arguments, device, dtype),
        "windows": n_windows,
        "tokens": work.tokens.n_tokens,
        "seconds": time.monotonic() - started,
        "first": {n: {"loss": float(d.loss), "grad_norm": d.grad_norm} for n, d in first.items()},
        "rows": [row.as_json() for row in rows],
        "failed": failed,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if failed is not None:
        print(f"failed: {failed}")
    print(
        f"{result['shape']} shape, random weights, {result['dtype']}; "
        f"{result['device']}; {n_windows} windows, {work.tokens.n_tokens} tokens that count; torch "
        f"{result['torch']}; commit {result['commit']}; {result['date']}; {result['seconds']:.0f} s"
    )
    print(table(rows))
    return 0 if failed is None else 1


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="JSON file for everything measured")
    parser.add_argument("--device", default="auto", help="as everywhere else (auto)")
    parser.add_argument("--minutes", type=float, default=7.0, help="begin no round later (7)")
    parser.add_argument("--batch", type=int, default=16, help="windows of a step (16)")
    parser.add_argument("--tokens", type=int, default=110, help="of a window, on average (110)")
    parser.add_argument("--tiny", action="store_true", help="a shape for a CPU, to try the script")
    return parser.parse_args(words)


@torch.no_grad()
def random_model(config: WhisperConfig, device: torch.device, dtype: torch.dtype) -> Whisper:
    """Return a network of random weights that keeps the size of what runs through it."""
    random = torch.Generator(device).manual_seed(SEED)
    with torch.device("meta"):
        model = Whisper(config).to(dtype)
    model.to_empty(device=device)
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            weight.fill_(1.0 if name.endswith("norm.weight") else 0.0)
        else:
            weight.normal_(std=weight[0].numel() ** -0.5, generator=random)
    model.encoder.embed_positions.weight.copy_(sinusoids(config.max_frames, config.width))
    return model.eval().requires_grad_(False)


def random_work(teacher: Whisper, n_windows: int, n_tokens: int) -> Work:
    """Return windows of noise with labels of a quarter more or less than ``n_tokens`` tokens."""
    config, device = teacher.config, teacher.device
    random = torch.Generator().manual_seed(SEED + 1)
    shape = (n_windows, config.n_mels, 2 * config.max_frames)
    mel = torch.randn(shape, generator=random).to(device, teacher.dtype)
    spread = n_tokens // 4
    lengths = torch.randint(
        n_tokens - spread, n_tokens + spread + 1, (n_windows,), generator=random
    )
    longest = int(lengths.max())
    ids = torch.randint(config.vocab_size, (n_windows, longest + 1), generator=random)
    behind = torch.arange(longest) >= lengths[:, None]
    inputs = ids[:, :-1].masked_fill(behind, eot_of(config))
    labels = ids[:, 1:].masked_fill(behind, IGNORE)
    return Work(mel, TokenBatch(inputs.to(device), labels.to(device)))


def eot_of(config: WhisperConfig) -> int:
    """Return an id that pads."""
    return config.vocab_size - 1


def make(name: str, teacher: Whisper, work: Work) -> Side:
    """Return a side with a student of its own: layers of the teacher, in float32."""
    files = ModelFiles({}, {}, {}, "")
    student = build_student(Checkpoint(teacher, files, ROOT), StudentSettings()).model
    student.decoder = copy.deepcopy(student.decoder).float()
    student.encoder = teacher.encoder
    eot = eot_of(teacher.config)
    if name == PUBLISHED:
        return Published(teacher, student, eot=eot, sot=eot)
    if name == OURS:
        return Ours(teacher, student)
    with torch.no_grad():
        return Ours(teacher, student, teacher.encoder(work.mel))


def reset_peak(device: torch.device) -> int:
    """Begin to watch a GPU's memory; return what is allocated."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def peak_since(device: torch.device, before: int) -> int | None:
    """Return how much more was allocated at a time; None but on a GPU."""
    if device.type != "cuda":
        return None
    return torch.cuda.max_memory_allocated(device) - before


def conditions(
    arguments: argparse.Namespace, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """Return what must stand beside the figures."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    described = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    on_gpu = device.type == "cuda"
    return {
        "shape": "tiny" if arguments.tiny else "large-v2",
        "device": torch.cuda.get_device_name(device) if on_gpu else platform.processor() or "CPU",
        "dtype": str(dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "commit": described.stdout.strip() or "unknown",
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


if __name__ == "__main__":
    sys.exit(main())
