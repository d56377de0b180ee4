"""What a process says, a line each on stderr: for a person, or as JSON for whatever collects logs."""

import dataclasses
import logging
import sys
import threading
import time
from types import TracebackType
from typing import Any, Literal, Self

import structlog
from structlog.typing import EventDict

from broker import events
from monitoring.lines import Level, level, line
from monitoring.redaction import Redaction

Format = Literal["text", "json"]
RANKS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_TOO_LARGE = {"summary"}  # it is a file in the results


class Log:
    """A listener of events, and the way of everything else that a process says. May be called from any thread.

    Each line is one write. level: what is below it is not said. clean: takes passwords out. A line names what was bound with
    ``bind``: the run, the role, and where there is one the worker or client that this process is.
    """

    def __init__(self, format: Format, level: Level, clean: Redaction | None = None) -> None:
        self.format = format
        self.clean = clean or Redaction()
        self.level = level
        self._bound: dict[str, str] = {}
        render = structlog.processors.JSONRenderer() if format == "json" else self._human
        self._logger = structlog.wrap_logger(
            _Stderr(),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.format_exc_info,
                self._complete,
                render,
            ],
            wrapper_class=structlog.make_filtering_bound_logger(RANKS[level]),
        )
        self._foreign = _Foreign(self)
        self._hooks = threading.excepthook, sys.unraisablehook

    def __enter__(self) -> Self:
        """Take over what libraries and the interpreter itself have to say, too."""
        logging.getLogger().addHandler(self._foreign)
        logging.captureWarnings(True)
        threading.excepthook = self._thread_failed
        sys.unraisablehook = self._unraisable
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        threading.excepthook, sys.unraisablehook = self._hooks
        logging.captureWarnings(False)
        logging.getLogger().removeHandler(self._foreign)

    def __call__(self, event: events.Event) -> None:
        """Take an event."""
        of = level(event)
        if RANKS[of] >= RANKS[self.level]:
            self.write(of, line(event), type=type(event).__name__, **self._fields(event))

    def bind(self, **context: str) -> None:
        """Name in every line from now on whose it is: run, role, worker, client."""
        self._bound |= context

    def say(self, text: str) -> None:
        """Write a line that is of no event."""
        self.write("info", text)

    def write(self, level: Level, text: str, **fields: Any) -> None:
        """Write a line. fields: more of it, in JSON. exc_info among them: an exception, whose traceback follows."""
        self._logger.log(RANKS[level], text, **fields)

    def _fields(self, event: events.Event) -> dict[str, Any]:
        fields = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
        speaker = fields.pop("role", None)
        if speaker and self._bound.get("role") == "train":  # the process is all of them
            fields["speaker"] = speaker
        return {name: value for name, value in fields.items() if name not in _TOO_LARGE}

    def _complete(self, _logger: object, _name: str, said: EventDict) -> EventDict:
        """Put a line's parts in order, with what is bound, and without passwords."""
        first = {"timestamp": said.pop("timestamp"), "level": said.pop("level"), "event": self.clean(str(said.pop("event")))}
        rest = {name: self.clean.plain(value) for name, value in said.items()}
        return {**first, **self._bound, **rest}

    def _human(self, _logger: object, _name: str, said: EventDict) -> str:
        who = [said[name] for name in ("role", "run", "worker", "client") if name in self._bound]
        text = " ".join(said["event"].split()).removeprefix(f"{who[-1]}: " if who else "")
        head = f"{time.strftime('%H:%M:%S')} {said['level']:<7} {' '.join(who)}{': ' if who else ''}{text}"
        return f"{head}\n{said['exception']}" if "exception" in said else head

    def _thread_failed(self, failed: threading.ExceptHookArgs) -> None:
        name = failed.thread.name if failed.thread else "a thread"
        self.write("error", f"{name} failed: {_brief(failed.exc_value)}", exc_info=failed.exc_value)

    def _unraisable(self, found: "sys.UnraisableHookArgs") -> None:
        self.write("error", f"{found.err_msg or 'ignored'}: {_brief(found.exc_value)}", exc_info=found.exc_value)


class _Stderr:
    """Writes lines, whole. sys.stderr is looked up each time: a live view puts itself in its place."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def msg(self, line: str) -> None:
        with self._lock:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    debug = info = warning = error = msg


class _Foreign(logging.Handler):
    """What is said through the standard library's logging."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        said: Level = "error" if record.levelno >= logging.ERROR else "warning" if record.levelno >= logging.WARNING else "debug"
        self._log.write(said, record.getMessage(), logger=record.name, exc_info=record.exc_info)


def _brief(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}" if error is not None else "no reason given"
