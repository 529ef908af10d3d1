from pathlib import Path

import pytest
from hypothesis import settings
from tiny_model import write_tiny_model

# A property is true or false however busy the machine is: no test asserts on time.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


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
