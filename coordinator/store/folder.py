"""A store's contents in a folder: one index, and one file a blob named by its digest. All or nothing, checked on load."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgpack
from pydantic import BaseModel, ConfigDict, ValidationError

from broker.codec import first_fault
from coordinator.errors import StoreError
from coordinator.store.interface import BlobRef, Document

MAGIC = b"splitee-store 1"  # the index begins with this, a space, its SHA-256 in hex and a newline
_INDEX, _BLOBS, _PARTIAL = "index", "blobs", ".partial"


@dataclass
class Contents:
    """Documents by key, lease epochs by name, values by reference."""

    documents: dict[str, Document] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    blobs: dict[BlobRef, bytes] = field(default_factory=dict)


class _Index(BaseModel):
    model_config = ConfigDict(extra="forbid")

    documents: dict[str, tuple[str, bytes]]
    epochs: dict[str, int]
    blobs: list[BlobRef]


class StoreFolder:
    """A folder that holds the contents of one store and nothing else."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Contents:
        """Return what was last saved, nothing if the folder is new; raise StoreError if it is damaged or holds something else."""
        with self._reporting("read"):
            if not (self._path / _INDEX).exists():
                self._check_is_ours()
                return Contents()
            index = self._read_index()
            blobs = {ref: self._read_blob(ref) for ref in index.blobs}
        documents = {key: Document(value, version) for key, (version, value) in index.documents.items()}
        return Contents(documents, index.epochs, blobs)

    def save(self, contents: Contents) -> None:
        """Replace what was saved; a crash leaves either the old contents or the new. Raises StoreError."""
        with self._reporting("write"):
            self._blobs.mkdir(parents=True, exist_ok=True)
            for ref, value in contents.blobs.items():
                file = self._blobs / ref.digest
                if not file.exists():
                    _replace(file, value)
            _sync_folder(self._blobs)
            _replace(self._path / _INDEX, _pack_index(contents))
            _sync_folder(self._path)
            self._delete_unreferenced({ref.digest for ref in contents.blobs})

    @property
    def _blobs(self) -> Path:
        return self._path / _BLOBS

    def _check_is_ours(self) -> None:
        if self._path.is_dir():
            ours = {_BLOBS, _INDEX + _PARTIAL}  # what an interrupted first save leaves
            foreign = sorted(entry.name for entry in self._path.iterdir() if entry.name not in ours)
            if foreign:
                raise StoreError(f"{self._path} holds {foreign[0]} but no saved store; name an empty or new folder")

    def _read_index(self) -> _Index:
        file = self._path / _INDEX
        header, _, packed = file.read_bytes().partition(b"\n")
        if not header.startswith(b"splitee-store "):
            raise StoreError(f"{file} is not the index of a saved store; name another folder")
        magic, _, digest = header.rpartition(b" ")
        if magic != MAGIC:
            raise StoreError(f"{file} was written by another version of this program: {header[:40]!r}, this one reads {MAGIC!r}")
        if hashlib.sha256(packed).hexdigest().encode() != digest:
            raise StoreError(f"{file} is damaged: its bytes do not match their digest")
        try:
            return _Index.model_validate(msgpack.unpackb(packed))
        except ValidationError as error:
            raise StoreError(f"{file} is damaged: {first_fault(error)}") from None
        except (ValueError, msgpack.UnpackException) as error:
            raise StoreError(f"{file} is damaged: {error!s:.200}") from None

    def _read_blob(self, ref: BlobRef) -> bytes:
        file = self._blobs / ref.digest
        try:
            size = file.stat().st_size
            value = file.read_bytes() if size == ref.size else b""  # it may have grown beyond memory
        except FileNotFoundError:
            raise StoreError(f"{file} is missing; the saved store cannot be used without it") from None
        if BlobRef.of(ref.scope, value) != ref:
            raise StoreError(f"{file} is damaged: its {size} bytes do not match their digest")
        return value

    def _delete_unreferenced(self, digests: set[str]) -> None:
        for file in self._blobs.iterdir():
            if file.name not in digests:
                file.unlink()

    @contextlib.contextmanager
    def _reporting(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"cannot {verb} the saved store: {error.filename or self._path}: {error.strerror}") from None


def _pack_index(contents: Contents) -> bytes:
    index = {
        "documents": {key: (document.version, document.value) for key, document in contents.documents.items()},
        "epochs": contents.epochs,
        "blobs": [{"scope": ref.scope, "digest": ref.digest, "size": ref.size} for ref in contents.blobs],
    }
    packed = bytes(msgpack.packb(index))
    return b"%s %s\n%s" % (MAGIC, hashlib.sha256(packed).hexdigest().encode(), packed)


def _replace(file: Path, data: bytes) -> None:
    partial = file.with_name(file.name + _PARTIAL)
    with partial.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(file)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
