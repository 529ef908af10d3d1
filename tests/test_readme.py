"""What the documentation tells people to type exists, and its links lead somewhere."""

import ast
import functools
import inspect
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import distilwhisper as dw
from distilwhisper.cli import COMMANDS, OK, call
from distilwhisper.recipe import Recipe
from distilwhisper.run.settings import build_settings, read_recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# Results were made with commands of their time, and keep them.
RESULTS = sorted((DOCS / "results").rglob("*.md"))
GUIDES = [README, *sorted(set(DOCS.rglob("*.md")) - set(RESULTS) - {DOCS / "log.md"})]
# Of pip, torchrun, Ray, Docker, TensorBoard, the recipes' scripts and the experiments.
OTHERS = {
    *("--build-arg", "--nproc-per-node", "--head", "--address", "--logdir", "--with", "--list"),
    *("--scale", "--settings", "--text", "--kokoro"),
    *("--name", "--no-name"),  # that stand for any option
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(page: str) -> Iterator[str]:
    """Yield the indented blocks of a page: what people type or write into files."""
    for block in re.findall(r"(?:^ {4,}.*\n|^\n(?= {4}))+", page, re.MULTILINE):
        yield textwrap.dedent(block).strip("\n")


def command_lines(page: str) -> Iterator[list[str]]:
    """Yield the words behind every ``distilwhisper`` that is typed, and commands within tables."""
    for block in blocks(page):
        for line in block.replace("\\\n", " ").splitlines():
            if found := re.match(r"(?:torchrun .*-m )?distilwhisper (.+?)(?: {2,}.*| #.*)?$", line):
                yield found[1].split()
    for cell in re.findall(r"\| `(\w+ [A-Z][^`]*)` \|", page):
        yield cell.split()
    for inline in re.findall(r"`distilwhisper ([a-z]+(?: [^`]*)?)`", page):
        yield inline.split()


def python_blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.+?)^```", page, re.DOTALL | re.MULTILINE)


@functools.cache
def options(command: str) -> frozenset[str]:
    """Return the options that a command's help shows."""
    with pytest.MonkeyPatch.context() as patch:
        shown: list[str] = []
        patch.setattr(sys.stdout, "write", shown.append)
        assert call([command, "--help"]) == OK
    first = r"^│ (?:-h, )?(--[a-z][a-z-]*)(?:, (--no-[a-z-]+))?"
    return frozenset(filter(None, sum(re.findall(first, "".join(shown), re.MULTILINE), ())))


def test_the_readme_is_short() -> None:
    assert len(text(README).splitlines()) <= 120


@pytest.mark.parametrize("page", GUIDES, ids=name)
def test_commands_and_their_options_exist(page: Path) -> None:
    for command, *words in command_lines(text(page)):
        if command in ("COMMAND", "--help"):
            continue
        assert command in COMMANDS
        named = {word.split("=")[0] for word in words if re.match(r"--[a-z]", word)}
        assert named <= options(command), f"{command} {' '.join(words)}"


@pytest.mark.parametrize("page", [p for p in GUIDES if p.name != "options.md"], ids=name)
def test_options_named_in_the_text_exist(page: Path) -> None:
    known = OTHERS.union(*(options(command) for command in COMMANDS))
    named = set(re.findall(r"`(--[a-z][a-z-]*)(?![\w])", text(page)))
    assert named <= known


def test_there_are_commands_to_check() -> None:
    found = {page: list(command_lines(text(page))) for page in GUIDES}
    assert len(found[README]) >= 4
    assert len(found[DOCS / "architecture.md"]) >= 10
    assert len(found[DOCS / "tutorial.md"]) >= 8
    assert all(found[page] for page in GUIDES if page.parent.name == "how-to")
    assert {words[0] for lines in found.values() for words in lines} >= set(COMMANDS)


