from pathlib import Path

import pytest
from experiments.__main__ import call
from experiments.catalogue import EXPERIMENTS
from experiments.context import Context
from experiments.designs import LayersSettings
from experiments.settings import read_settings

from unit_scale import Run, write_unit_scale


@pytest.fixture(scope="session")
def unit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The settings of the unit scale; models and sets lie beside them."""
    return write_unit_scale(tmp_path_factory.mktemp("inputs") / "unit")


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all experiments of the unit scale share."""
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="session")
def run(unit: Path) -> Run:
    """Run an experiment at the unit scale, from the command line, and return the exit status."""

    def run_at_unit_scale(name: str, out: Path, *more: str) -> int:
        return call([name, "--settings", str(unit), "--out", str(out), *more])

    return run_at_unit_scale


@pytest.fixture(scope="session")
def context(unit: Path, results: Path) -> Context[LayersSettings]:
    """The unit scale's, in that folder, for what times and what trains."""
    known = [experiment.settings for experiment in EXPERIMENTS]
    return Context(read_settings(LayersSettings, "small", unit, known=known), results)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the experiments out of the default run: they are not part of the package."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
