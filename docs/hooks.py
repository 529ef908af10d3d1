"""What the build of the documentation adds to the pages as they are written.

- ``<!-- commands -->`` becomes a table of options for every command, and ``<!-- recipe -->`` one of
  settings for every section of a recipe. Both are made of the signatures and docstrings that
  ``--help`` shows.
- A link to a file outside docs/, such as a recipe, leads to a copy of that file.
- What a docstring marks as the name of a class or function is a link where this page describes it.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from distilwhisper.cli import COMMANDS
from distilwhisper.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
COPIES = "checkout"  # folder of the site with the files from outside docs/
NEEDED = "needed"
_LINK = re.compile(r"(\]\()((?:\.\./)+[^)#\s]+)")
_ROLE = re.compile(r":(?:class|func|meth|mod|attr):\s*<code>~?([\w.]+)</code>")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside docs/ that pages lead to."""
    outside = {
        target
        for file in files.documentation_pages()
        for _, link in _LINK.findall(file.content_string)
        if (target := _outside_docs(file.src_uri, link))
    }
    for target in sorted(outside):
        files.append(File.generated(config, _copy_of(target), content=target.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the tables in their places, and lead links out of docs/ to the copies."""
    name = page.file.src_uri

    def lead(link: re.Match[str]) -> str:
        target = _outside_docs(name, link[2])
        return f"{link[1]}{'../' * name.count('/')}{_copy_of(target)}" if target else link[0]

    for mark, write in (("<!-- commands -->", commands), ("<!-- recipe -->", recipe)):
        if mark in markdown:
            markdown = markdown.replace(mark, write())
    return _LINK.sub(lead, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links of the names in docstrings."""

    def link(role: re.Match[str]) -> str:
        code = f"<code>{role[1].rsplit('.')[-1]}</code>"
        return f'<a href="#{role[1]}">{code}</a>' if f'id="{role[1]}"' in html else code

    return _ROLE.sub(link, html)


@dataclass(frozen=True)
class Option:
    """An argument or option of a command, or a setting of a recipe, as people read it."""

    name: str
    type: str
    default: str
    text: str


def commands() -> str:
    """Return the reference of the command line, in Markdown."""
    parts = []
    for name, command in COMMANDS.items():
        summary = (inspect.getdoc(command) or "").split("\n\nArgs:")[0]
        parts += [f"## {name}", summary, _table("option", options_of(command))]
    return "\n\n".join(parts)


def recipe() -> str:
    """Return the reference of a recipe's settings, in Markdown."""
    parts = []
    for section, settings in sections_of(Recipe):
        parts += [f"### {f'[{section}]' if section else 'Before all sections'}"]
        parts += [_table("setting", settings)]
    return "\n\n".join(parts)


def options_of(command: Callable[..., int]) -> list[Option]:
    """Return a command's arguments and options; an argument's name has no dashes."""
    texts, options = _texts(command), dict[str, Option]()
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        kind = _bare(parameter.annotation)
        if is_dataclass(kind):
            for path, inner, value, text in _settings(kind, parameter.default):
                name = path[-1]
                options.setdefault(name, _option(_flag(name), inner, value, text))
        else:
            is_argument = parameter.kind is inspect.Parameter.POSITIONAL_ONLY
            shown = name.upper() if is_argument else _flag(name)
            options[name] = _option(shown, kind, parameter.default, texts[name])
    return list(options.values())


def sections_of(settings: type) -> Iterator[tuple[str, list[Option]]]:
    """Yield a recipe's sections in its order, each with its settings."""
    sections = dict[str, list[Option]]()
    for path, kind, value, text in _settings(settings, None):
        section = sections.setdefault(".".join(path[:-1]), [])
        section.append(_option(path[-1], kind, value, text))
    yield from sections.items()


def _settings(
    kind: type, instance: object, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any, object, str]]:
    """Yield the path, type, default and description of every setting, those of inner ones last."""
    types, texts, inner = get_type_hints(kind), _texts(kind), []
    for field in fields(kind):
        type_ = _bare(types[field.name])
        if isinstance(instance, kind):
            value = getattr(instance, field.name)
        elif field.default_factory is not MISSING:
            value = field.default_factory()
        else:
            value = inspect.Parameter.empty if field.default is MISSING else field.default
        if is_dataclass(type_):
            inner.append((type_, value, (*path, field.name)))
        else:
            yield (*path, field.name), type_, value, texts[field.name]
    for one in inner:
        yield from _settings(*one)


def _option(name: str, kind: Any, default: object, text: str) -> Option:
    return Option(name, _shown_type(kind), _shown(default), " ".join(text.split()))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _bare(kind: Any) -> Any:
    """Return a type without what it is annotated with, and without None."""
    if get_origin(kind) is Annotated:
        return _bare(get_args(kind)[0])
    possible = [one for one in get_args(kind) if one is not NoneType]
    return possible[0] if len(possible) == 1 and NoneType in get_args(kind) else kind


def _shown_type(kind: Any) -> str:
    kind = _bare(kind)
    origin, inner = get_origin(kind), get_args(kind)
    if kind is bool:
        return "yes or no"
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is tuple and inner[-1] is ...:
        return f"{_shown_type(inner[0])}, several"
    if origin is tuple:
        return " and ".join(_shown_type(one) for one in inner)
    if inner:  # a union
        return " or ".join(_shown_type(one) for one in inner if one is not NoneType)
    return {int: "whole number", float: "number", str: "text", Path: "path"}[kind]


def _shown(default: object) -> str:
    if default is inspect.Parameter.empty:
        return NEEDED
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, tuple):
        return " ".join(str(value) for value in default)
    return "" if default is None else str(default)


def _table(heading: str, options: list[Option]) -> str:
    """Return a table in Markdown; bars within a cell are escaped."""
    lines = [f"| {heading} | what it takes | default | what it does |", "|---|---|---|---|"]
    for one in options:
        default = f"`{one.default}`" if one.default not in ("", NEEDED) else one.default
        cells = (f"`{one.name}`", one.type, default, one.text)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


@cache
def _package() -> griffe.Module:
    package = griffe.load("distilwhisper", search_paths=[ROOT / "src"])
    assert isinstance(package, griffe.Module)
    return package


def _texts(thing: type | Callable[..., Any]) -> dict[str, str]:
    """Return what the docstrings say of a function's arguments, or of a class's fields."""
    texts: dict[str, str] = {}
    for one in reversed(inspect.getmro(thing)) if isinstance(thing, type) else (thing,):
        if not one.__module__.startswith("distilwhisper"):
            continue
        found = _package()[f"{one.__module__}.{one.__qualname__}".split(".", 1)[1]]
        for section in found.docstring.parse("google") if found.docstring else ():
            if section.kind in (
                griffe.DocstringSectionKind.parameters,
                griffe.DocstringSectionKind.attributes,
            ):
                texts |= {entry.name: entry.description for entry in section.value}
        for name, member in found.members.items():
            if isinstance(thing, type) and member.is_attribute and member.docstring:
                texts[name] = member.docstring.value
    return texts


def _outside_docs(page: str, link: str) -> Path | None:
    """Return the file of the checkout that a page's link leads to, if it is not in docs/."""
    docs = ROOT / "docs"
    target = (docs / page).parent.joinpath(link).resolve()
    return target if target.is_file() and docs not in target.parents else None


def _copy_of(target: Path) -> str:
    return f"{COPIES}/{target.relative_to(ROOT)}.txt"
