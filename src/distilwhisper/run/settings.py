"""Settings of dataclasses: built from tables of TOML with all faults named, and written back."""

import difflib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from os import PathLike
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Settings = TypeVar("Settings")

_FAULT: Any = object()  # stands where a value was refused; the fault is in the list
# Types of single values: what they are called in a TOML file, and which of its values they take.
_SCALARS: Mapping[Any, tuple[str, tuple[type, ...]]] = {
    bool: ("true or false", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a finite number", (int, float)),
    str: ("a string", (str,)),
    Path: ("a path in quotes", (str, type(Path()))),
}


class SettingsError(ValueError):
    """Settings do not fit; the message names every fault."""


def build_settings(cls: type[Settings], mapping: Any, *, where: str | Path) -> Settings:
    """Build a frozen dataclass from a mapping such as a TOML file gives.

    Fields may be dataclasses, ``bool``, ``int``, ``float``, ``str``, ``Path``, ``Literal``,
    tuples, lists, mappings, and unions of these. A whole number is taken for a float; a bool, nan
    or infinity is taken for no number. Fields with a default may be left out; a section that is
    given in part keeps the field's default for the rest.

    Raises:
        SettingsError: with all faults, each by its dotted key, and where the settings come from. A
            ``ValueError`` from a ``__post_init__`` counts as one.
    """
    faults: list[str] = []
    settings: Settings = _section(cls, mapping, "", None, faults)
    if faults:
        raise SettingsError(listed(f"{where}: %s in the settings", faults))
    return settings


def listed(headline: str, faults: Sequence[str]) -> str:
    """Return faults below a headline that counts them, as ``%s``."""
    noun = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return "\n  ".join([headline % noun, *faults])


def read_recipe(
    path: str | PathLike[str], cls: type[Settings], overrides: Sequence[str] = ()
) -> Settings:
    """Read settings from a TOML file.

    Each of the overrides, ``section.key=value``, is put in place of the recipe's. The value is
    written as in TOML; what is no TOML value is a string, so bare words need no quotes.

    Raises:
        SettingsError: the file cannot be read, or its settings do not fit.
    """
    path = Path(path)
    mapping = read_toml(path)
    for override in overrides:
        put_override(mapping, override)
    return build_settings(cls, mapping, where=path)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a recipe as plain tables and values; a file that is no TOML is a SettingsError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} must be a recipe in TOML, found: {error}") from error


def settings_to_toml(settings: Any) -> str:
    """Write a settings dataclass as the TOML that :func:`read_recipe` reads back as its equal.

    None is left out, as TOML has no word for it.
    """
    return "\n".join(_table_lines(settings, ())).lstrip("\n") + "\n"


def _section(cls: Any, mapping: Any, key: str, base: object | None, faults: list[str]) -> Any:
    """Build one dataclass; ``base`` is the default that a partial section starts from."""
    if not isinstance(mapping, Mapping):
        faults.append(f"{key}: must be a table, found {shown(mapping)}")
        return _FAULT
    n_before, prefix = len(faults), f"{key}." if key else ""
    known, kinds = {field.name: field for field in fields(cls) if field.init}, get_type_hints(cls)
    for name in [name for name in mapping if name not in known]:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"the nearest is {prefix}{near[0]}" if near else f"there are {', '.join(known)}"
        faults.append(f"{prefix}{name}: there is no such key; {hint}")
    values: dict[str, object] = {}
    for name, field in known.items():
        default = field.default if base is None else getattr(base, name)
        if base is None and field.default_factory is not MISSING:
            default = field.default_factory()
        if name in mapping:
            values[name] = _value(kinds[name], mapping[name], prefix + name, default, faults)
        elif default is MISSING:
            faults.append(f"{prefix}{name}: must be given ({_allowed(kinds[name])}), found nothing")
        else:
            values[name] = default
    if len(faults) > n_before:
        return _FAULT
    try:
        return cls(**values)
    except ValueError as error:
        faults.append(f"{key}: {error}" if key else str(error))
        return _FAULT


