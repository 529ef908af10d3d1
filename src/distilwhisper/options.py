"""Settings as keywords: one list of them serves the command line and Python."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from inspect import Parameter, signature
from os import PathLike, fspath
from typing import Any, TypeVar

from distilwhisper.run.settings import SettingsError, build_settings

Function = TypeVar("Function", bound=Callable[..., Any])
Settings = TypeVar("Settings")


def with_settings(*kinds: type) -> Callable[[Function], Function]:
    """Show the fields of settings among a function's keywords, for help and editors."""

    def decorate(function: Function) -> Function:
        own = signature(function)
        shown = {p.name: p for p in own.parameters.values() if p.kind is not Parameter.VAR_KEYWORD}
        for default in (kind() for kind in kinds):
            for one in fields(default):
                if one.name != "decoding":
                    keyword = Parameter(one.name, Parameter.KEYWORD_ONLY, annotation=one.type)
                    value = getattr(default, one.name)
                    shown.setdefault(one.name, keyword.replace(default=value))
        vars(function)["__signature__"] = own.replace(parameters=list(shown.values()))
        return function

    return decorate


def settings_of(kind: type[Settings], options: Mapping[str, Any]) -> Settings:
    """Build settings of keywords; those of decoding go into their section.

    Raises:
        SettingsError: there is no such option, or no such value can be.
    """
    table = {k: fspath(v) if isinstance(v, PathLike) else v for k, v in options.items()}
    own = {one.name for one in fields(kind)}  # type: ignore[arg-type]
    of_decoding = table if "timestamps" in own else {}
    if "decoding" in own:
        of_decoding = {name: value for name, value in table.items() if name not in own}
        table = {name: value for name, value in table.items() if name in own}
        table["decoding"] = of_decoding
    if isinstance(of_decoding.get("temperature"), (int, float)):
        of_decoding["temperature"] = (of_decoding["temperature"],)
    try:
        return build_settings(kind, table, where="the options")
    except SettingsError as error:
        raise SettingsError(str(error).replace("decoding.", "")) from None
