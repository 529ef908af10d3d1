from pathlib import Path

import pytest

from experiments.context import Context
from experiments.inputs import unit_inputs
from experiments.settings import reproduce_settings


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all experiments of the unit scale share."""
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="session")
def context(results: Path) -> Context:
    """The unit scale's, in that folder."""
    return Context(reproduce_settings("unit", made_up=unit_inputs(results / "inputs")), results)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the experiments out of the default run: they are not part of the package."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
