"""The folder ``inference`` of a finished run: what is found out about its layers after training."""

import contextlib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from broker.codec import first_fault
from workers.trained_run import RunFolderError

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Summary(BaseModel):
    """What is needed of summary.json."""

    parameters_sha256: Digest


def place(run: Path, name: str) -> Path:
    """Return where a file of this folder lies."""
    return run / "inference" / name


def parameters_sha256(run: Path) -> str:
    """Return the digest of a run's final layers, from its summary.json; raise RunFolderError if it cannot be had."""
    text = read(run / "summary.json")
    if text is None:
        raise RunFolderError(f"{run} holds no finished run: there is no summary.json in it")
    try:
        return _Summary.model_validate_json(text).parameters_sha256
    except ValidationError as error:
        raise RunFolderError(f"{run / 'summary.json'} is damaged: {first_fault(error)}") from None


def read(path: Path) -> bytes | None:
    """Return a file's bytes, None if there is none; raise RunFolderError if it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror}") from None


def write(path: Path, data: bytes) -> None:
    """Write a file, all of it or nothing, and its folder if there is none; raise RunFolderError if it cannot be written."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(exist_ok=True)
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise RunFolderError(f"{path} cannot be written: {error.strerror}") from None
