"""Errors at the command line: one plain line each, no traceback."""

import os
import sys
from collections.abc import Callable

from broker.errors import BrokerError
from coordinator.errors import CoordinatorError
from learning.errors import LearningError
from monitoring.errors import MonitoringError

DEBUG = "SPLITEE_DEBUG"
_INTERRUPTED = 130  # as a shell reports SIGINT


class CommandError(Exception):
    """A command cannot do what it was asked; the message says why and what to do."""


def report_errors(program: Callable[[], object]) -> None:
    """Run a program; what goes wrong on purpose becomes one line on stderr and exit code 1.

    SPLITEE_DEBUG=1 lets the traceback through. Other exceptions are faults of this program and keep theirs.
    """
    try:
        program()
    except (LearningError, BrokerError, CoordinatorError, MonitoringError, CommandError) as error:
        if is_debugging():
            raise
        sys.exit(f"splitee: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        _say_interrupted()
        sys.exit(_INTERRUPTED)
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # typer has turned the interrupt into its exit code
            _say_interrupted()
        raise


def is_debugging() -> bool:
    """Return whether SPLITEE_DEBUG asks for tracebacks."""
    return os.environ.get(DEBUG, "0") not in ("", "0")


def _say_interrupted() -> None:
    print("splitee: interrupted", file=sys.stderr)
