from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from distilwhisper.corpus.records import Utterance, write_manifest
from distilwhisper.decoding.transcriber import Transcriber
from distilwhisper.exporting.check import CHECKED_DECODING
from distilwhisper.model.hardware import Hardware
from distilwhisper.speech.audio import Samples, write_wav
from distilwhisper.speech.mel import log_mel
from tiny_model import write_tiny_model


def write_student(folder: Path, vocab_size: int) -> Path:
    """Write a random two-layer student of a published vocabulary."""
    return write_tiny_model(
        folder,
        vocab_size=vocab_size,
        n_mels=128 if vocab_size == 51_866 else 80,
        decoder_layers=2,
        encoder_layers=2,
        encoder_heads=4,
        encoder_ffn=128,
        decoder_ffn=128,
        std=0.3,
    )


@pytest.fixture(scope="session")
def students(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A student of each published vocabulary; large-v3's has 128 mel bins."""
    folder = tmp_path_factory.mktemp("students")
    return {size: write_student(folder / str(size), size) for size in (51_864, 51_865, 51_866)}


@pytest.fixture(scope="session")
def student(students: dict[int, Path]) -> Path:
    """The English-only one."""
    return students[51_864]


@pytest.fixture(scope="session", params=[51_864, 51_865, 51_866])
def published(request: pytest.FixtureRequest, students: dict[int, Path]) -> Path:
    """Each of the students."""
    return students[request.param]


@pytest.fixture(scope="session")
def spoken(prompts: list[tuple[Samples, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of human speech with its texts."""
    folder = tmp_path_factory.mktemp("spoken")
    utterances = []
    for number, (samples, text) in enumerate(prompts):
        write_wav(folder / f"{number}.wav", samples)
        utterances.append(
            Utterance(id=str(number), audio=f"{number}.wav", text=text, language="en")
        )
    write_manifest(folder / "spoken.jsonl", utterances)
    return folder / "spoken.jsonl"


@pytest.fixture(scope="session")
def on_zero_frames(tiny_en: Path) -> Callable[[Samples], str]:
    """whisper-tiny.en on frames that end in zeros.

    faster-whisper and sherpa-onnx pad a window's normalised frames, and Whisper its sound: silence
    comes out of that below zero. So their texts differ from the original's, now and then, however
    exactly they compute.
    """
    original = Transcriber.from_model(str(tiny_en), CHECKED_DECODING, Hardware("cpu", "float32"))
    model, tokenizer = original.checkpoint.model, original.tokenizer
    rules = original.checkpoint.generation_config

    @torch.inference_mode()
    def text(samples: Samples) -> str:
        mel = log_mel(torch.from_numpy(samples)[None], n_mels=80)
        mel = torch.nn.functional.pad(mel, (0, 3000 - mel.shape[-1]))
        cross = model.decoder.cross_cache(model.encoder(mel))
        prompt = tokenizer.prompt_ids(language=None, timestamps=False)
        found: list[int] = []
        while len(found) < 100:
            logits = model.decoder.project(model.decoder(torch.tensor([[*prompt, *found]]), cross))[
                0, -1
            ]
            first = rules["begin_suppress_tokens"] if not found else []
            logits[[*rules["suppress_tokens"], *first]] = -torch.inf
            logits[tokenizer.timestamp_begin :] = -torch.inf
            token_id = int(logits.argmax())
            if token_id == tokenizer.eot:
                break
            found.append(token_id)
        return tokenizer.decode(found).strip()

    return text
