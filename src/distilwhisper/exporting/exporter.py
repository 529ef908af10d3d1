"""A model to what other programs run: written whole, checked on speech, with a card beside it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from distilwhisper import __version__
from distilwhisper.corpus.records import Manifest, read_manifest
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.errors import DistilwhisperError
from distilwhisper.exporting import ctranslate2, ggml, onnx, openai, sherpa
from distilwhisper.exporting.settings import ExportSettings, Target
from distilwhisper.extras import MissingExtra
from distilwhisper.files import new_folder, require_new, store_error
from distilwhisper.model.hardware import Hardware
from distilwhisper.model.hub import resolve_model
from distilwhisper.model.layout import ModelFiles, read_model_folder
from distilwhisper.progress import say
from distilwhisper.speech.audio import Samples

if TYPE_CHECKING:
    from distilwhisper.exporting.check import Check


class WorseThanOriginal(DistilwhisperError):
    """An exported model makes more errors than it may."""


@runtime_checkable
class Writer(Protocol):
    """What the module of each target has."""

    LIBRARY: str  # the program that runs the files
    CHECKED_BY: tuple[str, str]  # what running them imports, and what to give to pip for it
    EXAMPLE: str  # a fenced block for the card

    def write(
        self, files: ModelFiles, folder: Path, settings: ExportSettings, *, where: Path
    ) -> list[str]:
        """Write a model's files into an empty folder; return what to know of the exported model.

        Raises:
            BadCheckpoint: the other program cannot run the model, which lies at ``where``: it
                knows no such vocabulary, network or size.
        """

    def recogniser(self, folder: Path, files: ModelFiles) -> Callable[[Samples, str], str]:
        """Return the exported model at work on the CPU, greedy and without timestamps.

        It writes the text of at most 30 s of sound. It is told the code of the language, "en" for
        an English-only model.
        """


WRITERS: dict[Target, Writer] = {
    "ctranslate2": ctranslate2,
    "ggml": ggml,
    "openai": openai,
    "onnx": onnx,
    "sherpa": sherpa,
}


@dataclass(frozen=True)
class Exported:
    """An exported model."""

    folder: Path
    notes: list[str]
    check: "Check | None"  # None: not asked for

    def __fspath__(self) -> str:
        return str(self.folder)


def export_model(
    model: str, dest: Path, settings: ExportSettings, *, check: Path | None = None
) -> Exported:
    """Write a model (a folder, a delta or a hub id) as another program reads it, with a card.

    ``dest``, which is new or empty, appears whole, by rename, once the model in it is written and
    checked: on the utterances with references that ``check`` names, beside the original.

    Raises:
        BadCheckpoint: the model is incomplete, or none that the other program can run.
        FileExistsError: ``dest`` holds something.
        StoreError: the disk is full, or the place cannot be written.
        MissingExtra: what writes the files, or runs them for the check, is not installed.
        WorseThanOriginal: the exported model makes too many errors. It is kept, and its card
            says so.
    """
    require_new(dest)
    writer, manifest, checked = WRITERS[settings.to], None, None
    if check is not None:
        package, pip = writer.CHECKED_BY
        if find_spec(package) is None:
            raise MissingExtra(f"checking needs packages that are not installed: pip install {pip}")
        manifest = read_manifest(check)
    source = resolve_model(model)
    files = read_model_folder(source)
    with new_folder(dest) as folder:
        say(f"export: {model} to {settings.to}, {settings.written_dtype}")
        try:
            notes = writer.write(files, folder, settings, where=source)
        except OSError as error:
            raise store_error(dest, error) from error
        for note in notes:
            say(f"export: {note}")
        if manifest is not None:
            say(f"export: checking on {len(manifest.utterances)} utterances of {check}")
            checked = _check(source, folder, files, writer, manifest)
        text = _card(Path(model).name, settings, notes, checked)
        (folder / "README.md").write_text(text, encoding="utf-8")
    if checked is not None and (fault := checked.fault(settings.max_wer_increase)):
        finer = "" if settings.written_dtype == "float32" else "take a finer dtype, "
        raise WorseThanOriginal(
            f"{dest}: {fault}, on {checked.describe()}: {finer}check more speech, or allow more by "
            f"max_wer_increase\n{checked.table()}"
        )
    return Exported(dest, notes, checked)


def _check(
    source: Path, folder: Path, files: ModelFiles, writer: Writer, manifest: Manifest
) -> "Check":
    from distilwhisper.exporting.check import CHECKED_DECODING, check_export

    hardware = Hardware(device="cpu", dtype="float32")
    original = Transcriber.from_model(str(source), CHECKED_DECODING, hardware)
    sizes = (
        sum(weight.nbytes for weight in files.weights.values()),
        sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    )
    return check_export(original, writer.recogniser(folder, files), manifest, sizes=sizes)


def _card(name: str, settings: ExportSettings, notes: Sequence[str], check: "Check | None") -> str:
    """Return the README.md of an exported model: what it is, how to run it, and what it costs."""
    writer = WRITERS[settings.to]
    beside = "Not checked on any speech: export again with `--check SET.jsonl`.\n"
    if check is not None:
        fault = check.fault(settings.max_wer_increase)
        failed = f"**Failed its check: {fault}.**\n\n" if fault else ""
        beside = (
            f"{failed}{check.table()}\nOn {check.describe()}. Both greedy, without timestamps, one "
            "window at a time, on one CPU, the original in float32; RTFx is seconds of audio per "
            "second of computing. Errors are counted after the same normaliser on both sides: "
            "substitutions, deletions, insertions.\n"
        )
    parts = [
        f"---\nlibrary_name: {writer.LIBRARY}\npipeline_tag: automatic-speech-recognition\n"
        "tags:\n- whisper\n- distilwhisper\n---\n",
        f"# {name} for {writer.LIBRARY}\n",
        f"Exported to {settings.to}, weights in {settings.written_dtype}, by distilwhisper "
        f"{__version__}. The licence of the original's weights applies.\n",
        writer.EXAMPLE.replace("DTYPE", "q8" if settings.dtype == "int8" else "fp32"),
        *(f"> {note}\n" for note in notes),
        "## Beside the original\n",
        beside,
    ]
    return "\n".join(parts)
