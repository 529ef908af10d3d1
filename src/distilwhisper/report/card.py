"""The model card of a student: what it was made from and how, and how far to trust it.

It is the README.md of the model's folder, in the form that Hugging Face's hub reads: facts for
programs between two lines of dashes, then the same for people.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distilwhisper.corpus.store import write_atomic
from distilwhisper.evaluation.comparison import Cell
from distilwhisper.evaluation.table import rate_name
from distilwhisper.report.facts import SETS, RunFacts, percent
from distilwhisper.text.tokens import language_code

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def write_card(model: Path, facts: RunFacts) -> Path:
    """Write a student's README.md from the run that made it.

    Args:
        model: the student's folder.
        facts: of its run.

    Returns:
        The card's path.
    """
    sections = [_metadata(facts), _head(facts), _use(facts), _results(facts), _made(facts)]
    path = model / "README.md"
    write_atomic(path, "\n".join(sections) + _limits(facts))
    return path


def _metadata(facts: RunFacts) -> str:
    """Return the card's YAML; strings are quoted as in JSON, which YAML reads."""
    lines = ["---", "library_name: transformers", "pipeline_tag: automatic-speech-recognition"]
    if _HUB_ID.fullmatch(facts.teacher) and not Path(facts.teacher).exists():
        lines.append(f"base_model: {json.dumps(facts.teacher)}")
    language = _language(facts)
    if language is not None:
        lines += ["language:", f"- {json.dumps(language)}"]
    sources = facts.spoken.sources if facts.spoken else {}
    datasets = [source for source in sources if source and _HUB_ID.fullmatch(source)]
    if datasets:
        lines += ["datasets:", *(f"- {json.dumps(source)}" for source in datasets)]
    lines += ["tags:", "- whisper", "- distil-whisper", "- distilwhisper", "model-index:"]
    lines += [f"- name: {json.dumps(facts.name)}", "  results:"]
    for set_, name in SETS.items():
        cell = facts.cell("student", set_)
        if cell.wer is None:
            continue
        lines += [
            "  - task:",
            "      type: automatic-speech-recognition",
            "    dataset:",
            f"      name: {json.dumps(f'{facts.name}: {name}')}",
            f"      type: {json.dumps(set_)}",
            "    metrics:",
            f"    - type: {'wer' if cell.unit == 'word' else 'cer'}",
            f"      value: {100 * cell.wer:.2f}",
        ]
    return "\n".join([*lines, "---", ""])


def _language(facts: RunFacts) -> str | None:
    """Return the code of the language that the run was asked for."""
    named = facts.recipe.get("data", {}).get("language")
    return None if named is None else language_code(named)


def _head(facts: RunFacts) -> str:
    student, teacher = facts.cell("student", "test"), facts.cell("teacher", "test")
    share = student.n_parameters / teacher.n_parameters
    settings = facts.recipe.get("student", {})
    layers = len(settings.get("layers") or ()) or settings.get("decoder_layers")
    return (
        f"# {facts.name}\n\n"
        f"A distilled Whisper model for speech recognition: a student of `{facts.teacher}` with "
        f"{layers} decoder layers and {student.n_parameters / 1e6:.1f} M parameters, "
        f"{100 * share:.0f} % of its teacher's. Made with distilwhisper after "
        "[Distil-Whisper](https://arxiv.org/abs/2311.00430).\n"
    )


def _use(facts: RunFacts) -> str:
    code = _language(facts)
    # English-only models take no language.
    named = code if code is not None and not facts.teacher.endswith(".en") else None
    asked = "" if named is None else f', generate_kwargs={{"language": "{named}"}}'
    option = "" if named is None else f" --language {named}"
    return (
        "## Use\n\n"
        "```python\n"
        "from transformers import pipeline\n\n"
        'recognise = pipeline("automatic-speech-recognition", model="path/to/this/folder")\n'
        f'print(recognise("talk.mp3"{asked})["text"])\n'
        "```\n\n"
        "Long recordings, subtitles, and drafting for the teacher (the teacher's own text, "
        "sooner):\n\n"
        f"    distilwhisper transcribe talk.mp3 --model path/to/this/folder --format srt{option}\n"
        f"    distilwhisper transcribe talk.mp3 --model {facts.teacher} "
        f"--draft path/to/this/folder{option}\n"
    )


