"""Errors at the command line: one line each, no traceback."""

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from broker.errors import BrokerError
from cli import logs
from coordinator.errors import CoordinatorError
from learning.errors import LearningError
from monitoring.errors import MonitoringError
from monitoring.redaction import Redaction

if TYPE_CHECKING:
    from monitoring.lines import Level

DEBUG = "SPLITEE_DEBUG"
_INTERRUPTED = 130  # as a shell reports SIGINT


class CommandError(Exception):
    """A command cannot do what it was asked; the message says why and what to do."""


def report_errors(program: Callable[[], object]) -> None:
    """Run a program; what goes wrong on purpose becomes one line on stderr and exit code 1.

    In a log of JSON lines it is one of them, of level error. SPLITEE_DEBUG=1 lets the traceback through. Other exceptions are
    faults of this program and keep theirs. Passwords are cut out of all that.
    """
    try:
        program()
    except (LearningError, BrokerError, CoordinatorError, MonitoringError, CommandError) as error:
        if is_debugging():
            _end_with_traceback(error)
        sys.exit(_said("error", " ".join(str(error).split())) or 1)
    except KeyboardInterrupt:
        _say_interrupted()
        sys.exit(_INTERRUPTED)
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # typer has turned the interrupt into its exit code
            _say_interrupted()
        raise
    except Exception as fault:  # noqa: BLE001  # said, with all that Python would say
        _end_with_traceback(fault)
    finally:
        logs.end()


def is_debugging() -> bool:
    """Return whether SPLITEE_DEBUG asks for tracebacks."""
    return os.environ.get(DEBUG, "0") not in ("", "0")


def _say_interrupted() -> None:
    if line := _said("warning", "interrupted"):
        print(line, file=sys.stderr)


def _said(level: "Level", text: str) -> str | None:
    """Say the last line of a command in a log of JSON lines; where there is none return it, to be printed."""
    log = logs.begun()
    if log is None or log.format == "text":
        return f"splitee: {(log.clean if log else Redaction())(text)}"
    log.write(level, text)
    return None


def _end_with_traceback(error: Exception) -> NoReturn:
    """Say an exception with its traceback in the log; where there is none Python does so."""
    log = logs.begun()
    if log is None:
        raise error
    log.write("error", " ".join(f"{type(error).__name__}: {error}".split()), exc_info=error)
    sys.exit(1)
