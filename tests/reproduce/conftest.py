from pathlib import Path

import pytest

from distilwhisper.reproduce.context import Context
from distilwhisper.reproduce.inputs import unit_inputs
from distilwhisper.reproduce.settings import reproduce_settings


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all experiments of the unit scale share."""
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="session")
def context(results: Path) -> Context:
    """The unit scale's, in that folder."""
    return Context(reproduce_settings("unit", made_up=unit_inputs(results / "inputs")), results)
