"""What the README tells people to type exists."""

import re
from pathlib import Path

import pytest

from distilwhisper.cli import COMMANDS, OK, call
from distilwhisper.pipeline import Recipe
from distilwhisper.run.settings import read_recipe

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMAND_LINES = re.findall(r"^    distilwhisper (.+?)(?:  +#.*)?$", README, re.MULTILINE)
TABLE_COMMANDS = re.findall(r"^\| \w+ \| `(\w+ [^`]*)`", README, re.MULTILINE)


@pytest.mark.parametrize("line", [*COMMAND_LINES, *TABLE_COMMANDS])
def test_commands_and_their_options_exist(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, *words = line.split()
    assert name in COMMANDS
    assert call([name, "--help"]) == OK
    shown = capsys.readouterr().out
    for option in (word for word in words if word.startswith("--")):
        assert option in shown


def test_there_are_commands_to_check() -> None:
    assert len(COMMAND_LINES) >= 3
    assert len(TABLE_COMMANDS) >= 7


def test_the_python_example_names_what_exists() -> None:
    [example] = re.findall(r"```python\n(.+?)```", README, re.DOTALL)
    imports = "\n".join(line for line in example.splitlines() if line.startswith("from "))
    names: dict[str, object] = {}
    exec(compile(imports, "README.md", "exec"), names)
    compile(example, "README.md", "exec")
    assert hasattr(names["Transcriber"], "from_model")
    assert hasattr(names["Transcriber"], "transcribe")


def test_files_that_it_names_are_there() -> None:
    for path in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda p: p.name)
def test_recipes_are_valid(path: Path) -> None:
    assert read_recipe(path, Recipe).name
