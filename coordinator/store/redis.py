"""A store in Redis, shared by the roles of a run. The only file that knows redis-py.

Everything of a run is under "splitee:{run}:": documents and versions (hashes), lease:<name> (a hash each), scopes (a set)
and blobs:<scope> (a hash of chunks each). The braces are literal: a cluster keeps a run in one slot.
"""

import itertools
import math
import random
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    OutOfMemoryError,
    RedisError,
    TryAgainError,
)
from redis.retry import Retry

from broker.crash_points import Between, crash_point
from coordinator.errors import DamagedDocument, MissingBlob, StoreError, StoreFull, StoreRefused, StoreUnavailable
from coordinator.store import scripts
from coordinator.store.interface import (
    BlobRef,
    Document,
    Holder,
    Lease,
    Outcome,
    Usage,
    Write,
    check_transaction,
)

CHUNK = 2**20  # bytes; Redis serves others between two of them, and takes larger ones at twice the CPU time a byte
OLDEST = (6, 0)  # server version
_SOCKET_TIMEOUT = 10.0
_FIRST_SECONDS = 10.0  # for a server that has never answered: its address is likely to be wrong
_FIRST_DELAY, _LONGEST_DELAY = 0.05, 2.0

_PASSING = (redis.ConnectionError, redis.TimeoutError, BusyLoadingError, ClusterDownError, TryAgainError)
_PASSING_CODES = ("BUSY ", "MISCONF ", "NOREPLICAS ")


