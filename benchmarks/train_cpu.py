"""The training step on a CPU, ours against one of the published structure.

    python benchmarks/train_cpu.py --model openai/whisper-tiny.en --manifest SPEECH.jsonl

Same weights, batch, tokens and threads; the sides take turns (A B A B ...) after one update each,
whose losses and gradient norms are compared before any time is taken. Utterances are the
manifest's first of at most 30 s with a text. A step is an update of the weights: forward, backward,
clipping, AdamW; log-mel and loading are left out on all sides. Peak memory is that of a process of
its own for each side, model and libraries included.
"""

import argparse
import copy
import datetime
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from training_step import (
    CACHED,
    OURS,
    PUBLISHED,
    Ours,
    Published,
    Side,
    Work,
    check_same,
    rows_of,
    table,
    take_turns,
)

from distilwhisper.corpus.batches import token_batch
from distilwhisper.corpus.records import read_manifest
from distilwhisper.model.checkpoint import load_checkpoint
from distilwhisper.model.hub import resolve_model
from distilwhisper.model.whisper import Whisper
from distilwhisper.speech.audio import load_samples
from distilwhisper.speech.mel import log_mel, stack_windows
from distilwhisper.speech.units import WINDOW_SAMPLES
from distilwhisper.stages.layers import StudentSettings
from distilwhisper.stages.student import build_student
from distilwhisper.text.tokens import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
SIDES = (PUBLISHED, OURS, CACHED)


def peak_bytes() -> int:
    """Return the most memory that this process has held since it began.

    Not ru_maxrss, which Linux lets a process inherit from the one that started it.
    """
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if "VmHWM" in line).split()[1])


def main(words: list[str] | None = None) -> int:
    """Compare, write and print."""
    arguments = parse_arguments(words)
    torch.set_num_threads(arguments.threads)
    model = resolve_model(arguments.model)
    teacher = load_checkpoint(model)
    student = build_student(teacher, StudentSettings(arguments.layers)).model
    tokenizer = Tokenizer.from_folder(model)
    work = read_work(arguments.manifest, tokenizer, arguments.batch, teacher.model.config.n_mels)
    names = (arguments.only,) if arguments.only else SIDES
    sides = {name: make(name, teacher.model, student, tokenizer, work) for name in names}
    first = {name: side(work) for name, side in sides.items()}
    if arguments.only:  # a process of its own, to see its memory
        print(peak_bytes())
        return 0
    check_same(first, torch.float32)
    for side in sides.values():  # the optimiser's moments are there now: warm
        side(work)
    calls = {name: lambda side=side: side(work) for name, side in sides.items()}
    seconds = take_turns(calls, CPU, n_rounds=arguments.rounds)
    peaks: dict[str, int | None] = {name: peak_of(name, words or sys.argv[1:]) for name in SIDES}
    rows = rows_of(seconds, peaks, len(work.mel))
    result = {
        **conditions(arguments, work),
        "first_loss": {name: float(done.loss) for name, done in first.items()},
        "rows": [row.as_json() for row in rows],
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(
        f"{result['model']}, {result['windows']} windows, {result['tokens']} tokens that count, "
        f"{result['threads']} threads, float32, torch {result['torch']}, commit "
        f"{result['commit']}, {result['date']}"
    )
    print(table(rows))
    return 0


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="the teacher: model folder or hub id")
    parser.add_argument("--manifest", type=Path, required=True, help="speech with its texts")
    parser.add_argument("--layers", type=int, default=2, help="of the student's decoder (2)")
    parser.add_argument("--batch", type=int, default=4, help="windows of a step (4)")
    parser.add_argument("--rounds", type=int, default=5, help="turns that each side gets (5)")
    parser.add_argument("--threads", type=int, default=2, help="of each side (2)")
    parser.add_argument("--out", type=Path, help="JSON file for everything measured")
    parser.add_argument("--only", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def read_work(manifest: Path, tokenizer: Tokenizer, n_windows: int, n_mels: int) -> Work:
    """Return the first utterances of a manifest as a batch."""
    found = read_manifest(manifest)
    windows, sequences = [], []
    prompt = tokenizer.prompt_ids(
        language="en" if tokenizer.is_multilingual else None, timestamps=False
    )
    for utterance in found.utterances:
        samples = load_samples(
            found.audio_source(utterance),
            start_s=utterance.start_s,
            duration_s=utterance.duration_s,
        )
        if not utterance.text or len(samples) > WINDOW_SAMPLES:
            continue
        windows.append(samples)
        text = tokenizer.encode(f" {utterance.text.strip()}")
        sequences.append([*prompt, *text, tokenizer.eot])
        if len(windows) == n_windows:
            break
    if len(windows) < n_windows:
        raise SystemExit(f"{manifest} must hold {n_windows} utterances, found {len(windows)}")
    mel = log_mel(stack_windows(windows), n_mels=n_mels)
    return Work(mel, token_batch(sequences, tokenizer))


def make(name: str, teacher: Whisper, student: Whisper, tokenizer: Tokenizer, work: Work) -> Side:
    """Return a side with a student of its own."""
    own = copy.deepcopy(student)
    if name == PUBLISHED:
        return Published(teacher, own, eot=tokenizer.eot, sot=tokenizer.sot)
    if name == OURS:
        return Ours(teacher, own)
    with torch.no_grad():
        return Ours(teacher, own, teacher.encoder(work.mel))


def peak_of(name: str, words: list[str]) -> int:
    """Return the peak memory of a process that makes one update."""
    command = [sys.executable, __file__, *words, "--only", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def conditions(arguments: argparse.Namespace, work: Work) -> dict[str, Any]:
    """Return what must stand beside the figures."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    described = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return {
        "model": arguments.model,
        "layers": arguments.layers,
        "windows": len(work.mel),
        "tokens": work.tokens.n_tokens,
        "threads": arguments.threads,
        "cpu": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "commit": described.stdout.strip() or "unknown",
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


if __name__ == "__main__":
    sys.exit(main())
