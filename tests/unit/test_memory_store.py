"""What the memory store saves, what it refuses to load, and from URL to store."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest

from coordinator.errors import MissingBlob, StoreError
from coordinator.store.interface import BlobRef, Document, Outcome, Write
from coordinator.store.memory import MemoryStore
from coordinator.store.open import open_store
from coordinator.store.redis import RedisStore


def filled(path: Path) -> MemoryStore:
    store = MemoryStore(path)
    store.transact([Write("a", b"\0one\xff", None, "v1"), Write("gone", b"", None, "v1")])
    store.transact([Write("gone", None, "v1", "v2")])
    store.put_blobs("s", [b"first", b"", b"second"])
    store.put_blobs("t", [b"first"])
    return store


def files(path: Path) -> set[str]:
    return {file.name for file in (path / "blobs").iterdir()}


def python(program: str, *arguments: str) -> str:
    """Run a program in a process of its own; return what it printed."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    return done.stdout.strip()


class TestSaving:
    def test_a_later_process_continues(self, tmp_path: Path) -> None:
        filled(tmp_path / "new" / "folder").save()
        program = (
            "import sys; from pathlib import Path; from coordinator.store.memory import MemoryStore\n"
            "store = MemoryStore(Path(sys.argv[1]))\n"
            "print([d and (d.value.hex(), d.version) for d in store.read(['a', 'gone'])], store.keys(''), store.scopes())"
        )
        assert python(program, str(tmp_path / "new" / "folder")) == "[('006f6e65ff', 'v1'), None] ['a'] ['s', 't']"
        store = MemoryStore(tmp_path / "new" / "folder")
        assert [store.get_blob(BlobRef.of("s", value)) for value in (b"first", b"", b"second")] == [b"first", b"", b"second"]

    def test_what_was_not_saved_is_gone(self, tmp_path: Path) -> None:
        store = filled(tmp_path)
        store.save()
        store.transact([Write("a", b"two", "v1", "v2")])
        (late,) = store.put_blobs("s", [b"late"])
        again = MemoryStore(tmp_path)
        assert again.read(["a"]) == [Document(b"\0one\xff", "v1")]
        with pytest.raises(MissingBlob):
            again.get_blob(late)

    def test_leases_end_with_the_process_but_epochs_go_on(self, tmp_path: Path) -> None:
        store = MemoryStore(tmp_path)
        lease = store.acquire("leader", "n1", "h", 1000.0)
        assert lease is not None
        store.transact([Write("a", b"", None, "v1")], bump=["stream/1"])
        store.save()
        again = MemoryStore(tmp_path)
        assert again.holder("leader") is None
        assert again.transact([Write("b", b"", None, "v1")], fence=lease) is Outcome.FENCED
        leases = [again.acquire(name, "n2", "h", 1000.0) for name in ("leader", "stream/1")]
        assert [taken.epoch for taken in leases if taken] == [2, 2]

    def test_unreferenced_blobs_are_deleted(self, tmp_path: Path) -> None:
        store = filled(tmp_path)
        store.save()
        assert files(tmp_path) == {hashlib.sha256(value).hexdigest() for value in (b"first", b"", b"second")}
        store.drop_scope("s")
        store.save()
        assert files(tmp_path) == {hashlib.sha256(b"first").hexdigest()}
        store.wipe()
        assert files(tmp_path) == set()
        assert MemoryStore(tmp_path).keys("") == []

    def test_without_a_folder_nothing_is_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        store = MemoryStore()
        store.put_blobs("s", [b"value"])
        store.save()
        assert list(tmp_path.iterdir()) == []

    def test_a_save_that_fails_leaves_the_last_one(self, tmp_path: Path) -> None:
        store = filled(tmp_path)
        store.save()
        store.transact([Write("a", b"two", "v1", "v2")])
        store.put_blobs("u", [b"new"])
        (tmp_path / "index.partial").mkdir()
        with pytest.raises(StoreError, match="cannot write the saved store"):
            store.save()
        again = MemoryStore(tmp_path)
        assert again.read(["a"]) == [Document(b"\0one\xff", "v1")]
        assert again.scopes() == ["s", "t"]

    def test_what_an_interrupted_save_left_is_cleared_away(self, tmp_path: Path) -> None:
        (tmp_path / "blobs").mkdir()
        (tmp_path / "blobs" / ("0" * 64)).write_bytes(b"never referenced")
        (tmp_path / "blobs" / "abc.partial").write_bytes(b"half")
        (tmp_path / "index.partial").write_bytes(b"half")
        store = MemoryStore(tmp_path)
        store.save()
        assert files(tmp_path) == set()
        assert MemoryStore(tmp_path).keys("") == []


