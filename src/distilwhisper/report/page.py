"""One self-contained page about finished folders: a run, several runs, comparisons of models."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from distilwhisper.corpus.store import write_atomic
from distilwhisper.report.comparison_page import comparison_sections
from distilwhisper.report.facts import ComparisonFacts, RunFacts, read_comparison
from distilwhisper.report.html import Html, page, tag
from distilwhisper.report.run_page import run_sections
from distilwhisper.report.runs_page import runs_sections

REPORT = "report.html"


def write_report(path: Path, facts: Sequence[RunFacts | ComparisonFacts]) -> Path:
    """Write a page.

    Args:
        path: of the page; links to sounds are relative to its folder.
        facts: what it is about, one at least. Runs come first, side by side if several.

    Returns:
        The path.
    """
    runs = _by_name([fact for fact in facts if isinstance(fact, RunFacts)])
    comparisons = [fact for fact in facts if isinstance(fact, ComparisonFacts)]
    sections: list[Html] = []
    if len(runs) == 1:
        ((name, run),) = runs.items()
        sections += [tag("h1", name), *run_sections(run, path.parent)]
    elif runs:
        sections += runs_sections(runs, path.parent)
    for comparison in comparisons:
        sections += comparison_sections(comparison, path.parent)
    names = [*runs, *(comparison.folder.resolve().name for comparison in comparisons)]
    write_atomic(path, page(f"{', '.join(names)}: distilwhisper report", *sections))
    return path


def write_comparison_report(folder: Path) -> Path:
    """Write ``report.html`` beside the ``comparison.json`` of a folder, and return its path."""
    return write_report(folder / REPORT, [read_comparison(folder)])


def _by_name(runs: Sequence[RunFacts]) -> Mapping[str, RunFacts]:
    """Call runs by their names, and by their folders too where several have one name."""
    names = Counter(run.name for run in runs)
    return {run.name if names[run.name] == 1 else f"{run.name} ({run.folder})": run for run in runs}
