"""What is imported where only the core is installed, and what is said of the rest."""

import subprocess
import sys

import pytest
import torch
from jaxtyping import TypeCheckError

from distilwhisper.speech.mel import log_mel

EXTRAS = (
    "beartype datasets fsspec jaxtyping jinja2 matplotlib openvino orjson pyarrow rapidfuzz ray "
    "silero_vad tensorboard whisper_normalizer"
).split()
WITHOUT_EXTRAS = f"import sys; sys.modules.update(dict.fromkeys({EXTRAS})); "


def run(program: str) -> str:
    command = [sys.executable, "-c", WITHOUT_EXTRAS + program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_transcribing_needs_the_core_alone_and_shapes_are_plain_types() -> None:
    program = (
        "import distilwhisper.transcribe\n"
        "from distilwhisper.speech.mel import log_mel\n"
        "print(log_mel.__annotations__['return'])"
    )
    assert run(program) == "<class 'torch.Tensor'>\n"


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("distilwhisper.corpus.store", "orjson", "train"),
        ("distilwhisper.plotting", "matplotlib", "report"),
        ("distilwhisper.text.normalize", "whisper_normalizer", "train"),
        ("distilwhisper.text.wer", "rapidfuzz", "train"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(module: str, package: str, extra: str) -> None:
    program = (
        "from importlib import import_module\n"
        "from distilwhisper.extras import MissingExtra\n"
        f"try: import_module('{module}')\n"
        "except MissingExtra as error: print(error)"
    )
    said = run(program)
    assert f"needs the package {package}" in said
    assert f'pip install "distilwhisper[{extra}]"' in said


def test_shapes_are_checked_in_tests() -> None:
    with pytest.raises(TypeCheckError):
        log_mel(torch.zeros(480_000), n_mels=80)