def calls(program: str) -> Iterator[tuple[str, ast.Call]]:
    """Yield the calls of our functions, with the name of the function."""
    methods = {"transcribe": "Model", "stream": "Model", "save": "Transcript"}
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = ast.unparse(node.func.value)
            if owner == "dw":
                yield node.func.attr, node
            elif node.func.attr in methods:
                yield f"{methods[node.func.attr]}.{node.func.attr}", node


def parameters(function: str) -> set[str]:
    found: Any = functools.reduce(getattr, function.split("."), dw)
    return set(inspect.signature(found).parameters)


@pytest.mark.parametrize("page", [*GUIDES, *EXAMPLES], ids=name)
def test_python_uses_what_exists(page: Path) -> None:
    programs = [text(page)] if page.suffix == ".py" else python_blocks(text(page))
    for program in programs:
        compile(program, name(page), "exec")
        for attribute in re.findall(r"\bdw\.(\w+)", program):
            assert attribute in dw.__all__
        for function, node in calls(program) if "distilwhisper" in program else ():
            keywords = {keyword.arg for keyword in node.keywords}
            assert keywords <= parameters(function), ast.unparse(node)


def test_there_is_python_to_check() -> None:
    assert len([block for page in GUIDES for block in python_blocks(text(page))]) >= 7
    assert {function for page in EXAMPLES for function, _ in calls(text(page))} >= {
        "load_model", "Model.transcribe", "Transcript.save", "label", "filter", "distil",
    }  # fmt: skip


def test_the_python_of_the_readme_runs(
    tiny_en: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    [program] = python_blocks(text(README))
    assert 'load_model("base")' in program
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "demo" / "synthetic" / "slt-01.opus", tmp_path / "talk.mp3")
    exec(compile(program.replace('"base"', repr(str(tiny_en))), "README.md", "exec"), {})
    assert len(capsys.readouterr().out.split()) >= 5
    assert "-->" in (tmp_path / "talk.srt").read_text()


