"""Logs: every event is a line with its level and context, JSON or for a person, and never with a password."""

import dataclasses
import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin, get_type_hints
from urllib.parse import quote

import pytest

from broker import events
from cli import errors, logs
from cli.logs import LogAs
from coordinator.errors import StoreUnavailable
from monitoring.lines import Level, level, line
from monitoring.logs import Log
from monitoring.redaction import Redaction

LEVELS: dict[Level, set[str]] = {
    "debug": {
        "ClientsCounted", "ClientReported", "Progress", "BatchTrained", "NetworkStep", "CheckpointSaved", "DuplicatesDropped",
        "FeaturesPublished", "Acknowledged", "Waited", "InferenceAnswered", "InferenceLate", "InferenceFinished", "StoreUsed",
    },
    "info": {
        "RunStarted", "ClientJoined", "RoundOpened", "RoundClosed", "RoundEvaluated", "RunFinished", "StreamClaimed",
        "StreamCommitted", "Reconnected",
    },
    "warning": {
        "Waiting", "ClientDropped", "StoreWentBack", "StreamLost", "ClientRoundEnded", "ReplicaSetBack", "MessageRefused",
        "GapFound",
    },
    "error": set(),
}  # fmt: skip
KINDS = sorted(events.Event.__subclasses__(), key=lambda kind: kind.__name__)
PASSWORD = "p:ä/s@w%20 'ö\\rd"  # whatever hurts in a URL, in a repr, and in JSON
BROKER, STORE = f"amqp://anna:{quote(PASSWORD, safe='')}@host:5672/", "redis://:hunter2hunter2@host:6379/0"


def example(kind: type[events.Event]) -> events.Event:
    return kind(**{field.name: _value(get_type_hints(kind)[field.name]) for field in dataclasses.fields(kind)})


def _value(hint: Any) -> Any:
    if hint in (int, float, str, bool):
        return {int: 3, float: 1.5, str: "text", bool: True}[hint]
    if get_origin(hint) in (dict, Mapping):
        key, value = get_args(hint)
        return {} if value is object else {"client" if key is str else _value(key): _value(value)}
    return _value(get_args(hint)[0]) if isinstance(get_args(hint)[0], type) else get_args(hint)[0]


