"""Speak every sentence of demo/synthetic/transcripts.tsv again.

    .venv/bin/python demo/make_synthetic.py

Needs the program flite (apt-get install flite). The table is all that goes in: a file's name says
which voice reads its sentence.
"""

import csv
import subprocess
import tempfile
from pathlib import Path

import av

FOLDER = Path(__file__).resolve().parent / "synthetic"
SAMPLE_RATE_HZ = 16_000
BIT_RATE = 20_000
# How slowly a voice reads its sentences in turn: four speakers alone would all sound alike.
STRETCHES = (1.0, 0.9, 1.15)


def main() -> None:
    """Speak every row of the table."""
    with (FOLDER / "transcripts.tsv").open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table, delimiter="\t"))
    with tempfile.TemporaryDirectory() as temporary:
        spoken = Path(temporary) / "spoken.wav"
        for row in rows:
            path = FOLDER / row["path"]
            voice, number = path.stem.split("-")
            speak(row["text"], spoken, voice=voice, stretch=STRETCHES[int(number) % len(STRETCHES)])
            encode_opus(spoken, path)


def speak(text: str, wav: Path, *, voice: str, stretch: float) -> None:
    """Write one sentence as flite says it; a stretch above one is slower."""
    command = ["flite", "-voice", voice, "--setf", f"duration_stretch={stretch}"]
    subprocess.run([*command, "-t", text, "-o", str(wav)], check=True)


def encode_opus(wav: Path, path: Path) -> None:
    """Write a recording as mono Ogg Opus, with the same bytes every time."""
    with (
        av.open(str(wav)) as source,
        av.open(str(path), "w", format="ogg", options={"fflags": "+bitexact"}) as target,
    ):
        stream = target.add_stream("libopus", rate=SAMPLE_RATE_HZ, layout="mono")
        stream.bit_rate = BIT_RATE
        resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
        for frame in source.decode(audio=0):
            for resampled in resampler.resample(frame):
                target.mux(stream.encode(resampled))
        for resampled in resampler.resample(None):
            target.mux(stream.encode(resampled))
        target.mux(stream.encode(None))


if __name__ == "__main__":
    main()
