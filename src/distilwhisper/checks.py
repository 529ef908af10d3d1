"""Rules that the values of settings must keep to; all broken ones are named at once."""

import math
from collections.abc import Callable
from dataclasses import field, fields
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

Rule = tuple[str, Callable[[Any], bool]]  # what a setting must do, and whether a value does

AT_LEAST_0: Rule = ("be a finite number from 0 on", lambda value: 0 <= value < math.inf)
AT_LEAST_1: Rule = ("be at least 1", lambda value: value >= 1)
ABOVE_0: Rule = ("be above 0", lambda value: value > 0)
NOT_EMPTY: Rule = ("name at least one", bool)
PROBABILITY: Rule = ("lie in [0, 1]", lambda value: 0 <= value <= 1)
SHARE: Rule = ("lie above 0 and be at most 1", lambda value: 0 < value <= 1)


def ruled(default: Any, rule: Rule) -> Any:
    """Return a field of settings whose values must keep to a rule; None always does."""
    return field(default=default, metadata={"rule": rule})


def check_rules(settings: Any, *faults: str | bool) -> None:
    """Refuse settings that break one of their rules, or a type that names its values.

    Of ``faults``, what else is wrong with them, those are false that do not hold.

    Raises:
        ValueError: with all that is wrong.
    """
    rules = {f.name: f.metadata["rule"] for f in fields(settings) if "rule" in f.metadata}
    values = {name: getattr(settings, name) for name in rules}
    broken = [
        f"{name} must {must}, found {values[name]}"
        for name, (must, keeps) in rules.items()
        if values[name] is not None and not keeps(values[name])
    ]
    broken += [
        f"{name} must be one of {', '.join(map(str, named))}, found {getattr(settings, name)!r}"
        for name, named in _named_values(settings.__class__).items()
        if getattr(settings, name) not in (*named, None)
    ]
    broken += [fault for fault in faults if isinstance(fault, str)]
    if broken:
        raise ValueError("; ".join(broken))


class Checked:
    """Settings that are nothing but their rules: they are checked when they are built."""

    def __post_init__(self) -> None:
        check_rules(self)


@cache
def _named_values(kind: type) -> dict[str, tuple[Any, ...]]:
    """Return the values that the types of fields name, ``Literal[...]`` or that or None."""
    found = dict[str, tuple[Any, ...]]()
    for name, hint in get_type_hints(kind).items():
        alternatives = get_args(hint) if type(None) in get_args(hint) else (hint,)
        if get_origin(alternatives[0]) is Literal:
            found[name] = get_args(alternatives[0])
    return found
