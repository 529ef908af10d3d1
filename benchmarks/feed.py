"""How fast data is brought to the models, part by part.

    python benchmarks/feed.py filter --n 1000000 --texts TRAIN.jsonl --out feed.json

filter: utterances with references, and labels of them in shards of 256 as `distilwhisper label`
writes them, are made of the texts of a manifest: a tenth of the labels has a word replaced, another
tenth one left out, the others differ from their reference in capitals and marks alone. A label
carries 30 token ids. Four passes are timed, each a process of its own, with all of its cores:
the first, which measures; another limit, on stored measures; the same without figures; and reading
the manifest alone.
Wall time is what a person waits for; processor time, children included, is what it costs, and what
to compare where other programs run beside.
"""

import argparse
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distilwhisper.corpus.records import Label, Utterance, read_manifest
from distilwhisper.corpus.store import shard_path, write_jsonl
from distilwhisper.files import write_atomic
from distilwhisper.run.record import cpu_model, n_cores

SHARD_SIZE = 256
_FILTER = """
import sys
from pathlib import Path
from distilwhisper.filtering.settings import FilterSettings
from distilwhisper.stages.filter import filter_labels
manifest, labels, out = map(Path, sys.argv[1:4])
settings = FilterSettings(max_wer=float(sys.argv[4]))
figures = sys.argv[5] == "figures"
print(str(filter_labels(manifest, labels, out, settings, figures=figures)).splitlines()[0])
"""
_READ = """
import sys
from pathlib import Path
from distilwhisper.corpus.records import read_manifest
print(len(read_manifest(Path(sys.argv[1])).utterances))
"""


def main() -> None:
    """Run one part and write what it measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    filter_ = parts.add_parser("filter")
    filter_.add_argument("--n", type=int, default=1_000_000, help="utterances")
    filter_.add_argument("--texts", type=Path, required=True, help="a manifest with references")
    filter_.add_argument("--folder", type=Path, help="for the corpus; a temporary one if left out")
    for part in (filter_,):
        part.add_argument("--out", type=Path, help="a JSON file")
    arguments = parser.parse_args()
    result = {"filter": time_filter}[arguments.part](arguments)
    result |= {"cpu": cpu_model(), "n_cores": n_cores()}
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        write_atomic(arguments.out, text + "\n")


def time_filter(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time the filter's passes over a corpus made of a manifest's texts."""
    texts = [u.text for u in read_manifest(arguments.texts).utterances if u.text]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        manifest, labels = folder / "train.jsonl", folder / "labels"
        make_corpus(texts, arguments.n, manifest, labels)
        passes = {
            "first": (_FILTER, manifest, labels, folder / "first", 0.1, "figures"),
            "another_limit": (_FILTER, manifest, labels, folder / "second", 0.2, "figures"),
            "without_figures": (_FILTER, manifest, labels, folder / "third", 0.3, "none"),
            "read_manifest": (_READ, manifest),
        }
        timed = {name: time_program(*program) for name, program in passes.items()}
        shutil.rmtree(folder / "first")
    return {"n": arguments.n, "n_texts": len(texts), "seconds": timed}


def make_corpus(texts: list[str], n: int, manifest: Path, labels: Path) -> None:
    """Write utterances and labels of them."""
    random_ = random.Random(0)
    chosen = [random_.choice(texts) for _ in range(n)]
    write_jsonl(
        manifest,
        (
            {
                name: getattr(utterance, name)
                for name in ("id", "audio", "duration_s", "text", "speaker", "language", "source")
            }
            for utterance in _utterances(chosen, random_)
        ),
    )
    for start in range(0, n, SHARD_SIZE):
        rows = [
            _label(number, chosen[number], random_).to_dict()
            for number in range(start, min(start + SHARD_SIZE, n))
        ]
        write_jsonl(shard_path(labels, start // SHARD_SIZE), rows)


def time_program(program: str, *arguments: object) -> dict[str, Any]:
    """Run a program of Python in a process of its own."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    command = [sys.executable, "-c", program, *map(str, arguments)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    return {"wall": round(wall, 2), "processor": round(used, 2), "result": said}


def _utterances(texts: list[str], random_: random.Random) -> Iterator[Utterance]:
    for number, text in enumerate(texts):
        yield Utterance(
            id=f"corpus/{number // 1000:04d}/{number:07d}",
            audio=f"audio/{number // 1000:04d}.tar#{number:07d}.opus",
            duration_s=round(1 + random_.random() * 12, 3),
            text=text,
            speaker=f"speaker-{number % 5000}",
            language="en",
            source=f"source-{number % 9}",
        )


def _label(number: int, text: str, random_: random.Random) -> Label:
    words = text.split()
    kind = random_.randrange(10)
    if kind == 0:
        words[random_.randrange(len(words))] = "something"
    elif kind == 1:
        del words[random_.randrange(len(words))]
    heard = " ".join(words)
    return Label(
        id=f"corpus/{number // 1000:04d}/{number:07d}",
        token_ids=tuple(random_.randrange(50_000) for _ in range(30)),
        text=f" {heard[:1].upper()}{heard[1:]}",
        language="en",
        avg_logprob=round(-random_.random(), 6),
        no_speech_prob=round(random_.random() / 10, 6),
        compression_ratio=round(0.8 + random_.random(), 6),
        error=None,
        duration_s=3.0,
    )


if __name__ == "__main__":
    main()
