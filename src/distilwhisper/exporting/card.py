"""The README.md beside an exported model: what it is, how to run it, and what it costs in words."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from distilwhisper import __version__
from distilwhisper.exporting.settings import ExportSettings

if TYPE_CHECKING:
    from distilwhisper.exporting.check import Check


def card(
    name: str,
    settings: ExportSettings,
    *,
    library: str,
    example: str,
    notes: Sequence[str],
    check: "Check | None",
) -> str:
    """Return the card of an exported model.

    Args:
        name: of the original.
        settings: of the export.
        library: the program that runs it.
        example: a fenced block of code.
        notes: what to know of it.
        check: where it was checked.
    """
    parts = [
        f"---\nlibrary_name: {library}\npipeline_tag: automatic-speech-recognition\n"
        "tags:\n- whisper\n- distilwhisper\n---\n",
        f"# {name} for {library}\n",
        f"Exported to {settings.to}, weights in {settings.written_dtype}, by distilwhisper "
        f"{__version__}. The licence of the original's weights applies.\n",
        example,
        *(f"> {note}\n" for note in notes),
        "## Beside the original\n",
        _checked(settings, check),
    ]
    return "\n".join(parts)


def _checked(settings: ExportSettings, check: "Check | None") -> str:
    if check is None:
        return "Not checked on any speech: export again with `--check SET.jsonl`.\n"
    verdict = ""
    if not check.is_good_enough(settings.max_wer_increase):
        verdict = f"**Failed its check: {check.verdict(settings.max_wer_increase)}.**\n\n"
    return (
        f"{verdict}{check.table()}\nOn {check.describe()}. Both greedy, without timestamps, one "
        "window at a time, on one CPU, the original in float32; RTFx is seconds of audio per "
        "second of computing. Errors are counted after the same normaliser on both sides: "
        "substitutions, deletions, insertions.\n"
    )