class RedisStore:
    """A ``Store`` on one Redis server.

    url: redis://, rediss:// or unix://, as redis-py reads it. run: name under which everything is kept. timeout: seconds for
    which an operation is tried again while the server cannot be reached; at most 10 while it never was. Connects when first
    used. Raises StoreError if the URL cannot be read.
    """

    def __init__(self, url: str, run: str, *, timeout: float = 30.0) -> None:
        try:
            pool = redis.ConnectionPool.from_url(
                url,
                protocol=2,
                socket_timeout=min(timeout, _SOCKET_TIMEOUT),
                retry=Retry(NoBackoff(), 0),  # redis-py would resend at will; _call does it, within the time-out
            )
        except ValueError:  # its text may quote a part of the password
            raise StoreError(
                f"store URL {url.split(':')[0]}:... cannot be read; "
                "write redis://[user:password@]host:port[/database], with special characters percent-encoded"
            ) from None
        self._client = redis.Redis(connection_pool=pool)
        self._where = _where(url, pool.connection_kwargs)
        self._prefix = f"splitee:{{{run}}}:"
        self._timeout = timeout
        self._jitter = random.Random()
        self._checked = False
        self._reachable = True
        self._closed = threading.Event()
        script = self._client.register_script
        self._acquire, self._renew = script(scripts.ACQUIRE), script(scripts.RENEW)
        self._release, self._holder = script(scripts.RELEASE), script(scripts.HOLDER)
        self._transact, self._read = script(scripts.TRANSACT), script(scripts.READ)
        self._drop_blobs, self._drop_scope = script(scripts.DROP_BLOBS), script(scripts.DROP_SCOPE)

    @property
    def reachable(self) -> bool:
        """Whether the server answered when it was last asked."""
        return self._reachable

    def acquire(self, name: str, nonce: str, holder: str, ttl: float) -> Lease | None:
        """Take a lease that nobody holds, under the next epoch; None if somebody else holds it."""
        taken = self._call(self._acquire, [self._lease(name)], [nonce, holder, _milliseconds(ttl)])
        return Lease(name, int(taken[0]), nonce, ttl, int(taken[1])) if taken is not None else None

    def renew(self, lease: Lease) -> bool:
        """Extend a lease by its ttl; False if it is held no more."""
        args = [lease.epoch, lease.nonce, _milliseconds(lease.ttl)]
        return bool(self._call(self._renew, [self._lease(lease.name)], args))

    def release(self, lease: Lease) -> None:
        """Give a lease back; nothing happens if it is held no more."""
        self._call(self._release, [self._lease(lease.name)], [lease.epoch, lease.nonce])

    def holder(self, name: str) -> Holder | None:
        """Return who holds a lease, None if nobody does."""
        answer = self._call(self._holder, [self._lease(name)])
        if answer is None:
            return None
        holder, epoch, remaining = answer
        return Holder(_text(holder), int(epoch), int(remaining) / 1000)

    def transact(self, writes: Sequence[Write], *, fence: Lease | None = None, bump: Sequence[str] = ()) -> Outcome:
        """Write all documents or none."""
        check_transaction(writes, bump)
        lease, args = self._fence(fence)
        keys = [self._key("documents"), self._key("versions"), lease, *(self._lease(name) for name in bump)]
        for write in writes:
            args += [write.key, write.result or "", write.expected or "", write.value or b""]
        return Outcome(self._call(self._transact, keys, args).decode())

    def read(self, keys: Sequence[str]) -> list[Document | None]:
        """Return documents in the order of keys, None where there is none."""
        if not keys:
            return []
        values, versions = self._call(self._read, [self._key("documents"), self._key("versions")], list(keys))
        return [
            _document(key, value, version) if version is not None else None
            for key, value, version in zip(keys, values, versions, strict=True)
        ]

    def keys(self, prefix: str) -> list[str]:
        """Return the keys of all documents that begin with prefix, sorted."""
        keys = (_text(key) for key in self._call(self._client.hkeys, self._key("versions")))
        return sorted(key for key in keys if key.startswith(prefix))

    def put_blobs(self, scope: str, values: Sequence[bytes]) -> list[BlobRef]:
        """Store immutable values under a scope; the same value twice is stored once.

        Raises MissingBlob if another process dropped the scope meanwhile. What an interrupted put leaves is never taken for
        a value, and goes with its scope.
        """
        refs = [BlobRef.of(scope, value) for value in values]
        by_ref = dict(zip(refs, values, strict=True))
        absent = self._missing_chunks(scope, by_ref)
        try:
            for ref, number in absent:
                self._put_chunk(ref, number, memoryview(by_ref[ref])[number * CHUNK : (number + 1) * CHUNK])
                crash_point(Between.CHUNK_AND_CHUNK)
        except StoreFull:
            self.drop_blobs({ref for ref, _ in absent})
            raise
        if absent and self._missing_chunks(scope, by_ref):
            raise MissingBlob(f"scope {scope} was dropped while values were being stored in it")
        return refs

    def get_blob(self, ref: BlobRef) -> bytes:
        """Return a value; raise ``MissingBlob`` if it is gone or damaged."""
        chunks = []
        for field in _fields(ref):
            chunk = self._call(self._client.hget, self._blobs(ref.scope), field)
            if chunk is None:
                raise MissingBlob(f"blob {ref.digest} of {ref.scope} is not in the store")
            chunks.append(chunk)
        value = b"".join(chunks)
        if BlobRef.of(ref.scope, value) != ref:
            raise MissingBlob(f"blob {ref.digest} of {ref.scope} is damaged: its {len(value)} bytes do not match their digest")
        return value

    def drop_blobs(self, refs: Iterable[BlobRef], *, fence: Lease | None = None) -> None:
        """Delete values; those not there are passed over. Nothing happens if the fence is not held."""
        fields: defaultdict[str, list[str]] = defaultdict(list)
        for ref in refs:
            fields[ref.scope] += _fields(ref)
        lease, held = self._fence(fence)
        for scope, names in fields.items():
            self._call(self._drop_blobs, [lease, self._blobs(scope), self._key("scopes")], [*held, scope, *names])

    def scopes(self) -> list[str]:
        """Return the scopes that hold any blob, or what an interrupted put left of one, sorted."""
        return sorted(_text(scope) for scope in self._call(self._client.smembers, self._key("scopes")))

    def drop_scope(self, scope: str, *, fence: Lease | None = None) -> None:
        """Delete all values of a scope. Nothing happens if the fence is not held."""
        lease, held = self._fence(fence)
        self._call(self._drop_scope, [lease, self._blobs(scope), self._key("scopes")], [*held, scope])

    def usage(self) -> Usage:
        """Return bytes used by the whole server and the most it may use."""
        memory = self._call(self._client.info, "memory")
        return Usage(memory["used_memory"], memory["maxmemory"] or None)

    def save(self) -> None:
        """Do nothing: how durable writes are is the server's setting (appendonly, appendfsync)."""

    def wipe(self) -> int:
        """Delete everything of this run; return how many keys that were."""
        pattern = re.sub(r"([*?\[\]\\])", r"\\\1", self._prefix) + "*"
        cursor = removed = 0
        while True:
            cursor, keys = self._call(self._client.scan, cursor, match=pattern, count=1000)
            if keys:
                removed += self._call(self._client.unlink, *keys)
            if cursor == 0:
                return removed

    def close(self) -> None:
        """Close connections; operations still waiting for the server raise StoreUnavailable."""
        self._closed.set()
        self._client.connection_pool.disconnect()

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _lease(self, name: str) -> str:
        return self._key(f"lease:{name}")

    def _fence(self, fence: Lease | None) -> tuple[str, list[str | int | bytes]]:
        return self._lease(fence.name if fence else ""), [fence.epoch, fence.nonce] if fence else ["", ""]

    def _blobs(self, scope: str) -> str:
        return self._key(f"blobs:{scope}")

    def _missing_chunks(self, scope: str, refs: Iterable[BlobRef]) -> list[tuple[BlobRef, int]]:
        wanted = [(ref, number, field) for ref in refs for number, field in enumerate(_fields(ref))]

        def measure() -> Any:
            pipeline = self._client.pipeline(transaction=False)
            for _, _, field in wanted:
                pipeline.hexists(self._blobs(scope), field)
                pipeline.hstrlen(self._blobs(scope), field)
            return pipeline.execute()

        answers = self._call(measure)
        return [
            (ref, number)
            for (ref, number, _), exists, size in zip(wanted, answers[::2], answers[1::2], strict=True)
            if not exists or size != min(CHUNK, ref.size - number * CHUNK)
        ]

    def _put_chunk(self, ref: BlobRef, number: int, chunk: memoryview) -> None:
        def put() -> None:
            pipeline = self._client.pipeline(transaction=True)  # together, so that no chunk is outside a listed scope
            pipeline.sadd(self._key("scopes"), ref.scope)
            pipeline.hset(self._blobs(ref.scope), f"{ref.digest}:{number}", chunk)
            pipeline.execute()

        self._call(put)

    def _call(self, action: Callable[..., Any], *args: Any, **options: Any) -> Any:
        deadline = time.monotonic() + (self._timeout if self._checked else min(self._timeout, _FIRST_SECONDS))
        for attempt in itertools.count():
            if self._closed.is_set():
                break
            try:
                self._check_server()
                answer = action(*args, **options)
                self._reachable = True
                return answer
            except RedisError as error:
                fault = _translated(error, self._where)
                self._reachable = not isinstance(fault, StoreUnavailable)
            delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2**attempt) * self._jitter.uniform(0.5, 1.0)
            if not isinstance(fault, StoreUnavailable) or time.monotonic() + delay > deadline:
                try:
                    raise fault
                finally:
                    del fault  # or its traceback, this frame and it keep each other, and whatever the callers hold
            self._closed.wait(delay)
        raise StoreUnavailable(f"the connection to {self._where} was closed")

    def _check_server(self) -> None:
        if self._checked:
            return
        info = self._client.info()
        version = str(info["redis_version"])
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
            raise StoreRefused(f"{self._where} is version {version}; version {'.'.join(map(str, OLDEST))} or later is needed")
        if info["role"] != "master":
            raise StoreRefused(f"{self._where} is a replica, which takes no writes; name its master with --store")
        if str(info.get("maxmemory_policy", "")).startswith("allkeys"):
            raise StoreRefused(
                f"{self._where} would delete a run's state when its memory is full (maxmemory-policy {info['maxmemory_policy']}); "
                "set maxmemory-policy noeviction"
            )
        self._checked = True


