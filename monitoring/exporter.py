"""A process's metrics and health over HTTP: /metrics for Prometheus, /healthz for whoever starts processes again."""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from monitoring.errors import ExporterError

TURN_SECONDS = 120.0  # a role whose loop has not turned for so long is not well; reading data or a very long step take less
READ_SECONDS = 10.0  # that a request may take to come
_PROGRAMS = {"broker": "RabbitMQ", "store": "Redis"}


class Health:
    """Whether a role is well, as last known. It is not before ``watch`` was called, nor after ``end``."""

    def __init__(self, role: str) -> None:
        self._role = role
        self._turned: Callable[[], float] | None = None
        self._reachable: Mapping[str, Callable[[], bool]] = {}
        self._state = "starting"

    def watch(self, turned: Callable[[], float], reachable: Mapping[str, Callable[[], bool]]) -> None:
        """Begin to look at a role.

        turned: returns the time of ``time.monotonic`` at which its loop last turned. reachable: returns whether a server that the
        role needs could be reached when it was last tried: "broker", "store".
        """
        self._turned, self._reachable = turned, reachable

    def end(self) -> None:
        """The role has ended."""
        self._turned, self._state = None, "ended"

    def reachable(self) -> dict[str, bool]:
        """Return which servers could be reached when they were last tried; none of them while nothing is watched."""
        return {server: reachable() for server, reachable in self._reachable.items()} if self._turned else {}

    def report(self) -> dict[str, str | bool]:
        """Return role, whether it is well, and why not, in one line."""
        reason = self._reason()
        return {"role": self._role, "healthy": not reason, "reason": reason or "running"}

    def _reason(self) -> str:
        turned = self._turned
        if turned is None:
            return self._state
        silent = time.monotonic() - turned()
        if silent > TURN_SECONDS:
            return f"no turn for {silent:.0f} s"
        missing = [_PROGRAMS[server] for server, reachable in self._reachable.items() if not reachable()]
        return f"{' and '.join(missing)} cannot be reached" if missing else ""


class Exporter:
    """An HTTP server on threads of its own. Use as a context manager.

    port: 0 takes any free one. Raises ExporterError if it cannot be listened on.
    """

    def __init__(self, address: str, port: int, registry: CollectorRegistry, health: Health) -> None:
        handler = type("Handler", (_Handler,), {"registry": registry, "health": health})
        server = type("Server", (_Server,), {"address_family": socket.AF_INET6 if ":" in address else socket.AF_INET})
        try:
            self._server: _Server = server((address, port), handler)
        except (OSError, OverflowError) as error:
            why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno and error.errno > 0 else str(error)
            raise ExporterError(
                f"cannot serve metrics at {_shown(address)}:{port}: {why}; choose another --metrics-port (0: any free one), "
                "or --metrics-address"
            ) from None
        self.port = int(self._server.server_address[1])
        self.url = f"http://{_shown(address)}:{self.port}/metrics"
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a connection that stays open holds up nobody's end

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong with a request, unless it is only that whoever asked has gone away."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    registry: ClassVar[CollectorRegistry]
    health: ClassVar[Health]
    timeout = READ_SECONDS
    server_version = "splitee"
    sys_version = ""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/metrics":
            encode, kind = choose_encoder(self.headers.get("Accept", ""))
            self._answer(HTTPStatus.OK, kind, encode(self.registry))
        elif path == "/healthz":
            report = self.health.report()
            status = HTTPStatus.OK if report["healthy"] else HTTPStatus.SERVICE_UNAVAILABLE
            self._answer(status, "application/json", json.dumps(report).encode() + b"\n")
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"there are /metrics and /healthz\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Keep requests out of a role's log."""

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _shown(address: str) -> str:
    return f"[{address}]" if ":" in address else address
