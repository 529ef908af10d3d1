"""The types of the package's functions and the shapes of their tensors, checked at every call.

The package's modules are imported with ``@jaxtyping.jaxtyped(typechecker=check)`` on each function
and class (pytest's option ``--jaxtyping-packages``). jaxtyping's own decorator checks arguments
twice and binds them to names twice, which took a sixth of the time of all tests. The one put in its
place here checks once, and remembers axes only where a signature has some.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import is_dataclass
from functools import partial, wraps
from types import SimpleNamespace
from typing import Any, TypeVar, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

T = TypeVar("T", bound=Callable[..., Any])

# To beartype an int is a float, as it is to mypy.
_CONF = BeartypeConf(is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError)
_in_context = jaxtyping.jaxtyped


def check(decorated: T) -> T:
    """Check a function's arguments and result, or those of a dataclass as it is made."""
    if isinstance(decorated, type):
        if is_dataclass(decorated) and "__init__" in vars(decorated):
            decorated.__init__ = check(decorated.__init__)  # type: ignore[misc]
        return decorated
    written, hints = decorated.__annotations__, _resolved_hints(decorated)
    decorated.__annotations__ = hints
    checked = beartype(decorated, conf=_CONF)
    decorated.__annotations__ = checked.__annotations__ = written
    if not any(map(_has_axes, hints.values())):
        return checked

    @wraps(decorated)
    def with_axes(*args: Any, **kwargs: Any) -> Any:
        with _in_context("context"):
            return checked(*args, **kwargs)

    return with_axes  # type: ignore[return-value]


def _resolved_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Return a function's types; any is right for one whose name is not there at run time."""
    hints = dict.fromkeys(function.__annotations__, Any)
    for name, hint in function.__annotations__.items():
        alone = SimpleNamespace(__annotations__={name: hint})
        with suppress(NameError, TypeError):
            hints |= get_type_hints(alone, function.__globals__, include_extras=True)
    return hints


def _has_axes(annotation: Any) -> bool:
    is_array = isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray)
    return is_array or any(map(_has_axes, get_args(annotation)))


def _jaxtyped(decorated: T | None = None, *, typechecker: Callable[[T], T]) -> Any:
    return (
        partial(_jaxtyped, typechecker=typechecker) if decorated is None else typechecker(decorated)
    )


jaxtyping.jaxtyped = _jaxtyped
