"""Stage 3: a teacher to a smaller network that starts from the teacher's own layers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from distilwhisper.corpus.batches import load_utterances
from distilwhisper.corpus.records import Manifest
from distilwhisper.decoding.alignment import (
    LabelledSpeech,
    measure_alignment_heads,
    with_alignment_heads,
)
from distilwhisper.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from distilwhisper.model.hub import resolve_model
from distilwhisper.model.whisper import Whisper
from distilwhisper.speech.audio import WINDOW_SAMPLES
from distilwhisper.text.tokens import Tokenizer

MOST_UTTERANCES = 120  # more did not change the heads found for tiny.en


@dataclass(frozen=True)
class StudentSettings:
    """Which of the teacher's decoder layers the student begins with."""

    decoder_layers: int = 2
    """How many, spaced as widely as can be: the first and the last are among them."""
    layers: tuple[int, ...] | None = None
    """Named layers instead, in order; negative numbers count from the end."""

    def __post_init__(self) -> None:
        if self.decoder_layers < 1:
            raise ValueError(f"decoder_layers must be at least 1, found {self.decoder_layers}")
        if self.layers is not None and not self.layers:
            raise ValueError("layers must name at least one layer, found none")

    def chosen(self, n_layers: int) -> list[int]:
        """Return the teacher's layers that the student copies, of a teacher of ``n_layers``."""
        if self.layers is None:
            return spaced_layers(n_layers, self.decoder_layers)
        return named_layers(n_layers, self.layers)


def spaced_layers(n_layers: int, n_kept: int) -> list[int]:
    """Return ``n_kept`` layers of ``n_layers``, as widely spaced as can be.

    The first and the last are always among them; a single one is the last, which is the one that
    speaks to the vocabulary.

    Raises:
        ValueError: there are fewer layers than are to be kept.

    Source: arXiv:2311.00430, section 3.1; ``training/create_student_model.py`` there.
    """
    if not 1 <= n_kept <= n_layers:
        raise ValueError(
            f"a student keeps 1 to {n_layers} of its teacher's {n_layers} decoder layers, "
            f"found {n_kept}"
        )
    if n_kept == 1:
        return [n_layers - 1]
    return [i * (n_layers - 1) // (n_kept - 1) for i in range(n_kept)]


def named_layers(n_layers: int, layers: Sequence[int]) -> list[int]:
    """Return layers as numbers from 0, negative ones counted from the end.

    Raises:
        ValueError: a number names no layer, or two name the same.
    """
    wrong = [i for i in layers if not -n_layers <= i < n_layers]
    if wrong:
        raise ValueError(
            f"layers must lie in [{-n_layers}, {n_layers - 1}] for a teacher of {n_layers} "
            f"decoder layers, found {', '.join(map(str, wrong))}"
        )
    chosen = [i % n_layers for i in layers]
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"layers must differ from one another, found {list(layers)} = {chosen}")
    return chosen


def build_student(teacher: Checkpoint, settings: StudentSettings) -> Checkpoint:
    """Copy a teacher's encoder, embeddings and chosen decoder layers into a new network.

    Returns:
        A checkpoint of the teacher's dtype and device that shares no memory with it. Alignment
        heads that name layers of the teacher are left out: the student has other ones.
    """
    layers = settings.chosen(teacher.model.config.decoder_layers)
    config = replace(teacher.model.config, decoder_layers=len(layers))
    weights = {}
    for name, weight in teacher.model.state_dict().items():
        kept = _student_name(name, layers)
        if kept is not None:
            weights[kept] = weight.clone()
    with torch.device("meta"):
        model = Whisper(config)
    model.load_state_dict(weights, strict=True, assign=True)
    model.eval()
    files = replace(teacher.files, generation_config=_generation_config(teacher))
    return Checkpoint(model, files, teacher.folder)


def make_student(teacher: str, dest: Path, settings: StudentSettings) -> Checkpoint:
    """Write the student of a teacher as a model folder.

    Args:
        teacher: a model folder or hub id.
        dest: must not exist or be empty.
        settings: which layers.

    Raises:
        FileExistsError: ``dest`` holds something.
    """
    if dest.exists() and any(dest.iterdir()):
        raise FileExistsError(f"{dest} must be empty or new, found files in it: name another DEST")
    student = build_student(load_checkpoint(resolve_model(teacher)), settings)
    save_checkpoint(student, dest)
    return replace(student, folder=dest)


def add_alignment_heads(checkpoint: Checkpoint, manifest: Manifest) -> Checkpoint:
    """Return a model that knows which of its attention heads follow the speech, for word times.

    They are measured on the model itself: a teacher's are of layers that its student may lack.

    Args:
        checkpoint: the model.
        manifest: utterances with their texts; the first ``MOST_UTTERANCES`` are listened to.

    Raises:
        ValueError: fewer than two utterances have a text and can be read.
    """
    tokenizer = Tokenizer.from_folder(checkpoint.folder)
    spoken = [utterance for utterance in manifest.utterances if (utterance.text or "").strip()]
    loaded = load_utterances(manifest, spoken[:MOST_UTTERANCES])
    utterances = [
        LabelledSpeech(samples, tuple(tokenizer.encode(f" {(utterance.text or '').strip()}")))
        for utterance, samples in loaded
        if not isinstance(samples, Exception) and len(samples) <= WINDOW_SAMPLES
    ]
    if len(utterances) < 2:
        raise ValueError(
            "alignment heads are measured where one utterance ends and the next begins: at least "
            f"two with texts must be readable, found {len(utterances)} in the manifest"
        )
    languages = {utterance.language for utterance in spoken}
    language = (languages.pop() or "en") if len(languages) == 1 else "en"
    prompt_ids = tokenizer.prompt_ids(
        language=language if tokenizer.is_multilingual else None, timestamps=False
    )
    heads = measure_alignment_heads(
        checkpoint.model, utterances, prompt_ids=prompt_ids, tokenizer=tokenizer
    )
    return with_alignment_heads(checkpoint, heads)


def _student_name(name: str, layers: Sequence[int]) -> str | None:
    """Return what a teacher's weight is called in the student; None where it stays behind."""
    prefix = "decoder.layers."
    if not name.startswith(prefix):
        return name
    number, rest = name.removeprefix(prefix).split(".", 1)
    return f"{prefix}{layers.index(int(number))}.{rest}" if int(number) in layers else None


def _generation_config(teacher: Checkpoint) -> dict[str, Any]:
    return {k: v for k, v in teacher.generation_config.items() if k != "alignment_heads"}
