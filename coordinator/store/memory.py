"""A store in this process's memory, which can save itself to a folder."""

import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from coordinator.errors import MissingBlob
from coordinator.store.folder import Contents, StoreFolder
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


@dataclass
class _LeaseState:
    epoch: int = 0
    nonce: str = ""
    holder: str = ""
    expires: float = -math.inf  # as of one that was given back
    lost: int = 0


class MemoryStore:
    """A ``Store`` for roles of one process.

    path: folder that ``save`` writes and a later MemoryStore continues from; None keeps nothing. Leases are not saved, only
    their epochs: their holders end with the process. One process at a time may use a folder.
    clock: seconds, by which leases pass. Raises StoreError if the folder is damaged or holds something else.
    """

    def __init__(self, path: Path | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._save_lock = threading.Lock()
        self._folder = StoreFolder(path) if path is not None else None
        contents = self._folder.load() if self._folder else Contents()
        self._documents = contents.documents
        self._blobs = contents.blobs
        self._leases = {name: _LeaseState(epoch) for name, epoch in contents.epochs.items()}

    @property
    def reachable(self) -> bool:
        """It always is."""
        return True

    def acquire(self, name: str, nonce: str, holder: str, ttl: float) -> Lease | None:
        """Take a lease that nobody holds, under the next epoch; None if somebody else holds it."""
        with self._lock:
            now = self._clock()
            state = self._leases.setdefault(name, _LeaseState())
            if state.expires > now and state.nonce != nonce:
                return None
            if state.expires <= now:
                state.epoch += 1
                state.lost += state.expires > -math.inf
            state.nonce, state.holder, state.expires = nonce, holder, now + ttl
            return Lease(name, state.epoch, nonce, ttl, state.lost)

    def renew(self, lease: Lease) -> bool:
        """Extend a lease by its ttl; False if it is held no more."""
        with self._lock:
            if not self._is_held(lease):
                return False
            self._leases[lease.name].expires = self._clock() + lease.ttl
            return True

    def release(self, lease: Lease) -> None:
        """Give a lease back; nothing happens if it is held no more."""
        with self._lock:
            if self._is_held(lease):
                state = self._leases[lease.name]
                state.expires, state.lost = -math.inf, 0

    def holder(self, name: str) -> Holder | None:
        """Return who holds a lease, None if nobody does."""
        with self._lock:
            state = self._leases.get(name, _LeaseState())
            remaining = state.expires - self._clock()
            return Holder(state.holder, state.epoch, remaining) if remaining > 0 else None

    def transact(self, writes: Sequence[Write], *, fence: Lease | None = None, bump: Sequence[str] = ()) -> Outcome:
        """Write all documents or none."""
        check_transaction(writes, bump)
        with self._lock:
            if all(self._version(write.key) == write.result for write in writes):
                return Outcome.ALREADY_DONE
            if fence is not None and not self._is_held(fence):
                return Outcome.FENCED
            if any(self._version(write.key) != write.expected for write in writes):
                return Outcome.CONFLICT
            for write in writes:
                self._apply(write)
            if fence is not None:
                self._leases[fence.name].lost = 0
            for name in bump:
                state = self._leases.setdefault(name, _LeaseState())
                state.epoch, state.expires, state.lost = state.epoch + 1, -math.inf, 0
            return Outcome.DONE

    def read(self, keys: Sequence[str]) -> list[Document | None]:
        """Return documents in the order of keys, None where there is none."""
        with self._lock:
            return [self._documents.get(key) for key in keys]

    def keys(self, prefix: str) -> list[str]:
        """Return the keys of all documents that begin with prefix, sorted."""
        with self._lock:
            return sorted(key for key in self._documents if key.startswith(prefix))

    def put_blobs(self, scope: str, values: Sequence[bytes]) -> list[BlobRef]:
        """Store immutable values under a scope; the same value twice is stored once."""
        refs = [BlobRef.of(scope, value) for value in values]
        with self._lock:
            for ref, value in zip(refs, values, strict=True):
                self._blobs.setdefault(ref, value)
        return refs

    def get_blob(self, ref: BlobRef) -> bytes:
        """Return a value; raise ``MissingBlob`` if it is gone."""
        with self._lock:
            value = self._blobs.get(ref)
        if value is None:
            raise MissingBlob(f"blob {ref.digest} of {ref.scope} is not in the store")
        return value

    def drop_blobs(self, refs: Iterable[BlobRef], *, fence: Lease | None = None) -> None:
        """Delete values; those not there are passed over. Nothing happens if the fence is not held."""
        with self._lock:
            if fence is None or self._is_held(fence):
                for ref in refs:
                    self._blobs.pop(ref, None)

    def scopes(self) -> list[str]:
        """Return the scopes that hold any blob, sorted."""
        with self._lock:
            return sorted({ref.scope for ref in self._blobs})

    def drop_scope(self, scope: str, *, fence: Lease | None = None) -> None:
        """Delete all values of a scope. Nothing happens if the fence is not held."""
        with self._lock:
            if fence is not None and not self._is_held(fence):
                return
            for ref in [ref for ref in self._blobs if ref.scope == scope]:
                del self._blobs[ref]

    def usage(self) -> Usage:
        """Return bytes of documents and blobs; there is no bound."""
        with self._lock:
            documents = sum(len(document.value) for document in self._documents.values())
            return Usage(documents + sum(ref.size for ref in self._blobs), None)

    def save(self) -> None:
        """Write everything to the folder, all or nothing; raise StoreError if that fails."""
        if self._folder is None:
            return
        with self._save_lock:
            with self._lock:
                epochs = {name: state.epoch for name, state in self._leases.items()}
                contents = Contents(dict(self._documents), epochs, dict(self._blobs))
            self._folder.save(contents)

    def wipe(self) -> int:
        """Delete everything, in the folder too; return how many documents, values and leases that were."""
        with self._lock:
            removed = len(self._documents) + len(self._blobs) + len(self._leases)
            self._documents.clear()
            self._blobs.clear()
            self._leases.clear()
        self.save()
        return removed

    def close(self) -> None:
        """Do nothing: there are no connections."""

    def _is_held(self, lease: Lease) -> bool:
        state = self._leases.get(lease.name, _LeaseState())
        return (state.epoch, state.nonce) == (lease.epoch, lease.nonce) and state.expires > self._clock()

    def _version(self, key: str) -> str | None:
        document = self._documents.get(key)
        return document.version if document else None

    def _apply(self, write: Write) -> None:
        if write.value is None:
            self._documents.pop(write.key, None)
        else:
            self._documents[write.key] = Document(write.value, write.version)
