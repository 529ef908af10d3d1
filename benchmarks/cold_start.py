"""From a command's start to a short clip's text, side by side with openai-whisper's command.

    distilwhisper export MODEL tiny.en.pt --to openai
    python benchmarks/cold_start.py CLIP --model MODEL --openai tiny.en.pt --rounds 5

Rounds take turns, so that what else the machine does falls on all commands alike. A row is a
command's median of wall and processor seconds, and of the ratio to openai-whisper's in the same
round. The commands that show or refuse something stand beside them: they import no network.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BIN = Path(sys.executable).parent
PEER = "whisper CLIP"


def commands(clip: str, model: str, openai: str, out: str) -> dict[str, list[str]]:
    """Return what is measured, by what it is called in the table."""
    ours = [str(BIN / "distilwhisper"), "transcribe", clip, "--model", model, "--device", "cpu"]
    theirs = [str(BIN / "whisper"), clip, "--model", openai, "--device", "cpu", "--fp16", "False"]
    return {
        PEER: [*theirs, "--language", "en", "--output_dir", out],
        "distilwhisper transcribe CLIP": [*ours, "--language", "en"],
        "distilwhisper --help": [str(BIN / "distilwhisper"), "--help"],
        "distilwhisper transcribe --help": [str(BIN / "distilwhisper"), "transcribe", "--help"],
        "distilwhisper transcribe CLIP --modle M": [*ours[:3], "--modle", "m"],
    }


def measure(command: list[str]) -> tuple[float, float]:
    """Run a command; return its wall and processor seconds."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, _, usage = os.wait4(process.pid, 0)
    return time.monotonic() - began, usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("clip")
    parser.add_argument("--model", required=True, help="folder of the model")
    parser.add_argument("--openai", required=True, help="the same as openai-whisper's .pt file")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as out:
        named = commands(asked.clip, asked.model, asked.openai, out)
        for command in named.values():
            measure(command)  # files into memory, bytecode to disk
        rounds = [
            {name: measure(command) for name, command in named.items()} for _ in range(asked.rounds)
        ]
    print(f"{'':42} {'wall s':>8} {'cpu s':>8} {'ratio':>8}")
    for name in named:
        wall_s, cpu_s = (statistics.median(r[name][i] for r in rounds) for i in (0, 1))
        ratio = statistics.median(r[name][0] / r[PEER][0] for r in rounds)
        print(f"{name:42} {wall_s:8.2f} {cpu_s:8.2f} {ratio:8.2f}")


if __name__ == "__main__":
    main()