def _results(facts: RunFacts) -> str:
    rows = [_result_row(cell) for cell in facts.comparison.cells]
    return (
        "## Results\n\n"
        + _table(
            ["model, set", rate_name(facts.comparison), "S / D / I", "utterances", "RTFx"], rows
        )
        + "\nSubstitutions, deletions and insertions over the reference's words, or characters "
        "where words are not spaced, summed over the set, after the same normaliser on both "
        f"sides: {_normaliser(facts)}. RTFx: seconds of audio per second of computing, measured "
        f"once on the machine below. The held-out test is {_test_set(facts)}.\n"
    )


def _test_set(facts: RunFacts) -> str:
    data = facts.recipe.get("data", {})
    if "test" in data:
        return f"`{Path(data['test']).stem}`"
    return f"a part of `{Path(data.get('source', facts.name)).name}` that was not trained on"


def _normaliser(facts: RunFacts) -> str:
    english = "Whisper's English one"
    other = "Whisper's basic one, which keeps the marks that a script needs"
    code = _language(facts)
    if code is None:
        return f"of English texts {english}, of others {other}"
    return english if code == "en" else other


def _result_row(cell: Cell) -> list[str]:
    kinds = ("substitutions", "deletions", "insertions")
    errors = " / ".join(str(cell.errors[kind]) for kind in kinds)
    return [
        f"{cell.model}, {cell.set}",
        percent(cell.wer),
        f"{errors} of {cell.errors['words']} {cell.unit}s",
        str(cell.n_utterances),
        f"{cell.rtfx:.1f}",
    ]


def _made(facts: RunFacts) -> str:
    kept, total = facts.filtered["kept"], facts.filtered["total"]
    dropped = [
        [reason.replace("_", " "), str(part["count"]), f"{part['hours']:.2f}"]
        for reason, part in facts.filtered["by_reason"].items()
    ]
    training = facts.training
    names = ("steps", "batch_size", "peak_lr", "kl_weight", "pl_weight", "temperature")
    settings = ", ".join(f"{name} {training[name]}" for name in names if name in training)
    return (
        "## How it was made\n\n"
        f"{_spoken(facts)}"
        f"`{facts.teacher}` labelled {total['count']} utterances ({total['hours']:.2f} h); "
        f"{kept['count']} ({kept['hours']:.2f} h) passed the filter:\n\n"
        + _table(["verdict", "utterances", "hours"], dropped)
        + f"\nTrained on them with {settings}. {_machine(facts)}\n"
    )


def _spoken(facts: RunFacts) -> str:
    """Name the speech that the student has learnt from: sets, sources and licences."""
    if facts.spoken is None:
        return ""
    licences = _counted(facts.spoken.licences, "not named")
    return (
        f"Speech: {', '.join(f'`{name}`' for name in facts.spoken.sets)}. Sources, by utterances: "
        f"{_counted(facts.spoken.sources, 'not named')}. Licences: {licences}.\n\n"
    )


def _counted(of: Mapping[str | None, int], none: str) -> str:
    return ", ".join(f"{none if name is None else name} {n}" for name, n in of.items())


def _machine(facts: RunFacts) -> str:
    starts: Sequence[dict[str, Any]] = facts.record.get("invocations", [])
    if not starts:
        return ""
    last = starts[-1]
    git = last.get("git") or {}
    return (
        f"distilwhisper {last['distilwhisper']}"
        + (f" ({git['revision'][:12]})" if git else "")
        + f", torch {last['packages'].get('torch')}, {last['cpu']}, seed {last['seed']}."
    )


def _limits(facts: RunFacts) -> str:
    limits = [
        "It has what its teacher's labels have: their errors, names and spellings that they get "
        "wrong, and the languages and kinds of speech that were in the data above, no others.",
        "Like every Whisper model it may write words where nobody speaks.",
    ]
    if facts.caution is not None:
        limits.insert(0, facts.caution)
    if not facts.training.get("prompt_probability"):
        limits.append(
            "It was trained without previous text as a prompt: do not condition it on any."
        )
    limits.append("The licences of the teacher's weights and of the training data apply to it.")
    return "\n## Limits\n\n" + "".join(f"- {limit}\n" for limit in limits)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
