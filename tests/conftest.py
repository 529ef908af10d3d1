import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from tiny_model import write_tiny_model

# Beside other workers, a second thread waits for a core more than it works.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

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
