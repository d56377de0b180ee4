"""From a store's URL to the store."""

from pathlib import Path

from coordinator.errors import StoreError
from coordinator.store.interface import Store


def open_store(url: str, run: str, *, timeout: float = 30.0) -> Store:
    """Return the store of a run; an adapter's library is imported only when it is asked for.

    url: redis://, rediss:// or unix:// for Redis; memory:// for this process, with an absolute folder (memory:///folder) to
    continue from and save to.
    timeout: seconds for which an operation is tried again while a server cannot be reached.
    Raises StoreError if the URL is anything else.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme in ("redis", "rediss", "unix"):
        from coordinator.store.redis import RedisStore

        return RedisStore(url, run, timeout=timeout)
    if separator and scheme == "memory" and (rest == "" or rest.startswith("/")):
        from coordinator.store.memory import MemoryStore

        return MemoryStore(Path(rest) if rest else None)
    kind = f"store URL {scheme}:... is of no known kind" if separator else "the store's address (--store) is no URL"
    raise StoreError(f"{kind}; use redis://host:port, rediss://host:port, unix:///socket, memory:// or memory:///folder")
