from dataclasses import replace
from pathlib import Path

from corpora import hearing_model, utterance

from distilwhisper.corpus.records import read_manifest, write_manifest
from distilwhisper.decoding.settings import DecodingSettings
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.model.checkpoint import load_checkpoint
from distilwhisper.speech.audio import load_samples
from distilwhisper.text.tokens import Tokenizer
from distilwhisper.training.ranks import Ranks
from distilwhisper.training.validation import validation_wers


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
