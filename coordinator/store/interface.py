"""What a run needs of a store: a few atomic operations. ``memory`` and ``redis`` implement them.

All decisions of a run are transactions on small documents; large values are immutable blobs that
documents point to. The meaning of documents is in ``ledger``, once, for every store.
"""

import enum
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

from pydantic import Field

MOST_BLOB_BYTES = 2**36


@dataclass(frozen=True)
class Lease:
    """A claim on a name that passes with time. ``epoch`` grows with every new holder; ``nonce`` tells two apart.

    It also ends with the store's process: started again, a store may have lost its last writes, and whoever holds a lease has
    seen none of them go. So a lease that is still held says that nothing was lost since it was taken.
    """

    name: str
    epoch: int
    nonce: str
    ttl: float  # seconds
    lost: int = 0  # holders before it, in a row, that neither wrote anything under it nor gave it back


@dataclass(frozen=True)
class Holder:
    """Who holds a lease now, by the store's clock."""

    holder: str
    epoch: int
    remaining: float  # seconds


@dataclass(frozen=True)
class Document:
    """A value and the version token that its writer chose."""

    value: bytes
    version: str


@dataclass(frozen=True)
class Write:
    """One document's part of a transaction.

    key: the document. value: its new bytes, None to delete it. expected: the version it must have now, None if it
    must not exist. version: its new version, chosen by the caller and never used before, so that a transaction sent
    twice is recognised.
    """

    key: str
    value: bytes | None
    expected: str | None
    version: str

    @property
    def result(self) -> str | None:
        """The version that the document has after it, None if it is deleted."""
        return None if self.value is None else self.version


class Outcome(enum.Enum):
    """How a transaction ended."""

    DONE = "done"
    ALREADY_DONE = "already done"  # every document has the new version: an earlier send of the same transaction took effect
    CONFLICT = "conflict"  # a document does not have the expected version; nothing was written
    FENCED = "fenced"  # the lease is not held with this epoch and nonce; nothing was written


@dataclass(frozen=True)
class BlobRef:
    """Name of an immutable value: its scope, SHA-256 and size in bytes."""

    scope: str
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # names a file or a field; checked where it is read
    size: Annotated[int, Field(ge=0, le=MOST_BLOB_BYTES)]

    @classmethod
    def of(cls, scope: str, value: bytes) -> "BlobRef":
        """Return the name of a value."""
        return cls(scope, hashlib.sha256(value).hexdigest(), len(value))


@dataclass(frozen=True)
class Usage:
    """Bytes in use by the whole store and the most it may use (None: no bound)."""

    used: int
    limit: int | None


class Store(Protocol):
    """The state of one run. Every method is atomic, idempotent when repeated with the same arguments, and thread-safe.

    Raises ``StoreUnavailable`` when the store cannot be reached within its time-out, ``StoreFull`` when it has no memory
    left, ``StoreRefused`` when it will never answer.
    """

    @property
    def reachable(self) -> bool:
        """Whether the store answered when it was last asked."""

    def acquire(self, name: str, nonce: str, holder: str, ttl: float) -> Lease | None:
        """Take a lease that nobody holds, under the next epoch; None if somebody else holds it.

        Repeating with the nonce that holds it returns the same epoch and renews it.
        """

    def renew(self, lease: Lease) -> bool:
        """Extend a lease by its ttl; False if it is held no more (it passed, was fenced or released)."""

    def release(self, lease: Lease) -> None:
        """Give a lease back; nothing happens if it is held no more."""

    def holder(self, name: str) -> Holder | None:
        """Return who holds a lease, None if nobody does."""

    def transact(self, writes: Sequence[Write], *, fence: Lease | None = None, bump: Sequence[str] = ()) -> Outcome:
        """Write all documents or none.

        Checked in this order: all already at their new version -> ALREADY_DONE; fence not held -> FENCED; any not at its
        expected version -> CONFLICT. ``bump`` names leases to take from whoever holds them (epoch + 1, nobody holds it).
        A deleted document counts as being at its new version while it does not exist.
        """

    def read(self, keys: Sequence[str]) -> list[Document | None]:
        """Return documents in the order of keys, None where there is none."""

    def keys(self, prefix: str) -> list[str]:
        """Return the keys of all documents that begin with prefix, sorted."""

    def put_blobs(self, scope: str, values: Sequence[bytes]) -> list[BlobRef]:
        """Store immutable values under a scope; the same value twice is stored once."""

    def get_blob(self, ref: BlobRef) -> bytes:
        """Return a value; raise ``MissingBlob`` if it is gone or damaged."""

    def drop_blobs(self, refs: Iterable[BlobRef], *, fence: Lease | None = None) -> None:
        """Delete values; those not there are passed over. Nothing happens if the fence is not held."""

    def scopes(self) -> list[str]:
        """Return the scopes that hold any blob, sorted."""

    def drop_scope(self, scope: str, *, fence: Lease | None = None) -> None:
        """Delete all values of a scope. Nothing happens if the fence is not held."""

    def usage(self) -> Usage:
        """Return bytes used and the bound."""

    def save(self) -> None:
        """Make everything written so far survive the end of this process, where the store does not do so by itself."""

    def wipe(self) -> int:
        """Delete everything of this run; return how many keys that were, 0 if there was nothing."""

    def close(self) -> None:
        """Close connections."""


def check_transaction(writes: Sequence[Write], bump: Sequence[str]) -> None:
    """Raise ValueError for a transaction whose repetition could not be recognised."""
    if len({write.key for write in writes}) != len(writes):
        raise ValueError(f"a transaction writes a document twice: {[write.key for write in writes]}")
    if not all(write.version and write.expected != "" for write in writes):
        raise ValueError("a version token must not be empty")
    if bump and not writes:
        raise ValueError("a transaction that bumps leases must also write a document")