class Stderr:
    """Everything that was written there during a test."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    def getvalue(self) -> str:
        self._text += self._capsys.readouterr().err
        return self._text


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Iterator[Stderr]:
    yield Stderr(capsys)
    logs.end()


def lines(stderr: Stderr) -> list[dict[str, Any]]:
    return [json.loads(one) for one in stderr.getvalue().splitlines()]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_event_is_a_line_with_its_level_and_context(kind: type[events.Event], stderr: Stderr) -> None:
    event = example(kind)
    log = Log("json", "debug")
    log.bind(role="server", run="digits", worker="server-1")
    log(event)
    (said,) = lines(stderr)
    assert list(said)[:3] == ["timestamp", "level", "event"]
    assert said["timestamp"].endswith("Z")
    assert (said["role"], said["type"], said["event"]) == ("server", kind.__name__, line(event))
    assert kind.__name__ in LEVELS[said["level"]]
    for name in {"client", "round", "stream", "worker", "run"} & {field.name for field in dataclasses.fields(kind)}:
        assert said[name] == getattr(event, name)
    assert said["run"] == ("text" if kind is events.RunStarted else "digits")


@pytest.mark.parametrize("least", LEVELS)
def test_what_is_below_the_level_is_not_said(least: Level, stderr: Stderr) -> None:
    log = Log("text", least)
    for kind in KINDS:
        log(example(kind))
    heard = [one for of in list(LEVELS)[list(LEVELS).index(least) :] for one in LEVELS[of]]
    assert len(stderr.getvalue().splitlines()) == len(heard)


def test_a_person_reads_who_says_what(stderr: Stderr) -> None:
    log = Log("text", "info")
    log.bind(role="client", run="digits", client="client-03")
    log(events.Waiting(role="client-03", what="the broker\nto take what was sent"))
    log.say("metrics at http://127.0.0.1:9000/metrics")
    first, second = (one.split(" ", 1)[1] for one in stderr.getvalue().splitlines())
    assert first == "warning client digits client-03: waiting for the broker to take what was sent"
    assert second == "info    client digits client-03: metrics at http://127.0.0.1:9000/metrics"


def test_roles_of_one_process_are_told_apart(stderr: Stderr) -> None:
    log = Log("json", "info")
    log.bind(role="train", run="digits")
    log(events.Waiting(role="client-03", what="something"))
    (said,) = lines(stderr)
    assert (said["role"], said["speaker"]) == ("train", "client-03")


def test_lines_from_many_threads_are_one_write_each(monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[str] = []

    class Stream:
        def write(self, text: str) -> None:
            writes.append(text)

        def flush(self) -> None:
            pass

    monkeypatch.setattr(sys, "stderr", Stream())
    log = Log("json", "info")
    threads = [threading.Thread(target=lambda: [log.say("x" * 100) for _ in range(200)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(writes) == 1600
    assert {json.loads(one)["event"] for one in writes} == {"x" * 100}
    assert all(one.endswith("}\n") and one.count("\n") == 1 for one in writes)


def test_figures_that_are_no_numbers_are_json_all_the_same(stderr: Stderr) -> None:
    Log("json", "info").write("info", "text", loss=float("nan"), most=float("inf"), odd={1: object})
    (said,) = lines(stderr)
    assert (said["loss"], said["most"], said["odd"]) == ("nan", "inf", {"1": "<class 'object'>"})


def hostile_texts() -> list[str]:
    return [
        f"cannot connect to {BROKER}",
        f"cannot connect to amqp://anna:{PASSWORD.replace(' ', '+')}@host, or to '{STORE}'.",
        f"{STORE},{BROKER}",
        f"the password {PASSWORD} is wrong",
        f"{PASSWORD!r} {PASSWORD!a} {PASSWORD.encode()!r} {quote(PASSWORD)}",
        f"{json.dumps(PASSWORD)} {quote(PASSWORD, safe='').lower()}",
        "HUNTER2HUNTER2 redis://host?password=hunter2hunter2&db=1",
    ]


def leaks(text: str) -> list[str]:
    """Return the parts of the passwords that a text still holds."""
    parts = ["hunter2", "s@w", "%20 ", "ö", "rd@", quote("ä"), "\\xf6", "\\u00f6", "\\\\rd", "s%40w", "xc3"]
    return [part for part in parts if part.lower() in text.lower()]


@pytest.mark.parametrize("text", hostile_texts())
def test_passwords_never_appear(text: str, stderr: Stderr) -> None:
    assert leaks(text), "the text shows nothing: the test would pass without the feature"
    LogAs("server", "json", "debug", (BROKER, STORE)).begin()
    log = logs.current()
    log.say(text)
    log(events.Waiting(role="server-1", what=text))
    log.write("error", "text", of={"a": [text]}, odd=ValueError(text))
    logging.getLogger("broker.connection").warning("RabbitMQ: %s", text)
    try:
        raise StoreUnavailable(text) from ValueError(text)
    except StoreUnavailable as error:
        log.write("error", str(error), exc_info=error)
    said = lines(stderr)
    assert len(said) == 5
    assert "Traceback" in said[-1]["exception"]
    assert leaks(json.dumps(said, ensure_ascii=False)) == []
    assert leaks(stderr.getvalue()) == []


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize("fault", [StoreUnavailable, ZeroDivisionError])
@pytest.mark.parametrize("debug", ["0", "1"])
def test_nor_in_the_last_line(
    format: Any, fault: type[Exception], debug: str, stderr: Stderr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPLITEE_DEBUG", debug)

    def fail() -> None:
        LogAs("server", format, "info", (BROKER, STORE)).begin()
        raise fault(" ".join(hostile_texts()))

    with pytest.raises(SystemExit) as end:
        errors.report_errors(fail)
    traced = fault is ZeroDivisionError or debug == "1"
    plain = format == "text" and not traced
    assert isinstance(end.value.code, str) if plain else end.value.code == 1
    assert leaks(stderr.getvalue() + (str(end.value.code) if plain else "")) == []
    assert ("Traceback" in stderr.getvalue()) == traced
    if format == "json":
        assert [one["level"] for one in lines(stderr)] == ["error"]


def test_urls_of_any_kind_lose_their_passwords() -> None:
    clean = Redaction()
    assert clean("at amqps://a:b@h:1/x?y=1 and redis://:c/d@e@h, http://h/metrics") == (
        "at amqps://a:***@h:1/x?y=1 and redis://:***@h, http://h/metrics"
    )
    assert clean("redis://h/0?password=x&b=1") == "redis://h/0?password=***&b=1"


def test_a_short_password_leaves_words_whole() -> None:
    clean = Redaction("amqp://guest:on@host/")
    assert clean("on round 1: on, once; amqp://guest:on@host/") == "*** round 1: ***, once; amqp://guest:***@host/"


def test_what_libraries_and_threads_say_is_a_line_too(stderr: Stderr) -> None:
    before = sys.unraisablehook, threading.excepthook, list(logging.getLogger().handlers)
    LogAs("server", "json").begin()
    logging.getLogger("broker.connection").warning("RabbitMQ at %s: gone; trying again", "host")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("beware", stacklevel=1)
    thread = threading.Thread(target=lambda: 1 / 0, name="broker-io")
    thread.start()
    thread.join()
    said = lines(stderr)
    assert [one["level"] for one in said] == ["warning", "warning", "error"]
    assert said[0]["event"] == "RabbitMQ at host: gone; trying again"
    assert "beware" in said[1]["event"]
    assert said[2]["event"] == "broker-io failed: ZeroDivisionError: division by zero"
    logs.end()
    assert (sys.unraisablehook, threading.excepthook, logging.getLogger().handlers) == before


def test_the_interrupt_is_a_line_of_json(stderr: Stderr) -> None:
    def interrupt() -> None:
        LogAs("train", "json").begin()
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        errors.report_errors(interrupt)
    assert end.value.code == 130
    assert [(one["level"], one["event"]) for one in lines(stderr)] == [("warning", "interrupted")]


def test_every_level_is_one_of_these() -> None:
    assert {of for kind in KINDS for of in [level(example(kind))]} == {"debug", "info", "warning"}


def test_the_example_of_a_url_is_shown_unless_it_is_somebodys_own() -> None:
    example = "give amqp://user:password@host:5672/"
    assert Redaction()(example) == example
    assert "password" not in Redaction("amqp://user:password@host:5672/")(example)
    assert Redaction()("amqp://user:password@x@host/") == "amqp://user:***@host/"
