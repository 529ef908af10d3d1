"""Make a student of a teacher from a folder of audio with transcripts.

    python examples/distil.py recordings/ --teacher base --out run --steps 200

Stop it anywhere and start it again: what is finished is not done again.
"""

import argparse
from pathlib import Path

import distilwhisper as dw


def main() -> None:
    """Make a manifest, label, filter, train and evaluate."""
    parser = argparse.ArgumentParser(description="Make a student.")
    parser.add_argument("folder", help="audio, with transcripts beside it or in a table")
    parser.add_argument("--teacher", default="base", help="short name, hub id or folder")
    parser.add_argument("--out", default="run", type=Path, help="folder of all results")
    parser.add_argument("--steps", default=200, type=int, help="updates of the student's weights")
    parser.add_argument("--max-wer", default=0.10, type=float, help="of labels that are kept")
    arguments = parser.parse_args()
    out: Path = arguments.out

    manifest = out / "all.jsonl"
    dw.import_data(arguments.folder, manifest, dw.ImportSettings(language="en"))
    labels = dw.label(manifest, teacher=arguments.teacher, out=out / "labels", language="en")
    kept = dw.filter(manifest, labels, out=out / "verdicts", max_wer=arguments.max_wer)
    print(kept)

    student = dw.distil(
        manifest,
        labels,
        kept,
        teacher=arguments.teacher,
        out=out / "run",
        decoder_layers=2,
        steps=arguments.steps,
    )

    # These utterances chose the best checkpoint: judge a student that matters on others.
    held_out = out / "run" / "data" / "validation.jsonl"
    compared = dw.evaluate(student, held_out, against=[arguments.teacher], out=out / "compared")
    for cell in compared.cells:
        wer = "no reference" if cell.wer is None else f"{cell.wer:.1%} word errors"
        print(f"{cell.model}: {wer} in {cell.n_utterances} utterances")


if __name__ == "__main__":
    main()
