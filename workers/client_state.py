"""What a client needs to start again: a snapshot of its half at the start of every round that is not closed."""

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from learning.errors import LearningError, SettingsError, TensorError
from learning.halves import ClientHalf
from learning.tensors import notes_of, pack, unpack


@dataclass(frozen=True)
class Identity:
    """Whose state this is."""

    run: str
    fingerprint: str
    client: str
    cut: int
    incarnation: int


@dataclass(frozen=True)
class Counters:
    """What a client has done in all."""

    samples: int = 0
    bytes: int = 0


class ClientState:
    """Snapshots by round, in a locked folder, or in memory where no folder is given."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._memory: dict[int, bytes] = {}
        self._lock: IO[str] | None = None
        if folder is not None:
            self._open(folder)

    def identity(self) -> Identity | None:
        """Return whose state this is; None if it is new. Raises SettingsError if the folder is damaged."""
        path = self._folder / "client.json" if self._folder else None
        if path is None or not path.exists():
            return None
        try:
            return Identity(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise SettingsError(f"{path} is damaged: {error}; remove the folder to start this client anew") from None

    def of(self, run: str, client: str, cut: int) -> Identity | None:
        """Return the identity as ``identity`` does; raise SettingsError if it is another run's, client's or cut's."""
        mine = self.identity()
        if mine is not None and (mine.run, mine.client, mine.cut) != (run, client, cut):
            raise self._another(mine)
        return mine

    def claim(self, identity: Identity) -> None:
        """Make this the state of a client; raise SettingsError if it is another's."""
        mine = self.of(identity.run, identity.client, identity.cut)
        if mine is not None and mine.fingerprint != identity.fingerprint:
            raise self._another(mine)
        if self._folder is not None and mine != identity:
            _replace(self._folder / "client.json", json.dumps(asdict(identity)).encode())

    def save(self, round: int, half: ClientHalf, counters: Counters) -> None:
        """Keep a half as it is at the start of a round."""
        tensors = {f"half/{name}": tensor for name, tensor in half.state().items()}
        tensors |= {f"optimizer/{name}": tensor for name, tensor in half.optimizer_state().items()}
        data = pack(tensors, asdict(counters))
        if self._folder is None:
            self._memory[round] = data
        else:
            _replace(self._path(round), data)

    def restore(self, round: int, half: ClientHalf) -> tuple[int, Counters] | None:
        """Load the last snapshot at or before a round; return its round and counters, None if there is none.

        Raises LearningError if the snapshot is damaged.
        """
        rounds = [known for known in self._rounds() if known <= round]
        if not rounds:
            return None
        found = max(rounds)
        data = self._memory[found] if self._folder is None else self._path(found).read_bytes()
        try:
            tensors = unpack(data)
            half.load_state({name[5:]: tensor for name, tensor in tensors.items() if name.startswith("half/")})
            half.load_optimizer_state({name[10:]: tensor for name, tensor in tensors.items() if name.startswith("optimizer/")})
            return found, Counters(**notes_of(data))  # type: ignore[arg-type]
        except (TensorError, TypeError) as error:
            raise LearningError(f"{self._path(found)} is damaged: {error}; remove the folder to start this client anew") from None

    def forget(self, closed: int) -> None:
        """Drop snapshots that can no longer be needed: all before the last one that starts at or before closed + 1."""
        needed = max((known for known in self._rounds() if known <= closed + 1), default=0)
        for known in self._rounds():
            if known < needed:
                self._memory.pop(known, None)
                if self._folder is not None:
                    self._path(known).unlink(missing_ok=True)

    def close(self) -> None:
        """Unlock the folder."""
        if self._lock is not None:
            self._lock.close()

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

    def _path(self, round: int) -> Path:
        return (self._folder or Path("memory")) / f"round-{round:06d}.safetensors"

    def _rounds(self) -> list[int]:
        if self._folder is None:
            return sorted(self._memory)
        return sorted(int(path.stem[6:]) for path in self._folder.glob("round-*.safetensors"))


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that after a crash it is either the old one or the new one, whole."""
    part = path.with_suffix(path.suffix + ".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
