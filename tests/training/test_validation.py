from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from corpora import hearing_model, noise, utterance

from distilwhisper.corpus.records import Utterance, read_manifest, write_manifest
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.model.checkpoint import load_checkpoint
from distilwhisper.speech.audio import SAMPLE_RATE_HZ, load_samples
from distilwhisper.text.tokens import Tokenizer
from distilwhisper.training.ranks import Ranks
from distilwhisper.training.validation import check_validation, validation_wers


def test_a_student_for_short_sound_is_validated_as_it_will_be_used(tmp_path: Path) -> None:
    """The references are what it says with little silence behind the sound."""
    folder = hearing_model(tmp_path / "model", multilingual=True, end=1.6)
    student, tokenizer = load_checkpoint(folder), Tokenizer.from_folder(folder)
    for weight in student.model.decoder.layer_norm.parameters():
        weight.data *= 10  # as sure of its babble as it must be not to be heard again with 30 s
    write_manifest(tmp_path / "manifest.jsonl", [utterance(tmp_path, n) for n in (3, 5)])
    manifest = read_manifest(tmp_path / "manifest.jsonl")
    settings = DecodingSettings(timestamps=False, temperatures=(0.0,), context_margin_s=0.2)
    pieces = [load_samples(manifest.audio_source(u)) for u in manifest.utterances]
    said = Transcriber(student, tokenizer, settings).decode(pieces)
    said_so = replace(
        manifest,
        utterances=tuple(
            replace(heard, text=window.text)
            for heard, window in zip(manifest.utterances, said, strict=True)
        ),
    )
    wer = {
        margin_s: validation_wers(
            student, tokenizer, {"all": said_so}, Ranks(), context_margin_s=margin_s
        )["all"]
        for margin_s in (None, 0.2)
    }
    assert wer[0.2] == 0
    assert wer[None] > 0


def test_sound_that_is_no_window_counts_as_unheard(tmp_path: Path, tiny_model: Path) -> None:
    """How long a file is whose length the manifest does not tell is known when it is read."""
    sounds = {
        "long": noise(30.5, seed=0),
        "empty": np.zeros(0, np.float32),
        "nan": np.full(8000, np.nan, np.float32),
    }
    for name, samples in sounds.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, SAMPLE_RATE_HZ, subtype="FLOAT")
    bad = [Utterance(name, f"{name}.wav", text="the rain") for name in (*sounds, "missing")]
    write_manifest(tmp_path / "bad.jsonl", bad)
    sets = {"bad": read_manifest(tmp_path / "bad.jsonl")}
    check_validation(sets)
    student, tokenizer = load_checkpoint(tiny_model), Tokenizer.from_folder(tiny_model)
    assert validation_wers(student, tokenizer, sets, Ranks()) == {"bad": 1.0}


def test_texts_of_which_nothing_is_left_are_refused(tmp_path: Path) -> None:
    remarks = [replace(utterance(tmp_path, n), text=text) for n, text in enumerate(("[noise]", ""))]
    write_manifest(tmp_path / "manifest.jsonl", [replace(u, language="en") for u in remarks])
    with pytest.raises(ValueError, match="found 1 texts, of which normalising leaves no word"):
        check_validation({"all": read_manifest(tmp_path / "manifest.jsonl")})
