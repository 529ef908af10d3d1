"""From a command's start to a short clip's text, side by side with openai-whisper's command.

    distilwhisper export MODEL exported --to openai
    python benchmarks/cold_start.py CLIP --model MODEL --openai exported/model.pt --rounds 5

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
REFUSED = "--modle"


def commands(clip: str, model: str, openai: str, out: str) -> dict[str, list[str]]:
    """Return what is measured, by what it is called in the table."""
    ours = [str(BIN / "distilwhisper"), "transcribe", clip, "--model", model, "--device", "cpu"]
    theirs = [str(BIN / "whisper"), clip, "--model", openai, "--device", "cpu", "--fp16", "False"]
    return {
        PEER: [*theirs, "--language", "en", "--output_dir", out],
        "distilwhisper transcribe CLIP": [*ours, "--language", "en"],
        "distilwhisper --help": [str(BIN / "distilwhisper"), "--help"],
        "distilwhisper transcribe --help": [str(BIN / "distilwhisper"), "transcribe", "--help"],
        "distilwhisper transcribe CLIP --modle M": [*ours[:3], REFUSED, "m"],
    }


def measure(command: list[str], *, succeeds: bool) -> tuple[float, float]:
    """Run a command; return its wall and processor seconds."""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(command, stdout=printed, stderr=printed)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.monotonic() - began
        printed.seek(0)
        text = printed.read()
    # openai-whisper's command skips a file that it cannot read, and succeeds.
    if ((status == 0) != succeeds) or "Skipping" in text:
        sys.exit(f"{' '.join(command)}: did not do what is measured:\n{text}")
    return wall_s, usage.ru_utime + usage.ru_stime


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
        # The first round brings files into memory and bytecode to disk.
        _, *rounds = [
            {
                name: measure(command, succeeds=REFUSED not in command)
                for name, command in named.items()
            }
            for _ in range(asked.rounds + 1)
        ]
    print(f"{'':42} {'wall s':>8} {'cpu s':>8} {'ratio':>8}")
    for name in named:
        wall_s, cpu_s = (statistics.median(r[name][i] for r in rounds) for i in (0, 1))
        ratio = statistics.median(r[name][0] / r[PEER][0] for r in rounds)
        print(f"{name:42} {wall_s:8.2f} {cpu_s:8.2f} {ratio:8.2f}")


if __name__ == "__main__":
    main()
