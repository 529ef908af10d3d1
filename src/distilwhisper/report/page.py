"""One self-contained page about a run: what went in, what was dropped, what came out, how fast."""

import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from distilwhisper.corpus.store import write_atomic
from distilwhisper.report.facts import SETS, Result, RunFacts, percent
from distilwhisper.text.wer import ErrorCounts, align_words

N_EXAMPLES = 12
MAX_LONG_WORDS = 400

_BLUE, _ORANGE = "#2563a8", "#c2571a"

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2733; background: #fff;
       max-width: 60rem; margin: 0 auto; padding: 1rem 1rem 4rem; }
h1 { font-size: 1.7rem; margin: 1rem 0 .2rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; border-bottom: 1px solid #d9dee3; }
p.note, figcaption, .muted { color: #56616d; font-size: .9rem; }
.headline { font-size: 1.08rem; background: #f2f5f8; border-left: 4px solid #2563a8;
            padding: .7rem 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #e4e8ec; }
td { white-space: nowrap; }
th { font-weight: 600; font-size: .85rem; color: #56616d; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1rem 0; } .plots { display: flex; flex-wrap: wrap; gap: 1rem; }
figure svg { max-width: 100%; height: auto; }
.pair { margin: 0 0 1rem; padding: 0 0 .8rem; border-bottom: 1px solid #e4e8ec; }
.pair div { overflow-wrap: anywhere; } .pair b { font-weight: 600; color: #56616d;
  display: inline-block; min-width: 5.5rem; font-size: .85rem; }
del { color: #a3261c; background: #fbe9e7; } ins { color: #14622f; background: #e5f4ea;
  text-decoration: none; }
pre { white-space: pre-wrap; background: #f6f8fa; padding: .8rem; font-size: .82rem; }
details { margin: .6rem 0; } summary { cursor: pointer; }
@media print { body { max-width: none; } details { display: block; } h2 { break-after: avoid; } }
"""


def write_report(run: Path, facts: RunFacts) -> Path:
    """Write ``report.html`` into a run's folder.

    Args:
        run: the folder.
        facts: read from it.

    Returns:
        The page's path.
    """
    sections = [
        _head(facts),
        _quality(facts),
        _filter(facts),
        _training(facts),
        _examples(facts),
        _long_form(facts),
        _provenance(facts),
    ]
    page = (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{_text(facts.name)}: distilwhisper report</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(sections)}</body></html>\n"
    )
    path = run / "report.html"
    write_atomic(path, page)
    return path


# Sections


def _head(facts: RunFacts) -> str:
    teacher, student = facts.result("teacher", "test"), facts.result("student", "test")
    size = student.summary["n_parameters"] / teacher.summary["n_parameters"]
    speed = student.summary["rtfx"] / teacher.summary["rtfx"]
    gap = 100 * facts.wer_gap
    verdict = (
        f"{gap:.1f} points more errors than its teacher"
        if gap > 0
        else f"{-gap:.1f} points fewer errors than its teacher"
    )
    return (
        f"<h1>{_text(facts.name)}</h1>"
        f"<p class='muted'>A student of {_text(facts.teacher)}</p>"
        f"<p class='headline'>On {student.summary['n_utterances']} utterances held out from "
        f"training the student makes <b>{percent(student.counts.wer)} word errors</b>, the "
        f"teacher {percent(teacher.counts.wer)}: {verdict}. It has {100 * size:.0f} % of the "
        f"parameters and runs {speed:.2f} times as fast.</p>"
        + (f"<p class='note'>{facts.caution}</p>" if facts.caution else "")
    )


def _quality(facts: RunFacts) -> str:
    rows = []
    for result in facts.results:
        counts, summary = result.counts, result.summary
        teacher = facts.result("teacher", result.set).summary
        rows.append(
            [
                f"{result.model}, {SETS[result.set]}",
                percent(counts.wer),
                str(counts.substitutions),
                str(counts.deletions),
                str(counts.insertions),
                str(counts.words),
                str(summary["n_utterances"]),
                str(len(summary["failed"])),
                f"{summary['n_parameters'] / 1e6:.1f}",
                f"{summary['rtfx']:.1f}",
                f"{summary['rtfx'] / teacher['rtfx']:.2f}",
            ]
        )
    head = [
        "model, set", "WER", "subst.", "del.", "ins.", "words", "utterances", "failed",
        "parameters / M", "RTFx", "relative speed",
    ]  # fmt: skip
    return (
        "<h2>Quality and speed</h2>"
        + _table(head, rows)
        + "<p class='note'>WER: substitutions, deletions and insertions over reference words, "
        "summed over the set, after the Whisper normaliser on both sides. RTFx: seconds of audio "
        "per second of computing (mel, encoder, decoder; after a warm-up; reading files left "
        "out), batched as the recipe says. The long recording is the test utterances joined, "
        "transcribed in overlapping chunks. Speed was measured once, one model after the other: "
        "on a shared machine it drifts by tens of per cent.</p>"
    )


def _filter(facts: RunFacts) -> str:
    summary = facts.filtered
    rows = [
        [_text(reason.replace("_", " ")), str(part["count"]), f"{part['hours']:.3f}"]
        for reason, part in summary["by_reason"].items()
    ]
    kept, total = summary["kept"]["count"], summary["total"]["count"]
    return (
        "<h2>Labels and filter</h2>"
        f"<p>The teacher labelled {total} utterances; {kept} were kept and {total - kept} "
        f"({percent((total - kept) / max(total, 1))}) dropped.</p>"
        + _table(["verdict", "utterances", "hours"], rows)
    )


def _training(facts: RunFacts) -> str:
    steps = [row for row in facts.metrics if "loss" in row]
    judged = [row for row in facts.metrics if "validation_wer" in row]
    loss = _plot(
        "Training loss",
        "nats per token",
        [row["step"] for row in steps],
        {
            "KL to the teacher": [row["kl"] for row in steps],
            "cross-entropy on pseudo-labels": [row["pl"] for row in steps],
        },
    )
    validation = _plot(
        "Validation WER",
        "WER / %",
        [row["step"] for row in judged],
        {"student": [100 * row["validation_wer"] for row in judged]},
        marker="o",
    )
    last = steps[-1]
    return (
        f"<h2>Training</h2><figure><div class='plots'>{loss}{validation}</div>"
        f"<figcaption>{last['step']:,} steps, {last['epoch']:.1f} epochs; KL with temperature "
        "squared included. The checkpoint with the lowest validation WER is the student."
        "</figcaption></figure>"
    )


def _examples(facts: RunFacts) -> str:
    teacher, student = facts.result("teacher", "test"), facts.result("student", "test")
    ids = list(student.scores)
    spread = ids[:: max(1, len(ids) // N_EXAMPLES)][:N_EXAMPLES]
    worst = sorted(ids, key=lambda i: -ErrorCounts(**student.scores[i]["errors"]).errors)
    return (
        "<h2>What they hear</h2><p class='note'>Normalised text. "
        "<del>Struck</del>: in the reference but not heard; <ins>marked</ins>: heard but not in "
        "the reference.</p>"
        + "".join(_pair(i, teacher, student) for i in spread)
        + "<details><summary>The student's worst utterances</summary>"
        + "".join(_pair(i, teacher, student) for i in worst[:N_EXAMPLES])
        + "</details>"
    )


def _pair(id_: str, teacher: Result, student: Result) -> str:
    row = student.scores[id_]
    return (
        f"<div class='pair'><div class='muted'>{_text(id_)}</div>"
        f"<div><b>reference</b>{_text(row['reference'])}</div>"
        f"<div><b>teacher</b>{_diff(teacher.scores[id_])}</div>"
        f"<div><b>student</b>{_diff(row)}</div></div>"
    )


def _diff(row: Mapping[str, Any]) -> str:
    words = []
    for step in align_words(row["reference"], row["hypothesis"]):
        if step.kind == "equal":
            words.append(_text(step.reference or ""))
            continue
        if step.reference is not None:
            words.append(f"<del>{_text(step.reference)}</del>")
        if step.hypothesis is not None:
            words.append(f"<ins>{_text(step.hypothesis)}</ins>")
    return " ".join(words)


def _long_form(facts: RunFacts) -> str:
    parts = [
        f"<details{' open' if model == 'student' else ''}><summary>{model}</summary>"
        f"<pre>{_text(_shortened(text))}</pre></details>"
        for model, text in facts.long_transcripts.items()
    ]
    return "<h2>The long recording, transcribed</h2>" + "".join(parts)


def _provenance(facts: RunFacts) -> str:
    record = json.dumps(facts.record, indent=2, ensure_ascii=False)
    return (
        "<h2>How this was made</h2>"
        f"<details><summary>recipe.toml, all settings</summary>"
        f"<pre>{_text(facts.recipe_text)}</pre></details>"
        f"<details><summary>run.json, versions and machine</summary>"
        f"<pre>{_text(record)}</pre></details>"
    )


# Pieces


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    header = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return f"<div class='scroll'><table><tr>{header}</tr>{body}</table></div>"


def _plot(
    title: str,
    unit: str,
    x: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    *,
    marker: str | None = None,
) -> str:
    """Return lines over training steps as inline SVG."""
    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    axes = figure.subplots()
    for (label, y), colour in zip(lines.items(), (_BLUE, _ORANGE), strict=False):
        axes.plot(x, y, color=colour, lw=1.8, marker=marker, label=label)
    axes.set(xlabel="step", ylabel=unit, title=title)
    axes.set_ylim(0, 1.1 * max(max(y) for y in lines.values()))
    if len(lines) > 1:
        axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e8ec")
    return _svg(figure)


def _svg(figure: Figure) -> str:
    """Return a figure as inline SVG: the same bytes for the same data, text kept as text."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "distilwhisper"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return re.sub(r"^.*?(?=<svg)", "", buffer.getvalue(), count=1, flags=re.DOTALL)


def _shortened(text: str) -> str:
    words = text.split(" ")
    return " ".join(words[:MAX_LONG_WORDS]) + (" ..." if len(words) > MAX_LONG_WORDS else "")


def _text(value: str) -> str:
    return html.escape(value)
