"""Settings of dataclasses: built from tables of TOML with all faults named, and written back."""

import dataclasses
import difflib
import json
import os
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Settings = TypeVar("Settings")

_FAULT = object()  # stands where a value was refused; the fault is in the list


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
    settings = _section(cls, mapping, "", None, faults)
    if faults:
        noun = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise SettingsError("\n  ".join([f"{where}: {noun} in the settings", *faults]))
    return typing.cast(Settings, settings)


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
    """Read a recipe as the plain tables and values that it holds.

    Raises:
        SettingsError: the file cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} must be a recipe in TOML, found: {error}") from error


def settings_to_toml(settings: Any) -> str:
    """Write a settings dataclass as the TOML that :func:`read_recipe` reads back as its equal.

    None is left out, as TOML has no word for it.
    """
    lines: list[str] = []
    _write_table(settings, (), lines)
    return "\n".join(lines).lstrip("\n") + "\n"


def _section(cls: Any, mapping: Any, key: str, base: object | None, faults: list[str]) -> object:
    """Build one dataclass; ``base`` is the default that a partial section starts from."""
    if not isinstance(mapping, Mapping):
        faults.append(f"{key}: must be a table, found {shown(mapping)}")
        return _FAULT
    n_before = len(faults)
    prefix = f"{key}." if key else ""
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    kinds = typing.get_type_hints(cls)
    for name in [name for name in mapping if name not in fields]:
        nearest = difflib.get_close_matches(name, fields, n=1)
        hint = (
            f"the nearest is {prefix}{nearest[0]}" if nearest else f"there are {', '.join(fields)}"
        )
        faults.append(f"{prefix}{name}: there is no such key; {hint}")
    values: dict[str, object] = {}
    for name, field in fields.items():
        default = field.default if base is None else getattr(base, name)
        if base is None and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if name in mapping:
            values[name] = _value(kinds[name], mapping[name], prefix + name, default, faults)
        elif default is dataclasses.MISSING:
            faults.append(f"{prefix}{name}: must be given ({_allowed(kinds[name])}), found nothing")
        else:
            values[name] = default
    if len(faults) > n_before:
        return _FAULT
    try:
        return typing.cast(object, cls(**values))
    except ValueError as error:
        faults.append(f"{key}: {error}" if key else str(error))
        return _FAULT


def _value(kind: Any, value: Any, key: str, default: object, faults: list[str]) -> object:
    """Return a value as its field's type, or note why it cannot be."""
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        base = default if isinstance(default, typing.cast(type, kind)) else None
        return _section(kind, value, key, base, faults)
    if origin in (tuple, list) and isinstance(value, (list, tuple)):
        return _sequence(kind, value, key, faults)
    if origin is Mapping and isinstance(value, Mapping):
        named, member = typing.get_args(kind)
        return {named(n): _value(member, v, f"{key}.{n}", None, faults) for n, v in value.items()}
    if origin in (Union, types.UnionType):
        members = [member for member in typing.get_args(kind) if member is not type(None)]
        if value is None and len(members) < len(typing.get_args(kind)):
            return None
        if len(members) == 1:
            return _value(members[0], value, key, default, faults)
        results = (_value(member, value, key, default, []) for member in members)
        result = next((one for one in results if one is not _FAULT), _FAULT)
    else:
        result = _FAULT if origin in (tuple, list) else _scalar(kind, value)
    if result is _FAULT:
        faults.append(f"{key}: must be {_allowed(kind)}, found {shown(value)}")
    return result


def _sequence(kind: Any, values: Sequence[Any], key: str, faults: list[str]) -> object:
    members = typing.get_args(kind)
    if typing.get_origin(kind) is list or members[-1] is Ellipsis:
        members = (members[0],) * len(values)
    if len(members) != len(values):
        faults.append(f"{key}: must be {_allowed(kind)}, found {len(values)} values")
        return _FAULT
    n_before = len(faults)
    results = [
        _value(member, value, f"{key}[{i}]", None, faults)
        for i, (member, value) in enumerate(zip(members, values, strict=True))
    ]
    return _FAULT if len(faults) > n_before else typing.get_origin(kind)(results)


def _scalar(kind: Any, value: Any) -> object:
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        fits = any(value == choice and type(value) is type(choice) for choice in choices)
        return value if fits else _FAULT
    if kind is Path and isinstance(value, (str, Path)):
        return Path(value)
    if kind is float and type(value) in (int, float):
        return float(value) if abs(value) <= sys.float_info.max else _FAULT
    if kind in (bool, int, str) and type(value) is kind:
        return typing.cast(object, value)
    if kind in (bool, int, float, str, Path):
        return _FAULT
    raise TypeError(f"a setting cannot be of type {kind}")


def _allowed(kind: Any) -> str:
    """Return which values a type takes, in the words of a TOML file."""
    arguments = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_allowed(member) for member in arguments if member is not type(None))
    if origin is Literal:
        return "one of " + ", ".join(map(shown, arguments))
    if origin is list or (origin is tuple and arguments[-1] is Ellipsis):
        return f"a list, each of it {_allowed(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)}: " + ", ".join(map(_allowed, arguments))
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a finite number",
        str: "a string",
        Path: "a path in quotes",
    }
    return names.get(kind, "a table")


def shown(value: object) -> str:
    """Return a value as people write it."""
    return json.dumps(value, ensure_ascii=False, default=str)


def put_override(mapping: dict[str, Any], override: str) -> None:
    """Put one ``section.key=value``, written as for :func:`read_recipe`, into plain tables.

    Raises:
        SettingsError: it is not written so, a section of it is a value, or it is a section.
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


def _write_table(table: Any, path: tuple[str, ...], lines: list[str]) -> None:
    values = _given(table)
    sections = {name: value for name, value in values.items() if dataclasses.is_dataclass(value)}
    plain = {name: value for name, value in values.items() if name not in sections}
    if path and (plain or not sections):
        lines.extend(["", f"[{'.'.join(path)}]"])
    lines.extend(f"{name} = {_toml(value)}" for name, value in plain.items())
    for name, value in sections.items():
        _write_table(value, (*path, name), lines)


def _given(table: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that are not None."""
    values = {field.name: getattr(table, field.name) for field in dataclasses.fields(table)}
    return {name: value for name, value in values.items() if value is not None}


def _toml(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_toml, value))}]"
    if dataclasses.is_dataclass(value):
        inner = (f"{name} = {_toml(v)}" for name, v in _given(value).items())
        return f"{{{', '.join(inner)}}}"
    # JSON writes all else as TOML does, and escapes all that TOML asks for but this one.
    text = json.dumps(value, ensure_ascii=False, default=os.fspath)
    return text.replace("\x7f", "\\u007F")