def _value(kind: Any, value: Any, key: str, default: Any, faults: list[str]) -> Any:
    """Return a value as its field's type, or note why it cannot be."""
    origin, members = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        base = default if isinstance(default, kind) else None  # type: ignore[arg-type]
        return _section(kind, value, key, base, faults)
    if origin in (tuple, list) and isinstance(value, (list, tuple)):
        return _sequence(kind, value, key, faults)
    if origin is Mapping and isinstance(value, Mapping):
        named, member = members
        return {named(n): _value(member, v, f"{key}.{n}", None, faults) for n, v in value.items()}
    if origin in (Union, UnionType):
        possible = [member for member in members if member is not type(None)]
        if value is None and len(possible) < len(members):
            return None
        if len(possible) == 1:
            return _value(possible[0], value, key, default, faults)
        results = (_value(member, value, key, default, []) for member in possible)
        result = next((one for one in results if one is not _FAULT), _FAULT)
    else:
        result = _FAULT if origin in (tuple, list) else _scalar(kind, value)
    if result is _FAULT:
        faults.append(f"{key}: must be {_allowed(kind)}, found {shown(value)}")
    return result


def _sequence(kind: Any, values: Sequence[Any], key: str, faults: list[str]) -> Any:
    members = get_args(kind)
    if get_origin(kind) is list or members[-1] is Ellipsis:
        members = (members[0],) * len(values)
    if len(members) != len(values):
        faults.append(f"{key}: must be {_allowed(kind)}, found {len(values)} values")
        return _FAULT
    n_before = len(faults)
    pairs = enumerate(zip(members, values, strict=True))
    results = [_value(one, value, f"{key}[{i}]", None, faults) for i, (one, value) in pairs]
    return _FAULT if len(faults) > n_before else get_origin(kind)(results)


def _scalar(kind: Any, value: Any) -> Any:
    if get_origin(kind) is Literal:
        fits = any(value == one and type(value) is type(one) for one in get_args(kind))
        return value if fits else _FAULT
    if kind not in _SCALARS:
        raise TypeError(f"a setting cannot be of type {kind}")
    if type(value) not in _SCALARS[kind][1]:
        return _FAULT
    if kind is float and not abs(value) <= sys.float_info.max:  # nor is nan
        return _FAULT
    return kind(value)


def _allowed(kind: Any) -> str:
    """Return which values a type takes, in the words of a TOML file."""
    origin, members = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(_allowed(member) for member in members if member is not type(None))
    if origin is Literal:
        return "one of " + ", ".join(map(shown, members))
    if origin is list or (origin is tuple and members[-1] is Ellipsis):
        return f"a list, each of it {_allowed(members[0])}"
    if origin is tuple:
        return f"a list of {len(members)}: " + ", ".join(map(_allowed, members))
    return _SCALARS[kind][0] if kind in _SCALARS else "a table"


def shown(value: object) -> str:
    """Return a value as people write it."""
    return json.dumps(value, ensure_ascii=False, default=str)


def put_override(mapping: dict[str, Any], override: str) -> None:
    """Put one ``section.key=value``, written as for :func:`read_recipe`, into plain tables.

    What is not written so, or puts a value and a section in one place, is a SettingsError.
    """
    key, equals, text = override.partition("=")
    *sections, name = (part.strip() for part in key.split("."))
    if not equals or not name or not all(sections):
        raise SettingsError(f'an override must be section.key=value, found "{override}"')
    for section in sections:
        mapping = mapping.setdefault(section, {})
        if not isinstance(mapping, dict):
            raise SettingsError(
                f'"{override}" must name a key of a section, found that {section} is the value '
                f"{shown(mapping)}"
            )
    text = text.strip()
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        parsed = {}
    value = parsed["value"] if len(parsed) == 1 else text
    if isinstance(mapping.get(name), dict) and not isinstance(value, dict):
        raise SettingsError(f'"{override}" must name a key of a section, found that {name} is one')
    mapping[name] = value


def _table_lines(table: Any, path: tuple[str, ...]) -> Iterator[str]:
    values = _given(table)
    sections = {name: value for name, value in values.items() if is_dataclass(value)}
    plain = [f"{name} = {_toml(value)}" for name, value in values.items() if name not in sections]
    if path and (plain or not sections):
        yield from ("", f"[{'.'.join(path)}]")
    yield from plain
    for name, value in sections.items():
        yield from _table_lines(value, (*path, name))


def _given(table: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that are not None."""
    values = {field.name: getattr(table, field.name) for field in fields(table)}
    return {name: value for name, value in values.items() if value is not None}


def _toml(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_toml, value))}]"
    if is_dataclass(value):
        return f"{{{', '.join(f'{name} = {_toml(v)}' for name, v in _given(value).items())}}}"
    # JSON writes all else as TOML does, and escapes all that TOML asks for but this one.
    text = json.dumps(value, ensure_ascii=False, default=os.fspath)
    return text.replace("\x7f", "\\u007F")
