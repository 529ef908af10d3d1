from pathlib import Path

import pytest

from distilwhisper.corpus.records import Utterance, write_manifest
from distilwhisper.speech.audio import Samples, write_wav
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
