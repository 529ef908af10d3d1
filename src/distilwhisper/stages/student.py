"""Stage 3: a teacher to a smaller network that starts from the teacher's own layers."""

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path

import torch
from torch import Tensor

from distilwhisper.corpus.batches import load_utterances
from distilwhisper.corpus.records import Manifest
from distilwhisper.decoding.alignment import (
    LabelledSpeech,
    measure_alignment_heads,
    with_alignment_heads,
)
from distilwhisper.files import require_new
from distilwhisper.model.checkpoint import (
    Checkpoint,
    count_parameters,
    load_checkpoint,
    read_config,
    save_checkpoint,
)
from distilwhisper.model.hub import resolve_model
from distilwhisper.model.layout import empty_network
from distilwhisper.model.roofline import TOKENS_PER_WINDOW, window_s
from distilwhisper.model.whisper import WhisperConfig
from distilwhisper.speech.units import WINDOW_SAMPLES
from distilwhisper.stages.layers import StudentSettings
from distilwhisper.text.tokens import Tokenizer

MOST_UTTERANCES = 120  # more did not change the heads found for tiny.en


def build_student(teacher: Checkpoint, settings: StudentSettings) -> Checkpoint:
    """Copy a teacher's embeddings and chosen layers into a new network, of its dtype and device.

    ``start`` of the settings is the caller's to follow. Alignment heads that name layers of the
    teacher are left out: the student has other ones.
    """
    config = teacher.model.config
    sources = {
        "encoder.layers.": settings.encoder_sources(config.encoder_layers),
        "decoder.layers.": settings.decoder_sources(config.decoder_layers),
    }
    theirs = teacher.model.state_dict()
    weights = {name: w.clone() for name, w in theirs.items() if not name.startswith(tuple(sources))}
    for prefix, blocks in sources.items():
        for number, block in enumerate(blocks):
            first = f"{prefix}{block[0]}."
            for name in (key.removeprefix(first) for key in theirs if key.startswith(first)):
                layers = [theirs[f"{prefix}{source}.{name}"] for source in block]
                weights[f"{prefix}{number}.{name}"] = _mean(layers)
    encoder, decoder = map(len, sources.values())
    model = empty_network(replace(config, encoder_layers=encoder, decoder_layers=decoder))
    model.load_state_dict(weights, strict=True, assign=True)
    model.eval()
    generation = {k: v for k, v in teacher.generation_config.items() if k != "alignment_heads"}
    files = replace(teacher.files, generation_config=generation)
    return Checkpoint(model, files, teacher.folder)


def make_student(
    teacher: str | PathLike[str], dest: str | PathLike[str], settings: StudentSettings | None = None
) -> Checkpoint:
    """Write the student of a teacher, or of the model to start from, as a model folder.

    Raises:
        ValueError: the model to start from has another vocabulary or other mel bins.
        FileExistsError: ``dest`` holds something.
    """
    teacher, dest, settings = fspath(teacher), Path(dest), settings or StudentSettings()
    require_new(dest)
    source = load_checkpoint(resolve_model(settings.start or teacher))
    if settings.start is not None:
        faults = start_faults(source.model.config, read_config(resolve_model(teacher)))
        if faults:
            raise ValueError(f"{source.folder} {'; '.join(faults)}: start from another model")
    student = build_student(source, settings)
    save_checkpoint(student, dest)
    return replace(student, folder=dest)


def start_faults(start: WhisperConfig, teacher: WhisperConfig) -> list[str]:
    """Return why a student that starts from some other model could not learn from the teacher."""
    return [
        f"must have its teacher's {name} {theirs}, found {ours}"
        for name in ("vocab_size", "n_mels")
        if (ours := getattr(start, name)) != (theirs := getattr(teacher, name))
    ]


def add_alignment_heads(checkpoint: Checkpoint, manifest: Manifest) -> Checkpoint:
    """Return a model that knows which of its attention heads follow the speech, for word times.

    They are measured on the model itself: a teacher's are of layers that its student may lack. The
    first ``MOST_UTTERANCES`` that have texts are measured.

    Raises:
        ValueError: fewer than two utterances have a text and can be read.
    """
    tokenizer = _tokenizer(checkpoint)
    with_text = [utterance for utterance in manifest.utterances if (utterance.text or "").strip()]
    utterances = [
        LabelledSpeech(samples, tuple(tokenizer.encode(f" {(utterance.text or '').strip()}")))
        for utterance, samples in load_utterances(manifest, with_text[:MOST_UTTERANCES])
        if not isinstance(samples, Exception) and len(samples) <= WINDOW_SAMPLES
    ]
    if len(utterances) < 2:
        raise ValueError(
            "alignment heads are measured where one utterance ends and the next begins: at least "
            f"two with texts must be readable, found {len(utterances)} in the manifest"
        )
    languages = {utterance.language for utterance in with_text}
    common = languages.pop() if len(languages) == 1 else None
    language = (common or "en") if tokenizer.is_multilingual else None
    prompt_ids = tokenizer.prompt_ids(language=language, timestamps=False)
    heads = measure_alignment_heads(
        checkpoint.model, utterances, prompt_ids=prompt_ids, tokenizer=tokenizer
    )
    return with_alignment_heads(checkpoint, heads)


def allow_silence(checkpoint: Checkpoint) -> Checkpoint:
    """Return a model, and its generation settings, that may end without any text.

    Whisper's own files forbid the end as the first token, so that without timestamps every
    published model emits text.
    """
    eot = _tokenizer(checkpoint).eot
    forbidden = checkpoint.generation_config.get("begin_suppress_tokens") or []
    without_eot = [token for token in forbidden if token != eot]
    return checkpoint.with_generation(begin_suppress_tokens=without_eot)


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    return Tokenizer.from_json(checkpoint.files.tokenizer_json, where=checkpoint.folder)


def describe_student(student: WhisperConfig, teacher: WhisperConfig) -> str:
    """Return layers and parameters of a student, and how much faster it is to be."""
    parts = [
        f"{getattr(student, name)} of {getattr(teacher, name)} {name.replace('_', ' ')}"
        for name in ("encoder_layers", "decoder_layers")
    ]
    ours, theirs = count_parameters(student), count_parameters(teacher)
    sped_up = (window_s(teacher, batch=n) / window_s(student, batch=n) for n in (1, 16, 64))
    return (
        f"{', '.join(parts)}; {ours / 1e6:.1f} M parameters, {100 * ours / theirs:.0f} % of the "
        f"teacher's; predicted speed-up {', '.join(f'{times:.1f}' for times in sped_up)} at batch "
        f"1, 16, 64 (roofline of an H100, {TOKENS_PER_WINDOW} tokens a window)"
    )


def _mean(weights: Sequence[Tensor]) -> Tensor:
    """Return the mean of some weights, of their own dtype; one alone comes back as it is."""
    if len(weights) == 1:
        return weights[0].clone()
    return torch.stack([weight.float() for weight in weights]).mean(dim=0).to(weights[0].dtype)
