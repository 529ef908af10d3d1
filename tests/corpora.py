"""Small corpora of noise, made where a test needs them."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file

from distilwhisper.corpus.records import Utterance, write_manifest
from distilwhisper.speech.audio import Samples, write_wav
from distilwhisper.speech.units import SAMPLE_RATE_HZ
from tiny_model import write_tiny_model

TEXTS = ("the rain in the valley", "a thin line there", "another one then", "there in the inn")


def noise(seconds: float, *, seed: int) -> Samples:
    """Return noise whose loudness rises and falls a few times a second, as speech's does."""
    n_samples = round(seconds * SAMPLE_RATE_HZ)
    loudness = 0.1 * np.abs(np.sin(np.linspace(0, 9 * seconds, n_samples)))
    samples: Samples = np.random.default_rng(seed).standard_normal(n_samples) * loudness
    return np.clip(samples, -1, 1).astype(np.float32)


def utterance(
    folder: Path, number: int, *, seconds: float | None = None, language: str | None = None
) -> Utterance:
    """Write one recording and return the utterance that is all of it."""
    seconds = 0.3 + 0.1 * (7 * number % 12) if seconds is None else seconds
    name = f"u{number:03}"
    write_wav(folder / f"{name}.wav", noise(seconds, seed=number))
    text = f"{TEXTS[number % len(TEXTS)]} {number}"  # a split keeps equal texts together
    return Utterance(id=name, audio=f"{name}.wav", duration_s=seconds, text=text, language=language)


def corpus(folder: Path, n: int, *, more: Iterable[Utterance] = ()) -> Path:
    """Write a manifest of n short utterances, their lengths in no order, and some more."""
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder / "manifest.jsonl", [*(utterance(folder, i) for i in range(n)), *more])
    return folder / "manifest.jsonl"


def bad_utterances(folder: Path) -> list[Utterance]:
    """Return one utterance without its file, one whose file is no audio, one beyond its end."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "corrupt.wav").write_bytes(b"RIFF, and nothing that a decoder could use")
    write_wav(folder / "short.wav", noise(0.5, seed=0))
    return [
        Utterance(id="missing", audio="missing.wav", text="the one that is missing"),
        Utterance(id="corrupt", audio="corrupt.wav", text="a corrupt one"),
        Utterance(id="beyond", audio="short.wav", start_s=9.0, duration_s=1.0, text="there"),
    ]


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return every file's time of change and bytes, by its name below the folder."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def hearing_model(folder: Path, *, multilingual: bool = False, end: float = 0.0) -> Path:
    """Write a random model that says something else of each recording.

    Args:
        folder: of the model.
        multilingual: of three languages.
        end: how much likelier than by chance, which is never, it ends by itself.
    """
    write_tiny_model(folder, seed=4 if multilingual else 1, std=0.6, multilingual=multilingual)
    weights = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    # The decoder's last bias is in every output, so a token that points its way is likelier.
    bias = weights["model.decoder.layer_norm.bias"]
    weights["model.decoder.embed_tokens.weight"][config["eos_token_id"]] += end * bias
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
