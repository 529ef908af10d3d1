"""Pages and cards about finished folders, written from the templates beside this file.

A page is one file that needs no other: about a run, several runs, comparisons of models. A card is
the README.md of a student's folder, in the form that Hugging Face's hub reads: facts for programs
between two lines of dashes, then the same for people.
"""

import json
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from os import PathLike
from pathlib import Path

from distilwhisper.corpus.records import audio_from, audio_in
from distilwhisper.evaluation.bootstrap import FEW_RECORDINGS
from distilwhisper.evaluation.comparison import SIGNIFICANT, SPEED_NOTE, Comparison, rtfx_of
from distilwhisper.evaluation.scoring import OVER, drawn_sentence
from distilwhisper.extras import needed_by
from distilwhisper.files import write_atomic
from distilwhisper.report import figures
from distilwhisper.report.facts import SETS, ComparisonFacts, RunFacts, error_rate, over
from distilwhisper.tables import bounds, percent
from distilwhisper.text.wer import Alignment, align_words

with needed_by("writing pages", extra="report"):
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

REPORT = "report.html"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def write_report(path: str | PathLike[str], facts: Sequence[RunFacts | ComparisonFacts]) -> Path:
    """Write a page about one thing at least; return its path.

    Runs come first, side by side if several. Links to sounds are relative to the page's folder.
    """
    path = Path(path)
    runs = _by_name([fact for fact in facts if isinstance(fact, RunFacts)])
    comparisons = {f.folder: f.comparison for f in facts if isinstance(f, ComparisonFacts)}
    title = ", ".join([*runs, *(folder.resolve().name for folder in comparisons)])
    content = {"runs": runs, "comparisons": comparisons.items(), "folder": path.parent}
    write_atomic(path, templates().get_template("page.html").render(content, title=title))
    return path


def write_card(model: Path, facts: RunFacts) -> Path:
    """Write the README.md of a student's folder from the run that made it; return its path."""
    path = model / "README.md"
    write_atomic(path, templates().get_template("card.md").render(run=facts))
    return path


def templates() -> Environment:
    """Return the templates beside this file, with their filters."""
    environment = Environment(
        loader=PackageLoader("distilwhisper.report"),
        autoescape=select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    own = (_aligned, _by_test, _nearest, _set_names, bounds, error_rate, over, percent)
    environment.filters |= {
        **{function.__name__.removeprefix("_"): function for function in own},
        "base64": lambda data: b64encode(data).decode(),
        "by_place": lambda rows: [(at, list(of)) for at, of in groupby(rows, lambda r: r.place)],
        "drawn_sentence": lambda c: drawn_sentence({x.set: x.drawn_over for x in c.cells}),
        "fastest": lambda of, c: max(of, key=lambda a: rtfx_of(c.cells_of(a.model, a.noise))).model,
        "json": lambda value, indent=None: json.dumps(value, indent=indent, ensure_ascii=False),
        "name": lambda path: Path(path).name,
        "ratio": lambda ratio: "–" if ratio is None else f"{ratio:.2f}",
        "rtfx": rtfx_of,
        "seen_from": lambda audio, of, folder: audio_from(folder, audio_in(of.resolve(), audio)),
        "share": partial(percent, digits=0),
        "stem": lambda path: Path(path).stem,
        "with_unit": lambda head: head.replace("/ ", "/\u00a0").replace(" %", "\u00a0%"),
    }
    environment.tests["hub_id"] = lambda name: bool(
        name and _HUB_ID.fullmatch(name) and not Path(name).exists()
    )
    environment.globals |= {
        "FEW_RECORDINGS": FEW_RECORDINGS,
        "OVER": OVER,
        "SETS": SETS,
        "SIGNIFICANT": SIGNIFICANT,
        "SPEED_NOTE": SPEED_NOTE,
        "figures": figures,
    }
    return environment


def _by_name(runs: Sequence[RunFacts]) -> Mapping[str, RunFacts]:
    """Call runs by their names, and by their folders too where several have one name."""
    named = [(str(run.recipe["name"]), run) for run in runs]
    n_runs = Counter(name for name, _ in named)
    return {n if n_runs[n] == 1 else f"{n} ({run.folder})": run for n, run in named}


def _nearest(runs: Mapping[str, RunFacts]) -> str | None:
    """Return the run whose student is nearest to its teacher; None without references."""
    gaps = {name: run.gap("test").difference for name, run in runs.items()}
    known = {name: gap for name, gap in gaps.items() if gap is not None}
    return min(known, key=known.__getitem__, default=None)


def _by_test(runs: Mapping[str, RunFacts]) -> list[tuple[int, list[str]]]:
    """Return which runs were judged on the same utterances, and on how many."""
    together: dict[frozenset[tuple[str, str]], list[str]] = {}
    for name, run in runs.items():
        rows = run.scores("student", "test").values()
        judged_by = frozenset((row["id"], row["reference"]) for row in rows)
        together.setdefault(judged_by, []).append(name)
    return [(len(judged_by), names) for judged_by, names in together.items()]


def _set_names(comparison: Comparison) -> list[str]:
    in_characters = (comparison.unit(set_) == "character" for set_ in comparison.sets)
    return [s + ", in characters" * c for s, c in zip(comparison.sets, in_characters, strict=True)]


def _aligned(reference: str, hypothesis: str, in_characters: bool) -> list[Alignment]:
    if in_characters:
        reference, hypothesis = (" ".join(t.replace(" ", "")) for t in (reference, hypothesis))
    return align_words(reference, hypothesis)
