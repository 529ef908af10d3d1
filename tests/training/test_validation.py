from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from corpora import hearing_model, noise, utterance
from distilwhisper.corpus.records import Utterance, in_language, read_manifest, write_manifest
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.model.checkpoint import load_checkpoint
from distilwhisper.speech.audio import load_samples
from distilwhisper.speech.units import SAMPLE_RATE_HZ
from distilwhisper.text.tokens import Tokenizer
from distilwhisper.training.ranks import Ranks
from distilwhisper.training.validation import check_set, validation_wers


def test_a_student_for_short_sound_is_validated_as_it_will_be_used(tmp_path: Path) -> None:
    """The references are what it says with little silence behind the sound."""
    folder = hearing_model(tmp_path / "model", multilingual=True, end=1.6)
    student, tokenizer = load_checkpoint(folder), Tokenizer.from_folder(folder)
    for weight in student.model.decoder.layer_norm.parameters():
        weight.data *= 10  # as sure of its babble as it must be not to be heard again with 30 s
    write_manifest(tmp_path / "manifest.jsonl", [utterance(tmp_path, n) for n in (3, 5)])
    manifest = read_manifest(tmp_path / "manifest.jsonl")
    settings = DecodingSettings(timestamps=False, temperature=(0.0,), context_margin_s=0.2)
    pieces = [load_samples(manifest.audio_source(u)) for u in manifest.utterances]
    said = Transcriber(student, tokenizer, settings).decode(pieces)
    said_so = replace(
        manifest,
        utterances=tuple(
            replace(heard, text=window.text)
            for heard, window in zip(manifest.utterances, said, strict=True)
        ),
    )
    wer = {}
    for margin_s in (None, 0.2):
        settings = replace(settings, context_margin_s=margin_s)
        hearer = Transcriber(student, tokenizer, settings)
        wer[margin_s] = validation_wers(hearer, {"all": said_so}, Ranks())["all"]
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
    hearer = transcriber(tiny_model)
    check_set(sets["bad"], hearer)
    assert validation_wers(hearer, sets, Ranks()) == {"bad": 1.0}


def transcriber(model: Path, **how: Any) -> Transcriber:
    settings = DecodingSettings(timestamps=False, temperature=(0.0,), **how)
    return Transcriber(load_checkpoint(model), Tokenizer.from_folder(model), settings)


def test_a_student_is_validated_in_the_language_and_task_it_is_for(tmp_path: Path) -> None:
    """What it says when asked in three ways; asked in none, it says at most one of them."""
    folder = hearing_model(tmp_path / "model", multilingual=True, end=1.6)
    write_manifest(tmp_path / "manifest.jsonl", [utterance(tmp_path, n) for n in (3, 5)])
    manifest = read_manifest(tmp_path / "manifest.jsonl")
    pieces = [load_samples(manifest.audio_source(u)) for u in manifest.utterances]
    n_wrong = 0
    for language, how in (("de", {}), ("zh", {}), ("de", {"task": "translate"})):
        asked = transcriber(folder, **how)
        windows = asked.decode(pieces, languages=[language] * len(pieces))
        pairs = zip(in_language(manifest, language).utterances, windows, strict=True)
        heard = tuple(replace(utterance, text=window.text) for utterance, window in pairs)
        sets = {"all": replace(manifest, utterances=heard)}
        assert asked.settings.task == how.get("task", "transcribe")
        assert validation_wers(asked, sets, Ranks()) == {"all": 0}
        unnamed = replace(manifest, utterances=tuple(replace(u, language=None) for u in heard))
        n_wrong += validation_wers(transcriber(folder), {"all": unnamed}, Ranks())["all"] > 0
    assert n_wrong >= 2


def test_a_language_or_task_that_the_student_does_not_know_is_refused(
    tmp_path: Path, tiny_model: Path
) -> None:
    with pytest.raises(ValueError, match="English-only and cannot translate"):
        transcriber(tiny_model, task="translate")
    german = replace(utterance(tmp_path, 1), language="de")
    write_manifest(tmp_path / "manifest.jsonl", [german])
    with pytest.raises(ValueError, match=r"utterance 'u001' of the manifest: .* English only"):
        check_set(read_manifest(tmp_path / "manifest.jsonl"), transcriber(tiny_model))


def test_texts_of_which_nothing_is_left_are_refused(tmp_path: Path, tiny_model: Path) -> None:
    remarks = [replace(utterance(tmp_path, n), text=text) for n, text in enumerate(("[noise]", ""))]
    write_manifest(tmp_path / "manifest.jsonl", [replace(u, language="en") for u in remarks])
    with pytest.raises(ValueError, match="found 1 texts, of which normalising leaves no word"):
        check_set(read_manifest(tmp_path / "manifest.jsonl"), transcriber(tiny_model))
