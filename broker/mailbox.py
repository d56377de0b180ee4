"""How a role's one thread hears from all others: handlers are posted and run in turn."""

import queue
import time
from collections.abc import Callable
from typing import TypeVar

from broker.transport import Delivery, Reopened, Sink

T = TypeVar("T")


class Mailbox:
    """A queue of calls, so that a role's state is touched by its own thread only and needs no locks."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.turned = time.monotonic()  # when the role's loop last turned

    def post(self, call: Callable[[], None]) -> None:
        """Have a call made by the role's thread; may be called from any thread."""
        self._calls.put(call)

    def sink(self, handler: Callable[[Delivery | Reopened], None]) -> Sink:
        """Return a transport's sink that hands everything to a handler on the role's thread."""
        return lambda item: self._calls.put(lambda: handler(item))

    def turn(self) -> None:
        """The role's loop turns, where it does not handle what is here."""
        self.turned = time.monotonic()

    def handle(self, timeout: float) -> None:
        """Make the calls that are waiting now; if there are none, wait up to timeout seconds for one.

        What comes meanwhile waits for the next time: however fast messages come, the role's loop turns.
        """
        self.turn()
        waiting = self._calls.qsize()
        try:
            call = self._calls.get(timeout=timeout) if timeout > 0 else self._calls.get_nowait()
        except queue.Empty:
            return
        call()
        for _ in range(waiting - 1):
            self._calls.get_nowait()()

    def handle_until(self, done: Callable[[], bool], timeout: float, tick: float = 0.5) -> bool:
        """Make calls until a condition holds or timeout seconds have passed; return whether it holds."""
        deadline = time.monotonic() + timeout
        while not done():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.handle(min(left, tick))
        return True
