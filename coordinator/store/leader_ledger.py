"""The ledger of a coordinator that leads: one look at the store serves all the messages of a turn of its loop."""

from collections.abc import Sequence

from coordinator.store.interface import Document, Lease, Store, Write
from coordinator.store.ledger import Ledger, R
from coordinator.store.records import Record


class LeaderLedger(Ledger):
    """A ledger that reads each document once a turn, together with all that the turn before has read.

    Nobody else writes what the coordinator decides by; streams, which workers write, are seen as they were when the turn first
    looked. What has not changed is not parsed again: with many clients the roster is long, and every heartbeat needs it. Not
    thread-safe.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._documents: dict[str, Document | None] = {}
        self._records: dict[str, tuple[Document, Record]] = {}
        self._asked: set[str] = set()
        self._usual: set[str] = set()

    def look_anew(self) -> None:
        """Begin a turn: read again what is asked for from here on."""
        if self._asked:
            self._usual, self._asked = self._asked, set()
            self._records = {key: known for key, known in self._records.items() if key in self._usual}
        self._documents = {}

    def lead(self, leader: Lease, writes: Sequence[Write], bump: Sequence[str] = ()) -> bool:
        """Write as ``Ledger.lead`` does. What has changed since it was read is read again."""
        done = False
        try:
            done = super().lead(leader, writes, bump)
        finally:
            if done:
                self._documents |= {write.key: _written(write) for write in writes}
            else:
                self.look_anew()
        return done

    def _read(self, keys: Sequence[str]) -> list[Document | None]:
        self._asked.update(keys)
        if any(key not in self._documents for key in keys):
            wanted = [key for key in {*keys, *self._usual} if key not in self._documents]
            self._documents.update(zip(wanted, super()._read(wanted), strict=True))
        return [self._documents[key] for key in keys]

    def _parse(self, kind: type[R], key: str, document: Document, **place: object) -> R:
        before, record = self._records.get(key, (None, None))
        if before == document and isinstance(record, kind):
            return record
        record = super()._parse(kind, key, document, **place)
        self._records[key] = document, record
        return record


def _written(write: Write) -> Document | None:
    return Document(write.value, write.version) if write.value is not None else None
