"""docker-compose.yml as Compose reads it: variables filled in from an environment, every service with what it has."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
FILE = "docker-compose.yml"
_VARIABLE = re.compile(r"\$(?:\$|\{(\w+)(?:(:?[-?])([^}]*))?\})")


class MissingVariable(Exception):
    """A required variable is not set; the text is Compose's own."""


@dataclass(frozen=True)
class Mount:
    """What is mounted where. source: a path below the project of a bind, the name of a volume."""

    kind: str
    source: str
    target: str
    read_only: bool


@dataclass(frozen=True)
class Service:
    """A service. ports: (address, published port, container's port). aliases: names under which each network knows it."""

    name: str
    image: str
    command: list[str]
    environment: dict[str, str]
    mounts: list[Mount]
    ports: list[tuple[str, int, int]]
    networks: dict[str, set[str]]
    healthcheck: list[str]
    depends_on: dict[str, str]
    profiles: list[str]
    replicas: int
    raw: dict[str, Any]

    @property
    def is_role(self) -> bool:
        """Whether it is one of the project's own image."""
        return self.image.startswith("hetero-splitee:")


def interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    """Return a value with ${NAME}, ${NAME:-default} and ${NAME:?message} filled in, in all strings below it."""
    if isinstance(value, dict):
        return {key: interpolated(one, variables) for key, one in value.items()}
    if isinstance(value, list):
        return [interpolated(one, variables) for one in value]
    if not isinstance(value, str):
        return value

    def filled(match: re.Match[str]) -> str:
        name, how, rest = match.groups()
        if name is None:
            return "$"
        found = variables.get(name, "")
        if found or (name in variables and how in ("-", "?")):
            return found
        if how in (":?", "?"):
            raise MissingVariable(f"required variable {name} is missing a value: {rest}")
        return rest if how in (":-", "-") else ""

    return _VARIABLE.sub(filled, value)


def environment_file(text: str) -> dict[str, str]:
    """Return the variables of a .env file."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Z0-9_]+=[A-Za-z0-9]+", line) for line in lines), "needs no quotes"
    return dict(line.split("=", 1) for line in lines)


def document(folder: Path = ROOT) -> dict[str, Any]:
    """Return the file as YAML has it."""
    return dict(yaml.safe_load((folder / FILE).read_text(encoding="utf-8")))


def services(folder: Path, variables: Mapping[str, str]) -> dict[str, Service]:
    """Return all services by name; raise MissingVariable as Compose would."""
    return {name: _service(name, raw) for name, raw in interpolated(document(folder), variables)["services"].items()}


def _service(name: str, raw: dict[str, Any]) -> Service:
    networks = raw.get("networks", {})
    listed = dict.fromkeys(networks) if isinstance(networks, list) else networks
    test = raw["healthcheck"]["test"]
    assert test[0] == "CMD", "without a shell"
    return Service(
        name=name,
        image=raw["image"],
        command=[str(word) for word in raw.get("command", [])],
        environment={key: _text(value) for key, value in raw.get("environment", {}).items()},
        mounts=[_mount(one) for one in raw.get("volumes", [])],
        ports=[_port(one) for one in raw.get("ports", [])],
        networks={network: {name, *(more or {}).get("aliases", ())} for network, more in listed.items()},
        healthcheck=test[1:],
        depends_on={other: how["condition"] for other, how in raw.get("depends_on", {}).items()},
        profiles=raw.get("profiles", []),
        replicas=raw.get("deploy", {}).get("replicas", 1),
        raw=raw,
    )


def _text(value: Any) -> str:
    assert isinstance(value, str), f"{value!r} is no string: YAML has its own idea of it"
    return value


def _mount(one: str | dict[str, Any]) -> Mount:
    if isinstance(one, dict):
        return Mount(one["type"], one["source"].removeprefix("./"), one["target"], one.get("read_only", False))
    source, target, *more = one.split(":")
    kind = "bind" if source.startswith(("./", "/")) else "volume"
    return Mount(kind, source.removeprefix("./"), target, more == ["ro"])


def _port(one: str) -> tuple[str, int, int]:
    address, published, target = one.split(":")
    return address, int(published), int(target)
