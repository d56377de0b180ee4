"""What a client needs to start again: a snapshot of its half at the start of every round that is not closed.

Every file begins with the SHA-256 of the rest, and every snapshot says whose it is and of which round: one that was changed,
renamed or brought from elsewhere is refused. Against a hand that writes new digests too it is no protection.
"""

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from pydantic import ConfigDict, TypeAdapter, ValidationError

from broker.codec import first_fault
from broker.crash_points import Between, crash_point
from broker.messages import MOST_NAME, ClientId, Count, Name, Positive
from learning.errors import LearningError, SettingsError, TensorError
from learning.halves import ClientHalf
from learning.tensors import State, notes_of, pack, unpack

_IDENTITY = "client.json"
_APPLICANT = "applicant"
_STRICT = ConfigDict(strict=True, extra="forbid")
_REMEDY = "remove the folder to start this client anew"


@dataclass(frozen=True)
class Identity:
    """Whose state this is."""

    __pydantic_config__ = _STRICT

    run: Name
    fingerprint: Name
    client: ClientId
    cut: Positive
    incarnation: Positive
    run_id: Name = ""  # tells the run from an earlier one of the same name and experiment


@dataclass(frozen=True)
class Counters:
    """What a client has done in all."""

    __pydantic_config__ = _STRICT

    samples: Count = 0
    bytes: Count = 0


_IDENTITIES, _COUNTERS = TypeAdapter(Identity), TypeAdapter(Counters)


