"""State folders of an embedded run and of a client, changed at random: refused in a line that names the file, or as they were."""

import contextlib
import hashlib
import shutil
from pathlib import Path

import msgpack
import pytest
import torch

from coordinator.errors import StoreError
from coordinator.store.folder import MAGIC
from coordinator.store.interface import BlobRef, Write
from coordinator.store.memory import MemoryStore
from learning.errors import LearningError
from learning.halves import ClientHalf
from learning.tensors import fingerprint
from tests.fuzz.sitting import experiment, network
from tests.hostile import Hostile, check_line
from workers.client_state import ClientState, Counters, Identity

MUTATIONS = 100
ME = Identity(run="run", fingerprint="f" * 64, client="client-01", cut=1, incarnation=1, run_id="0123456789abcdef")


def changed_file(folder: Path, hostile: Hostile) -> None:
    """Change one file of a folder: its bytes, or its place."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    file, other = hostile.random.choice(files), hostile.random.choice(files)
    kind = hostile.random.randrange(8)
    if kind == 0:
        file.unlink()
    elif kind == 1:
        file.write_bytes(other.read_bytes())
    elif kind == 2:
        file.rename(
            file.with_name(hostile.random.choice(["round-000009.snapshot", "round-\u0663.snapshot", "index", "f" * 64, "x"]))
        )
    elif kind == 3:
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(hostile.data(file.read_bytes()))


class TestStoreFolder:
    @pytest.fixture
    def saved(self, tmp_path: Path) -> Path:
        folder = tmp_path / "saved"
        store = MemoryStore(folder)
        store.transact([Write("state", b"{}", None, "v1"), Write("run", b"\0" * 40, None, "v2")])
        store.acquire("leader", "n", "h", 10.0)
        store.put_blobs("version/000001", [b"first", b"", b"second" * 50])
        store.put_blobs("version/000002", [b"first"])
        store.save()
        return folder

    def contents(self, folder: Path) -> tuple[object, ...]:
        """Return all that a store finds in a folder."""
        store = MemoryStore(folder)
        scopes = store.scopes()
        blobs = [store.get_blob(BlobRef.of(scope, value)) for scope in scopes for value in (b"first",)]
        lease = store.acquire("leader", "m", "h", 10.0)
        return store.keys(""), store.read(["state", "run"]), scopes, blobs, lease and lease.epoch

    def test_changed_files(self, saved: Path, tmp_path: Path) -> None:
        hostile, whole, nothing, refused = Hostile("folder"), self.contents(saved), self.contents(tmp_path / "none"), 0
        for number in range(MUTATIONS):
            folder = copied(saved, tmp_path / str(number))
            changed_file(folder, hostile)
            try:  # without an index it is what an interrupted first save leaves
                assert self.contents(folder) == (whole if (folder / "index").exists() else nothing)
            except StoreError as error:
                check_line(error, folder)
                refused += 1
        assert refused > MUTATIONS / 2

    def test_an_index_of_something_else_under_a_digest_that_fits(self, saved: Path) -> None:
        hostile, index = Hostile("index"), saved / "index"
        packed = index.read_bytes().partition(b"\n")[2]
        outcomes = set()
        for number in range(3 * MUTATIONS):
            tree = hostile.tree(msgpack.unpackb(packed))
            with contextlib.suppress(OverflowError):  # of numbers that msgpack cannot hold
                seal(index, msgpack.packb(tree) if number % 2 else hostile.data(packed))
            try:
                MemoryStore(saved)
                outcomes.add("read")
            except StoreError as error:
                check_line(error, saved)
                outcomes.add("refused")
        assert outcomes == {"read", "refused"}

    @pytest.mark.parametrize("packed", [
        b"\x91" * 100_000, b"\x81\xa1a" * 100_000, b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc1", b"",
        b"\xd4\xff\x00", b"\x81\x90\x00", b"\xd7\xff" + b"\xff" * 8,
    ])  # fmt: skip
    def test_bombs(self, saved: Path, packed: bytes) -> None:
        seal(saved / "index", packed)
        with pytest.raises(StoreError, match="index is damaged") as caught:
            MemoryStore(saved)
        check_line(caught.value, saved)

    def test_a_blob_that_has_grown_is_not_read(self, saved: Path) -> None:
        file = saved / "blobs" / hashlib.sha256(b"first").hexdigest()
        with file.open("r+b") as stream:
            stream.truncate(2**40)  # of holes: no disk has to be that large
        with pytest.raises(StoreError, match="is damaged"):
            MemoryStore(saved)


class TestClientState:
    @pytest.fixture
    def saved(self, tmp_path: Path) -> Path:
        half = ClientHalf(network(), ME.cut, experiment().training)
        half.step(torch.linspace(-1, 1, 40).reshape(4, 10), torch.tensor([0, 1, 2, 3]), ("client-01", 1, 0))
        state = ClientState(tmp_path / "saved")
        state.claim(ME)
        for number in (1, 2):
            state.save(number, half, Counters(4 * number, 1000 * number))
        state.applicant()
        state.close()
        return tmp_path / "saved"

    def contents(self, folder: Path) -> tuple[object, ...]:
        """Do with a folder what a client does that starts on it."""
        state = ClientState(folder)
        try:
            mine = state.of(ME.run, ME.client, ME.cut)
            state.claim(mine or ME)
            half = ClientHalf(network(), ME.cut, experiment().training)
            found = state.restore(2, half)
            half.step(torch.ones(4, 10), torch.tensor([0, 1, 2, 3]), ("client-01", 2, 0))
            name = state.applicant()
            return mine, found and found[1].samples + found[1].bytes, fingerprint([("", half.state())]), len(name)
        finally:
            state.close()

    def test_changed_files(self, saved: Path, tmp_path: Path) -> None:
        hostile, whole, refused = Hostile("client"), self.contents(copied(saved, tmp_path / "whole")), 0
        for number in range(MUTATIONS):
            folder = copied(saved, tmp_path / str(number))
            before = {path.name for path in folder.iterdir()}
            changed_file(folder, hostile)
            gone = before - {path.name for path in folder.iterdir()}
            try:
                assert self.contents(folder) == whole or gone
            except LearningError as error:
                check_line(error, folder)
                refused += 1
        assert refused > MUTATIONS / 2

    @pytest.mark.parametrize("name", ["client.json", "round-000001.snapshot", "round-000002.snapshot", "applicant"])
    def test_something_else_under_a_digest_that_fits(self, saved: Path, tmp_path: Path, name: str) -> None:
        hostile, outcomes = Hostile(name), set()
        for number in range(MUTATIONS):
            folder = copied(saved, tmp_path / str(number))
            data = (folder / name).read_bytes().partition(b"\n")[2]
            as_json = name == "client.json" and number % 2
            reseal(folder / name, hostile.json(data) if as_json else hostile.data(data))
            try:
                self.contents(folder)
                outcomes.add("read")
            except LearningError as error:
                check_line(error, folder)
                outcomes.add("refused")
        assert outcomes == ({"read"} if name == "applicant" else {"read", "refused"})


def copied(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    return folder


def seal(index: Path, packed: bytes) -> None:
    """Write an index of a saved store, with a digest that fits."""
    index.write_bytes(b"%s %s\n%s" % (MAGIC, hashlib.sha256(packed).hexdigest().encode(), packed))


def reseal(file: Path, data: bytes) -> None:
    """Write a file of a client's state, with a digest that fits."""
    file.write_bytes(hashlib.sha256(data).hexdigest().encode() + b"\n" + data)
