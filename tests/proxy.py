"""A TCP proxy between a role and its server: it breaks connections where and when a test wants them broken."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit, urlunsplit


class Proxy:
    """Forwards TCP connections. ``url``: the server's, as it is reached through here, at a given port or any that is free."""

    def __init__(self, url: str, port: int = 0) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", port))
        login, at, _ = parts.netloc.rpartition("@")
        self.url = urlunsplit(parts._replace(netloc=f"{login}{at}127.0.0.1:{self._listener.getsockname()[1]}"))
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._down = False
        self._released = threading.Event()  # answers may pass
        self._released.set()
        self._until: int | None = None  # bytes to pass on, in either direction,
        self._then: Callable[[], object] = lambda: None  # before this is done once
        self._answers: dict[bytes, bytes] = {}
        self._lost_to = b""
        self.replies_to_lose = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, *, stay_down: bool = False) -> None:
        """Break every connection; with stay_down, new ones too, until ``restore``."""
        with self._lock:
            self._down = self._down or stay_down
            sockets, self._sockets = self._sockets, set()
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._released.set()

    def restore(self) -> None:
        """Accept connections again."""
        self._down = False

    def after(self, size: int, then: Callable[[], object]) -> None:
        """Do something once when so many bytes more have passed: in the middle of a message, the rest of which still waits."""
        with self._lock:
            self._until, self._then = size, then

    def hold_answers(self) -> None:
        """Let no byte of the server through until the connections are cut."""
        self._released.clear()

    def lose_replies(self, times: int, to: bytes = b"") -> None:
        """Pass on the next requests that have these bytes, and break the connection when the server has answered."""
        with self._lock:
            self.replies_to_lose, self._lost_to = times, to

    def answer(self, request: bytes, answer: bytes) -> None:
        """Say something in the server's place, once, to the next that has these bytes; the server does not hear it."""
        self._answers[request] = answer

    def close(self) -> None:
        """Break everything for good."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts, which closing alone does not
        self._listener.close()
        self.cut(stay_down=True)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self._target)
        except OSError:  # the server is down
            client.close()
            return
        with self._lock:
            if self._down:
                client.close()
                server.close()
                return
            self._sockets |= {client, server}
        swallow = threading.Event()
        threading.Thread(target=self._forward, args=(client, server, swallow, False), daemon=True).start()
        threading.Thread(target=self._forward, args=(server, client, swallow, True), daemon=True).start()

    def _forward(self, source: socket.socket, destination: socket.socket, swallow: threading.Event, is_answer: bool) -> None:
        with suppress(OSError), source:
            while data := source.recv(65536):
                if is_answer and not self._released.is_set():
                    self._released.wait()
                    break
                if is_answer and swallow.is_set():
                    break
                if not is_answer and (request := self._to_answer(data)):
                    source.sendall(self._answers.pop(request))
                    continue
                if not is_answer and self._is_to_lose(data):
                    swallow.set()
                self._pass_on(data, destination)
        with self._lock:
            self._sockets.discard(source)
        with suppress(OSError):
            destination.shutdown(socket.SHUT_RDWR)

    def _to_answer(self, data: bytes) -> bytes | None:
        return next((request for request in self._answers if request in data), None)

    def _is_to_lose(self, data: bytes) -> bool:
        with self._lock:
            lost = self.replies_to_lose > 0 and self._lost_to in data
            self.replies_to_lose -= lost
            return lost

    def _pass_on(self, data: bytes, destination: socket.socket) -> None:
        then = None
        with self._lock:
            whole = len(data)
            if self._until is not None:
                whole = min(whole, self._until)
                self._until -= whole
                if self._until == 0:
                    self._until, then = None, self._then
        destination.sendall(data[:whole])
        if then is not None:
            then()
        destination.sendall(data[whole:])


def closed_port() -> int:
    """Return a port at which nobody listens; a proxy can begin to."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def at_port(url: str, port: int) -> str:
    """Return a server's URL as a proxy at this port will have it."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}"))


@contextmanager
def proxied(url: str, port: int = 0) -> Iterator[Proxy]:
    """Run a proxy for the length of a block."""
    proxy = Proxy(url, port)
    try:
        yield proxy
    finally:
        proxy.close()
