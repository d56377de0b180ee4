"""One AMQP connection and the thread that owns it."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

import pika
from pika.adapters.select_connection import IOLoop
from pika.adapters.utils import io_services_utils
from pika.channel import Channel as Channel  # named by the files that use channels: pika itself is imported here
from pika.exceptions import AMQPError, ConnectionClosedByClient

from broker.address import parameters
from broker.errors import BrokerError, BrokerRefused, BrokerUnavailable
from broker.failures import Backoff, translate

log = logging.getLogger(__name__)
logging.getLogger("pika").setLevel(logging.CRITICAL)  # it logs as errors what this module translates and repairs
io_services_utils._AsyncTransportBase._MAX_RECV_BYTES = 256 * 1024  # 4 KiB reads cost five times the CPU on large bodies

T = TypeVar("T")
Work = Callable[[Channel, Callable[[T], None]], None]

_CLOSE_GRACE = 5.0  # seconds a broker has to answer the closing of a connection


class Connection:
    """Keeps one connection open, again and again until it is closed. Channels are used on its own thread only.

    url: an AMQP URL as pika reads it; heartbeat and timeout in seconds.
    on_open: called on the I/O thread with every new connection; answers, sooner or later, with ``mark_ready`` or ``fail``.
    on_lost: called on the I/O thread when a connection that was open is gone, and all its channels with it.
    may_be_away: whether it is enough to begin with that the connection is tried.
    """

    def __init__(
        self,
        url: str,
        *,
        heartbeat: int,
        timeout: float,
        may_be_away: bool,
        on_open: Callable[[], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._parameters = parameters(url, heartbeat, timeout)
        self.address = f"{'amqps' if self._parameters.ssl_options else 'amqp'}://{self._parameters.host}:{self._parameters.port}"
        self.timeout = timeout
        self._may_be_away = may_be_away
        self._on_open = on_open
        self._on_lost = on_lost
        self._failure: BrokerError = BrokerUnavailable("nothing is heard of it")
        self._warned: type[BrokerError] | None = None  # of what kind the failure was that the log has, of this absence
        self._first: Future[None] = Future()
        self._backoff = Backoff()
        self._state = threading.Condition()
        self._is_ready = False
        self._stopping = False
        self._pika: Any = None
        self._loop = IOLoop()
        self._thread = threading.Thread(target=self._run, name="broker-io", daemon=True)

    @property
    def user(self) -> str | None:
        """Name that this connection logs in with."""
        username = getattr(self._parameters.credentials, "username", None)
        return None if username is None else str(username)

    @property
    def is_open(self) -> bool:
        """Whether channels can be opened."""
        return self._pika is not None and bool(self._pika.is_open)

    @property
    def is_ready(self) -> bool:
        """Whether ``mark_ready`` holds for the present connection."""
        return self._is_ready

    def start(self, timeout: float) -> None:
        """Connect; raise BrokerUnavailable after so many seconds, BrokerRefused where trying again is useless.

        Where the broker may be away, the first try that it does not answer within them goes on in the background.
        """
        self._thread.start()
        try:
            self._first.result(timeout)
        except (TimeoutError, BrokerRefused) as error:
            if self._may_be_away and isinstance(error, TimeoutError):
                self.call(self._go_on_without)
                return
            self.close()
            raise self.unavailable() from None

    def unavailable(self) -> BrokerError:
        """Return the error for a call that had to be given up."""
        if isinstance(self._failure, BrokerRefused):
            return BrokerRefused(f"RabbitMQ at {self.address} refused: {self._failure}")
        return BrokerUnavailable(
            f"RabbitMQ at {self.address} does not answer: {self._failure}; start it, or check --broker and the network"
        )

    def wait_ready(self, timeout: float) -> bool:
        """Wait for a usable connection; return whether there is one."""
        with self._state:
            self._state.wait_for(lambda: self._is_ready or self._stopping, timeout)
            return self._is_ready and not self._stopping

    def call(self, function: Callable[..., object], *args: object) -> bool:
        """Run a function on the I/O thread; return False, and do not run it, once the connection is closed."""
        with self._state:
            if self._stopping:
                return False
            self._loop.add_callback_threadsafe(partial(_guarded, function, *args))
            return True

    def ask(self, start: Callable[[Future[T]], None]) -> T:
        """Run ``start`` on the I/O thread until a future it was given has a result, and return that.

        Tries again after BrokerUnavailable, until the time-out. Raises BrokerUnavailable, and what ``start`` sets.
        """
        self._check_thread()
        deadline = time.monotonic() + self.timeout
        backoff = Backoff()
        while self.wait_ready(max(0.0, deadline - time.monotonic())):
            future: Future[T] = Future()
            if not self.call(start, future):
                break
            try:
                return future.result(max(0.0, deadline - time.monotonic()))
            except BrokerUnavailable as error:
                self._failure = error
            except TimeoutError:
                break
            self._wait_stopping(min(backoff.next(), max(0.0, deadline - time.monotonic())))
        if self._stopping:
            raise BrokerUnavailable(f"the connection to {self.address} is closed")
        raise self.unavailable()

    def wait(self, future: Future[T]) -> T:
        """Return a future's result; raise BrokerUnavailable after the time-out."""
        self._check_thread()
        try:
            return future.result(self.timeout)
        except TimeoutError:
            raise self.unavailable() from None

    def close(self) -> None:
        """Close the connection and return when its thread has ended."""
        with self._state:
            if not self._stopping:
                self._stopping = True
                self._state.notify_all()
                self._loop.add_callback_threadsafe(self._shut)
        self._thread.join(2 * _CLOSE_GRACE)

    # The rest runs on the I/O thread.

    def call_later(self, delay: float, function: Callable[[], None]) -> None:
        """Run a function after so many seconds."""
        self._loop.call_later(delay, partial(_guarded, function))

    def channel(self, on_open: Callable[[Channel], None], on_closed: Callable[[Channel, Exception], None]) -> Channel:
        """Open a channel; on_closed is called once, whoever closed it and why. Raises BrokerUnavailable."""
        if not self.is_open:
            raise BrokerUnavailable("not connected")
        try:
            channel = self._pika.channel(on_open_callback=on_open)
        except AMQPError as error:
            raise translate(error) from None
        channel.add_on_close_callback(on_closed)
        return channel

    def once(self, work: Work[T], future: Future[T]) -> None:
        """Do some work on a channel of its own, which errors may close; ``work`` calls its second argument with the result."""

        def done(value: T) -> None:
            future.set_result(value)
            if channel.is_open:
                channel.close()

        def closed(_: Channel, reason: Exception) -> None:
            if not future.done():
                future.set_exception(translate(reason))

        try:
            channel = self.channel(lambda opened: work(opened, done), closed)
        except BrokerError as error:
            future.set_exception(error)

    def mark_ready(self) -> None:
        """Say that the connection can be used."""
        self._backoff.reset()
        self._warned = None
        self._set_ready(True)
        if not self._first.done():
            self._first.set_result(None)

    def mark_unready(self) -> None:
        """Say that the connection is being prepared again."""
        self._set_ready(False)

    def fail(self, error: BrokerError) -> None:
        """Give up this connection and make another after a while."""
        self._record(error)
        if self.is_open:
            self._pika.close()

    def _set_ready(self, ready: bool) -> None:
        with self._state:
            self._is_ready = ready
            self._state.notify_all()

    def _wait_stopping(self, timeout: float) -> None:
        with self._state:
            self._state.wait_for(lambda: self._stopping, timeout)

    def _check_thread(self) -> None:
        if threading.current_thread() is self._thread:
            raise RuntimeError("sinks and on_settled callbacks must hand over, not wait for the broker")

    def _run(self) -> None:
        self._connect()
        while True:
            try:
                self._loop.start()
                break
            except Exception:  # a fault inside pika must not end every role's traffic for good
                if not self._stopping:  # else it is known: pika asserts what does not hold where a handshake is aborted
                    log.exception("the I/O loop of %s failed; connecting anew", self.address)
                self._closed(self._pika, BrokerUnavailable("the I/O loop failed"))
        self._on_lost()
        self._loop.close()

    def _connect(self) -> None:
        if self._stopping:
            return
        self._pika = pika.SelectConnection(
            parameters=self._parameters,
            on_open_callback=lambda _: self._on_open(),
            on_open_error_callback=self._closed,
            on_close_callback=self._closed,
            custom_ioloop=self._loop,
        )
        self._pika.add_on_connection_blocked_callback(self._blocked)
        self._pika.add_on_connection_unblocked_callback(lambda *_: log.warning("RabbitMQ at %s takes messages again", self.address))

    def _blocked(self, _connection: object, frame: Any) -> None:
        log.warning(
            "RabbitMQ at %s takes no messages: %s; waiting until it has memory and disk again", self.address, frame.method.reason
        )

    def _closed(self, connection: object, error: BaseException) -> None:
        if connection is not self._pika:
            return
        self._pika = None
        self._set_ready(False)
        self._on_lost()
        if self._stopping:
            self._loop.stop()
            return
        if not isinstance(error, ConnectionClosedByClient):
            self._record(error if isinstance(error, BrokerError) else translate(error))
        self.call_later(self._backoff.next(), self._connect)

    def _record(self, error: BrokerError) -> None:
        self._failure = error
        if not self._first.done() and isinstance(error, BrokerRefused):
            self._first.set_exception(self.unavailable())
        elif self._first.done() or self._may_be_away:
            if type(error) is not self._warned:
                self._warned = type(error)
                log.warning("%s; trying again", self.unavailable())
            if not self._first.done():
                self._first.set_result(None)

    def _go_on_without(self) -> None:
        if not self._first.done():
            self._record(self._failure)

    def _shut(self) -> None:
        self._loop.call_later(_CLOSE_GRACE, self._loop.stop)
        connection = self._pika
        if connection is None or connection.is_closed:
            self._loop.stop()
        elif not connection.is_closing:
            connection.close()


def _guarded(function: Callable[..., object], *args: object) -> None:
    try:
        function(*args)
    except Exception:  # one caller's fault must not end the thread that serves all
        log.exception("a call on the I/O thread failed")
