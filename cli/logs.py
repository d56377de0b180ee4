"""The log of this process, as the command line and the environment say it."""

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # structlog takes a while to import: only commands that have a log do so
    from monitoring.display import Listener
    from monitoring.lines import Level
    from monitoring.logs import Format, Log

_begun: list[tuple["LogAs", "Log"]] = []


@dataclass(frozen=True)
class LogAs:
    """How a process logs. format "auto": text where stderr is a terminal, else JSON. urls: their passwords never appear."""

    role: str
    format: Literal["auto", "text", "json"] = "auto"
    level: "Level" = "info"
    urls: tuple[str | None, ...] = ()

    def begin(self) -> None:
        """Log in this way until ``end``."""
        from monitoring.logs import Log
        from monitoring.redaction import Redaction

        chosen: Format = ("text" if sys.stderr.isatty() else "json") if self.format == "auto" else self.format
        log = Log(chosen, self.level, Redaction(*self.urls))
        log.bind(role=self.role)
        _begun.append((self, log.__enter__()))


def begun() -> "Log | None":
    """Return the log of this process, None if its command has none."""
    return _begun[-1][1] if _begun else None


def current() -> "Log":
    """Return the log of this process, or one of plain text."""
    from monitoring.logs import Log

    return begun() or Log("text", "info")


def end() -> None:
    """End the log of this process, if there is one."""
    while _begun:
        _begun.pop()[1].__exit__(None, None, None)


def of_child(role: str) -> LogAs:
    """Return how a child process in a role logs: as this one does."""
    return replace(_begun[-1][0], role=role) if _begun else LogAs(role)


def listener() -> "Listener":
    """Return who hears a coordinator's events: a live view where a person looks at a terminal, else the log."""
    log = current()
    if log.format == "json" or not sys.stderr.isatty():
        return log
    from monitoring.display import Display

    return Display(least=log.level, clean=log.clean)