class ClientState:
    """Snapshots by round, in a locked folder, or in memory where no folder is given."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._memory: dict[int, bytes] = {}
        self._lock: IO[str] | None = None
        self._mine: Identity | None = None
        if folder is not None:
            self._open(folder)

    def identity(self) -> Identity | None:
        """Return whose state this is; None if it is new. Raises SettingsError if the folder is damaged."""
        path = self._folder / _IDENTITY if self._folder else None
        if path is None or not path.exists():
            return None
        try:
            return _IDENTITIES.validate_json(self._sealed(path))
        except ValidationError as error:
            raise SettingsError(f"{path} is damaged: {first_fault(error)}; {_REMEDY}") from None

    def of(self, run: str, client: str, cut: int) -> Identity | None:
        """Return the identity as ``identity`` does, the snapshots checked.

        Raises SettingsError if it is another run's, client's or cut's, LearningError if a snapshot is damaged or of another.
        """
        mine = self.identity()
        if mine is not None and (mine.run, mine.client, mine.cut) != (run, client, cut):
            raise self._another(mine)
        self._mine = mine or self._mine
        for known in self._rounds():
            self._read(known)
        return mine

    def claim(self, identity: Identity) -> None:
        """Make this the state of a client; raise SettingsError if it is another's."""
        mine = self.of(identity.run, identity.client, identity.cut)
        if mine is not None and (mine.fingerprint, mine.run_id) != (identity.fingerprint, identity.run_id):
            raise self._another(mine)
        if self._folder is not None and mine != identity:
            _replace(self._folder / _IDENTITY, _seal(json.dumps(asdict(identity)).encode()))
        if self._folder is not None:
            _remove(self._folder / _APPLICANT)
        self._mine = identity

    def applicant(self) -> str:
        """Return the name under which this client asks to be admitted: after a crash the same, until it has claimed its identity.

        So an admission whose answer died with the process is given again, not taken for another process's.
        Raises SettingsError if the folder is damaged.
        """
        if self._folder is None:
            return secrets.token_hex(8)
        path = self._folder / _APPLICANT
        if not path.exists():
            _replace(path, _seal(secrets.token_hex(8).encode()))
        return self._sealed(path).decode(errors="replace")[:MOST_NAME]

    def save(self, round: int, half: ClientHalf, counters: Counters) -> None:
        """Keep a half as it is at the start of a round."""
        tensors = {f"half/{name}": tensor for name, tensor in half.state().items()}
        tensors |= {f"optimizer/{name}": tensor for name, tensor in half.optimizer_state().items()}
        self._write(round, tensors, counters)

    def restore(self, round: int, half: ClientHalf) -> tuple[int, Counters] | None:
        """Load the last snapshot at or before a round; return its round and counters, None if there is none.

        Raises LearningError if the snapshot is damaged.
        """
        found = max((known for known in self._rounds() if known <= round), default=None)
        if found is None:
            return None
        data, counters = self._read(found)
        try:
            tensors = unpack(data)
            half.load_state({name[5:]: tensor for name, tensor in tensors.items() if name.startswith("half/")})
            half.load_optimizer_state({name[10:]: tensor for name, tensor in tensors.items() if name.startswith("optimizer/")})
        except TensorError as error:
            raise self._damaged(found, error) from None
        return found, counters

    def first(self) -> int | None:
        """Return the earliest round that a snapshot starts, None if there is no snapshot."""
        return min(self._rounds(), default=None)

    def begin(self, round: int) -> None:
        """A new incarnation starts with a round: keep the last snapshot at or before it, or else the next one, as that round's."""
        rounds = self._rounds()
        kept = max((known for known in rounds if known <= round), default=min(rounds, default=None))
        if kept is not None and kept != round:
            data, counters = self._read(kept)
            self._write(round, unpack(data), counters)
        for known in rounds:
            if known != round:
                self._drop(known)

    def forget(self, closed: int) -> None:
        """Drop snapshots from before the last closed round: a store that lost its last writes may ask for that one again."""
        needed = max((known for known in self._rounds() if known <= closed), default=0)
        for known in self._rounds():
            if known < needed:
                self._drop(known)

    def close(self) -> None:
        """Unlock the folder."""
        if self._lock is not None:
            self._lock.close()

    def _sealed(self, path: Path) -> bytes:
        try:
            return _unseal(path.read_bytes())
        except OSError as error:
            raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise SettingsError(f"{path} is damaged: {error}; {_REMEDY}") from None

    def _write(self, round: int, tensors: State, counters: Counters) -> None:
        data = pack(tensors, {"of": self._owner(), "round": round, **asdict(counters)})
        if self._folder is None:
            self._memory[round] = data
        else:
            _replace(self._path(round), _seal(data))

    def _read(self, round: int) -> tuple[bytes, Counters]:
        """Return a snapshot and its counters; raise LearningError unless it is this client's of that round."""
        path = self._path(round)
        try:
            data = self._memory[round] if self._folder is None else _unseal(path.read_bytes())
            notes = notes_of(data)
            owner, said = notes.pop("of", None), notes.pop("round", None)
            counters = _COUNTERS.validate_json(json.dumps(notes))
        except ValidationError as error:
            raise self._damaged(round, first_fault(error)) from None
        except OSError as error:
            raise LearningError(f"{path} cannot be read: {error.strerror}") from None
        except (TensorError, ValueError, RecursionError) as error:
            raise self._damaged(round, error) from None
        if (owner, said) != (self._owner(), round):
            raise LearningError(f"{path} is of another round, client or run than its place says; {_REMEDY}")
        return data, counters

    def _owner(self) -> list[object]:
        mine = self._mine
        return [mine.run, mine.fingerprint, mine.client, mine.cut] if mine else []

    def _damaged(self, round: int, why: object) -> LearningError:
        return LearningError(f"{self._path(round)} is damaged: {why}; {_REMEDY}")

    def _another(self, mine: Identity) -> SettingsError:
        return SettingsError(
            f"{self._folder} is the state of client {mine.client} at cut {mine.cut} in run {mine.run!r}, of another run, "
            "client, cut or experiment than this one; use another --state folder"
        )

    def _open(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / "lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(f"{folder} is in use by another client process") from None
        except OSError as error:
            raise SettingsError(f"state folder {folder}: {error.strerror}") from None

    def _drop(self, round: int) -> None:
        self._memory.pop(round, None)
        if self._folder is not None:
            _remove(self._path(round))
            crash_point(Between.FORGET_AND_FORGET)

    def _path(self, round: int) -> Path:
        return (self._folder or Path("memory")) / f"round-{round:06d}.snapshot"

    def _rounds(self) -> list[int]:
        if self._folder is None:
            return sorted(self._memory)
        return sorted(int(path.stem[6:]) for path in self._folder.glob("round-*.snapshot") if path.stem[6:].isdecimal())


def _seal(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode() + b"\n" + data


def _unseal(file: bytes) -> bytes:
    """Return what was sealed; raise ValueError if it was changed."""
    digest, _, data = file.partition(b"\n")
    if hashlib.sha256(data).hexdigest().encode() != digest:
        raise ValueError("its bytes do not match their digest")
    return data


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that after a crash it is either the old one or the new one, whole."""
    part = path.with_suffix(path.suffix + ".part")
    with _changing(path):
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        crash_point(Between.FILE_AND_RENAME)
        part.replace(path)


def _remove(path: Path) -> None:
    with _changing(path):
        path.unlink(missing_ok=True)


@contextmanager
def _changing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SettingsError(f"{path} cannot be written or removed: {error.strerror}") from None