def _where(url: str, options: dict[str, Any]) -> str:
    if "path" in options:
        return f"Redis at unix://{options['path']}"
    return f"Redis at {url.partition('://')[0]}://{options.get('host', 'localhost')}:{options.get('port', 6379)}"


def _translated(error: RedisError, where: str) -> StoreError:
    text = str(error).rstrip(".")
    if isinstance(error, AuthenticationError | AuthorizationError):
        return StoreRefused(f"{where} refuses the password or user: {text}; check --store")
    if isinstance(error, _PASSING) or text.startswith(_PASSING_CODES):
        return StoreUnavailable(f"{where} does not answer: {text}; start it, or check --store")
    if isinstance(error, OutOfMemoryError) or "OOM command not allowed" in text:
        return StoreFull(f"{where} has no memory left; raise its maxmemory, or keep less in it")
    return StoreRefused(f"{where} refuses a command: {text:.300}")


def _document(key: str, value: bytes | None, version: bytes) -> Document:
    if value is None or not version.isascii():
        raise DamagedDocument(f"document {key} in the store is damaged: it has no value, or its version is no text")
    return Document(value, version.decode())


def _text(name: bytes) -> str:
    return name.decode(errors="backslashreplace")


def _fields(ref: BlobRef) -> Iterator[str]:
    return (f"{ref.digest}:{number}" for number in range(max(1, math.ceil(ref.size / CHUNK))))


def _milliseconds(seconds: float) -> int:
    return math.ceil(seconds * 1000)
