"""What a test does where a server's program is not installed."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TypeVar

import pytest

from cli.private_servers import ServerNotInstalled

T = TypeVar("T")


@contextmanager
def installed(start: AbstractContextManager[T]) -> Iterator[T]:
    """Start a server; where its program is missing skip the test, but fail in CI: there nothing may go untested."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(start)
        except ServerNotInstalled as error:
            if os.environ.get("CI"):
                pytest.fail(str(error))
            pytest.skip(str(error))
        yield server
