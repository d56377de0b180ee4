"""Users' own models, exits and data sets, named as ``module:function``."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from learning.errors import LearningError, SettingsError


def load(reference: str, what: str) -> Callable[..., Any]:
    """Return the function that ``module:function`` names; modules of the current directory are found too.

    what: the thing that is loaded, for the message. Raises SettingsError if the reference has another form, the module
    is not there or fails, or it has no such function.
    """
    name, colon, attribute = reference.partition(":")
    if not (colon and name and attribute):
        raise SettingsError(f"{what} {reference!r} is not of the form module:function")
    module = _import(name, reference, what)
    try:
        function = getattr(module, attribute)
    except AttributeError:
        where = getattr(module, "__file__", None) or name
        raise SettingsError(f"{what} {reference!r}: {where} has no {attribute!r}") from None
    if not callable(function):
        raise SettingsError(f"{what} {reference!r}: {attribute!r} is of type {type(function).__name__}, not a function")
    return function  # type: ignore[no-any-return]


def call(function: Callable[..., Any], reference: str, what: str, *arguments: object) -> Any:
    """Call a user's function; what it raises comes out as a SettingsError that names it."""
    try:
        return function(*arguments)
    except LearningError:
        raise
    except Exception as error:
        raise SettingsError(f"{what} {reference!r} failed: {describe(error)}") from error


def describe(error: Exception) -> str:
    """Return an error's type and the first line of its text, for use inside another message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _import(name: str, reference: str, what: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last: a file here must not hide an installed package
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise SettingsError(f"{what} {reference!r}: there is no module {error.name!r}, installed or in {here}") from None
        raise SettingsError(f"{what} {reference!r}: importing {name!r} failed: {describe(error)}") from error