def repack(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    """Change a saved index and give it a digest that fits."""
    index = path / "index"
    header, _, packed = index.read_bytes().partition(b"\n")
    fields = msgpack.unpackb(packed)
    change(fields)
    packed = msgpack.packb(fields)
    index.write_bytes(b" ".join([*header.split(b" ")[:2], hashlib.sha256(packed).hexdigest().encode()]) + b"\n" + packed)


FIRST = hashlib.sha256(b"first").hexdigest()
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a blob is cut": (lambda path: (path / "blobs" / FIRST).write_bytes(b"fir"), f"{FIRST} is damaged"),
    "a blob has a flipped bit": (lambda path: (path / "blobs" / FIRST).write_bytes(b"girst"), f"{FIRST} is damaged"),
    "a blob is missing": (lambda path: (path / "blobs" / FIRST).unlink(), f"{FIRST} is missing"),
    "the index is cut": (lambda path: (path / "index").write_bytes((path / "index").read_bytes()[:-1]), "index is damaged"),
    "the index is empty": (lambda path: (path / "index").write_bytes(b""), "is not the index"),
    "the index is another file": (lambda path: (path / "index").write_text("<html>\n"), "is not the index"),
    "the index is of another version": (
        lambda path: (path / "index").write_bytes((path / "index").read_bytes().replace(b"store 1", b"store 2")),
        "another version",
    ),
    "the index is a folder": (lambda path: ((path / "index").unlink(), (path / "index").mkdir()), "cannot read the saved store"),
    "a field is missing": (lambda path: repack(path, lambda index: index.pop("epochs")), "index is damaged: .*epochs"),
    "a field has another type": (lambda path: repack(path, lambda index: index.update(documents=[])), "index is damaged"),
    "a digest leads out of the folder": (
        lambda path: repack(path, lambda index: index["blobs"][0].update(digest="../index")),  # type: ignore[index]
        "index is damaged",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    filled(tmp_path).save()
    inflict, message = DAMAGE[damage]
    inflict(tmp_path)
    with pytest.raises(StoreError, match=message) as caught:
        MemoryStore(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match=r"thesis\.tex"):
        MemoryStore(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot write the saved store"):
        filled(tmp_path / "file").save()


class TestOpenStore:
    def test_memory(self, tmp_path: Path) -> None:
        filled(tmp_path / "saved").save()
        assert open_store("memory://", "run").keys("") == []
        assert open_store(f"memory://{tmp_path}/saved", "run").keys("") == ["a"]

    @pytest.mark.parametrize("url", ["redis://localhost:1", "rediss://user:word@localhost", "unix:///run/redis.sock?db=1"])
    def test_redis_connects_only_when_used(self, url: str) -> None:
        assert isinstance(open_store(url, "run"), RedisStore)

    @pytest.mark.parametrize("url", ["", "redis", "localhost:6379", "http://localhost", "redis:/localhost", "memory://folder"])
    def test_anything_else_is_refused(self, url: str) -> None:
        with pytest.raises(StoreError, match=r"(no known kind|is no URL); use redis://host:port, .*memory://") as caught:
            open_store(url, "run")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("url", ["redis://:secret@localhost:port", "redis://:secret/@localhost", "redis://localhost:99999999"])
    def test_an_unreadable_url_does_not_show_its_password(self, url: str) -> None:
        with pytest.raises(StoreError, match="cannot be read") as caught:
            open_store(url, "run")
        assert "secret" not in str(caught.value)

    def test_memory_does_not_import_redis(self) -> None:
        program = (
            "import sys; from coordinator.store.open import open_store; open_store('memory://', 'r'); print('redis' in sys.modules)"
        )
        assert python(program) == "False"
