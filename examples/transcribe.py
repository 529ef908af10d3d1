"""Transcribe recordings, and write a text and subtitles for each.

python examples/transcribe.py talk.mp3 film.mkv --model base --out transcripts
"""

import argparse
from pathlib import Path

import distilwhisper as dw

LINES = dw.SubtitleSettings(max_line_width=42, max_line_count=2)


def main() -> None:
    """Transcribe every file that the command line names."""
    parser = argparse.ArgumentParser(description="Transcribe recordings.")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--model", default="base", help="short name, hub id or folder")
    parser.add_argument("--out", default="transcripts", type=Path, help="folder of the transcripts")
    arguments = parser.parse_args()

    model = dw.load_model(arguments.model)
    for file in arguments.files:
        result = model.transcribe(file, word_timestamps=True)
        result.save(arguments.out / f"{file.stem}.txt")
        result.save(arguments.out / f"{file.stem}.srt", LINES)
        print(
            f"{file}: {result.duration:.1f} s, {result.language}, {len(result.segments)} segments"
        )


if __name__ == "__main__":
    main()
