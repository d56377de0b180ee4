"""`splitee init --compose`: the secrets of docker-compose.yml, made for this copy of it."""

import base64
import hashlib
import json
import os
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path

from broker.topology import EXCHANGE
from cli.errors import CommandError

COMPOSE, ENV, DEFINITIONS = "docker-compose.yml", ".env", "deploy/rabbitmq/definitions.json"
POOL = "pool"  # RabbitMQ's user for coordinator and server workers
CLIENTS = tuple(f"client-{number:02}" for number in range(1, 13))
PORTS = {"GRAFANA_PORT": 3000, "PROMETHEUS_PORT": 9090}  # published on 127.0.0.1
_OTHERS = ("REDIS_PASSWORD", "GRAFANA_PASSWORD", "GRAFANA_SECRET_KEY")
_BYTES = 32
_TRIES = 100
_HEADER = "# Secrets of docker-compose.yml, from `splitee init --compose`. Whoever can read this file has the stack.\n"


def write_secrets(folder: Path, force: bool) -> list[str]:
    """Write .env (mode 0600) and RabbitMQ's users beside a docker-compose.yml; return what to say, in lines.

    force: make new secrets in place of those that are there; other lines of .env stay. Raises CommandError if there is no
    docker-compose.yml in the folder, if a file exists and force is not given, or if one cannot be written.
    """
    env, definitions = folder / ENV, folder / DEFINITIONS
    if not (folder / COMPOSE).is_file():
        raise CommandError(
            f"{folder / COMPOSE} is not there: run this in the folder of the project's {COMPOSE}, or name the folder"
        )
    for path in (env, definitions):
        if path.exists() and not force:
            raise CommandError(f"{path} exists; --force makes new secrets (docs/operations.md says what follows)")
    made = {name: secrets.token_hex(_BYTES) for name in (*_OTHERS, *(_variable(user) for user in (POOL, *CLIENTS)))}
    kept = _kept(env, made)
    ports = {name: _free(port) for name, port in PORTS.items() if not any(line.startswith(f"{name}=") for line in kept)}
    lines = [*kept, *(f"{name}={port}\n" for name, port in ports.items()), *(f"{name}={value}\n" for name, value in made.items())]
    users = {user: made[_variable(user)] for user in (POOL, *CLIENTS)}
    _write(definitions, json.dumps(rabbitmq_definitions(users), indent=1) + "\n", 0o644)  # read by the container's own user
    _write(env, "".join(lines), 0o600)
    moved = [f"Port {PORTS[name]} is in use here: {name}={port} in {ENV}" for name, port in ports.items() if port != PORTS[name]]
    return [f"Wrote {env} and {definitions}; start with: docker compose up", *moved]


def rabbitmq_definitions(users: Mapping[str, str]) -> dict[str, list[dict[str, object]]]:
    """Return RabbitMQ's definitions for the pool's user and clients, by name with their passwords, of which hashes are kept.

    The pool may do all with queues of runs. A client may publish its own activations, to the coordinator and to the inference
    queue, and read what is sent to itself.
    """
    clients = [user for user in users if user != POOL]
    everything = r"^splitee(\..*)?$"
    return {
        "vhosts": [{"name": "/"}],
        "users": [_user(name, password) for name, password in users.items()],
        "permissions": [
            {"user": POOL, "vhost": "/", "configure": everything, "write": everything, "read": everything},
            *({"user": client, "vhost": "/", **_permissions(client)} for client in clients),
        ],
        "topic_permissions": [
            {
                "user": client,
                "vhost": "/",
                "exchange": EXCHANGE,
                "write": rf"^splitee\.[^.]+\.(coordinator|inference|activations\.{client})$",
                "read": _own(client),
            }
            for client in clients
        ],
        "exchanges": [
            {
                "name": EXCHANGE, "vhost": "/", "type": "topic",
                "durable": True, "auto_delete": False, "internal": False, "arguments": {},
            }
        ],
    }  # fmt: skip


def _permissions(client: str) -> dict[str, object]:
    with_exchange = f"^{EXCHANGE}$|{_own(client)}"  # binding a queue reads the exchange; which keys, the topic permission says
    return {"configure": _own(client), "write": with_exchange, "read": with_exchange}


def _own(client: str) -> str:
    return rf"^splitee\.[^.]+\.(inbox\.{client}|replies\.{client}\.[^.]+)$"


def _user(name: str, password: str) -> dict[str, object]:
    salt = secrets.token_bytes(4)
    digest = base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
    return {"name": name, "password_hash": digest, "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": []}


def _variable(user: str) -> str:
    return f"{user.replace('-', '_').upper()}_PASSWORD"


def _kept(env: Path, made: Mapping[str, str]) -> list[str]:
    """Return the lines of the present .env that are no secrets of ours."""
    try:
        lines = env.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return [_HEADER]
    except (OSError, UnicodeError) as error:
        raise CommandError(f"{env}: cannot be read: {error}") from None
    return [f"{line}\n" for line in lines if line.partition("=")[0].strip() not in made]


def _free(port: int) -> int:
    """Return the first port from this one on that nobody listens on; this one if there is none."""
    return next((candidate for candidate in range(port, port + _TRIES) if _is_free(candidate)), port)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what was closed a moment ago is free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _write(path: Path, content: str, mode: int) -> None:
    """Replace a file as a whole; nobody can read it before it has its mode."""
    fresh = path.with_name(f"{path.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
        fresh.replace(path)
    except OSError as error:
        raise CommandError(f"{path}: cannot be written: {error.strerror}") from None