@pytest.mark.slow
def test_the_tutorial_can_be_followed(
    tiny_en: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command in its order, each with what the ones before have left; then the Python."""
    assert tiny_en  # or skipped
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "demo" / "synthetic", "demo/synthetic")
    page = text(DOCS / "tutorial.md")
    for words in command_lines(page):
        if "my-recipe.toml" in words and not Path("my-recipe.toml").exists():
            shutil.copy("RUN/recipe.toml", "my-recipe.toml")
        assert call(words) == OK, words
    (python,) = python_blocks(page)
    exec(compile(python, "docs/tutorial.md", "exec"), {})
    for made in ("RUN/report.html", "subtitles/slt-01.srt", "compared.html", "run/student"):
        assert Path(made).exists(), made


@pytest.mark.parametrize("page", GUIDES, ids=name)
def test_settings_of_recipes_exist(page: Path) -> None:
    for block in blocks(text(page)):
        if re.match(r"\[[a-z_.]+\]", block):
            recipe = {"name": "page", "teacher": "base", "data": {"source": "speech"}}
            build_settings(Recipe, {**recipe, **tomllib.loads(block)}, where=name(page))


def test_extras_that_are_named_exist() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        known = set(tomllib.load(file)["project"]["optional-dependencies"])
    for page in GUIDES:
        for extras in re.findall(r"\"(?:distilwhisper|\.)\[([\w,-]+)\]", text(page)):
            assert set(extras.split(",")) <= known, name(page)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", text(page), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", h.lower()).strip()) for h in headings}


@pytest.mark.parametrize(
    "page", [*GUIDES, *RESULTS, DOCS / "log.md", ROOT / "CONTRIBUTING.md"], ids=name
)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", text(page)):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        generated = target == DOCS / "reference" / "command-line.md" and anchor in COMMANDS
        assert not anchor or generated or anchor in anchors(target), link


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set[Path](), [README]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        for link in re.findall(r"\]\(([^)\s#]+\.md)", text(page)):
            target = (page.parent / link).resolve()
            waiting += [target] if target.exists() and target not in {*reached, *waiting} else []
    # The site alone has these: one is its first page, two are made when it is built.
    made = {DOCS / "index.md", DOCS / "reference" / "python.md"}
    assert set(DOCS.rglob("*.md")) - reached - made == set()


def test_the_reference_has_every_public_name() -> None:
    described = re.findall(r"^::: distilwhisper\.(\w+)$", text(DOCS / "reference/python.md"), re.M)
    assert sorted([*described, "__version__"]) == sorted(dw.__all__)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_reference_has_every_option(command: str) -> None:
    pytest.importorskip("mkdocs", reason='needs the extra "docs"')
    from docs import hooks

    shown = options(command)
    positive = {o for o in shown if not (o.startswith("--no-") and f"--{o[5:]}" in shown)}
    listed = {option.name for option in hooks.options_of(COMMANDS[command])}
    assert {option for option in listed if option.startswith("--")} == positive - {"--help"}
    assert all(option.text for option in hooks.options_of(COMMANDS[command]))


def test_the_reference_has_every_setting_of_a_recipe() -> None:
    pytest.importorskip("mkdocs", reason='needs the extra "docs"')
    from docs import hooks

    sections = {section: {one.name for one in own} for section, own in hooks.sections_of(Recipe)}
    assert sections[""] == {"name", "teacher"}
    assert {"steps", "kl_weight"} <= sections["training"]
    assert "noise_probability" in sections["training.augment"]
    assert "beam_size" in sections["evaluate.decoding"]


# The options beside those of other tools


def columns(title: str) -> list[list[str]]:
    """Return the cells of the table under a heading, by row."""
    [section] = re.findall(
        rf"^## {title}\n(.+?)(?=^## |\Z)", text(DOCS / "options.md"), re.M | re.S
    )
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("|")]
    return rows[2:]


def in_column(number: int, *titles: str) -> set[str]:
    cells = [row[number] for title in titles for row in columns(title)]
    return {word for cell in cells for word in re.findall(r"`([\w-]+)`", cell)}


SHARED = ("The same", "Called otherwise")


def test_our_options_on_the_page_of_options_exist_and_none_is_missing() -> None:
    named = in_column(0, *SHARED, "Ours alone")
    assert named <= options("transcribe")
    switches = {o for o in options("transcribe") if o.startswith("--no-")} - {
        "--no-speech-threshold"
    }
    positive = options("transcribe") - switches - {"--help"}
    assert positive - named == {"--timestamps"}  # whose --no-timestamps is there


def test_no_option_of_openai_whisper_is_forgotten() -> None:
    [folder] = find_spec("whisper").submodule_search_locations  # type: ignore[union-attr]
    source = (Path(folder) / "transcribe.py").read_text(encoding="utf-8")
    theirs = set(re.findall(r'add_argument\("(--\w+)"', source))
    named = in_column(1, *SHARED) | in_column(0, "Missing here")
    assert {option for option in named if option.startswith("--")} == theirs


def test_no_parameter_of_faster_whisper_is_forgotten() -> None:
    spec = find_spec("faster_whisper")
    if spec is None:
        pytest.skip("needs faster-whisper")
    [folder] = spec.submodule_search_locations or []
    tree = ast.parse((Path(folder) / "transcribe.py").read_text(encoding="utf-8"))
    theirs = {
        argument.arg
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and node.name in ("WhisperModel", "BatchedInferencePipeline")
        for function in node.body
        if isinstance(function, ast.FunctionDef) and function.name in ("__init__", "transcribe")
        for argument in function.args.args
    } - {"self", "audio", "model"}
    assert in_column(2, *SHARED) | in_column(1, "Missing here") == theirs


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=name)
def test_recipes_are_valid(path: Path) -> None:
    assert read_recipe(path, Recipe).name
