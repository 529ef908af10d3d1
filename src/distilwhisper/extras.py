"""Packages that only some of the work needs, and the extras that bring them."""

from collections.abc import Iterator
from contextlib import contextmanager

from distilwhisper.errors import DistilwhisperError


class MissingExtra(DistilwhisperError, ImportError):
    """A package is not installed; the message names the extra that brings it."""


@contextmanager
def needed_by(what: str, *, extra: str) -> Iterator[None]:
    """Name the extra where something that is imported within is not installed.

    Raises:
        MissingExtra: it is not; the message says what needs it, and which extra brings it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise MissingExtra(
            f'{what} needs the package {package}: pip install "distilwhisper[{extra}]"'
        ) from error
