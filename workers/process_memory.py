"""What a process has in memory, from /proc, which only Linux has."""

import contextlib
import ctypes
import gc
from pathlib import Path

_FORGET_PEAK = "5"  # proc(5), clear_refs


def is_readable() -> bool:
    """Return whether this system tells."""
    return Path("/proc/self/status").exists()


def resident(pid: int | None = None) -> int:
    """Return the bytes that a process, or this one, has resident; raise ProcessLookupError if it is gone."""
    return _read("VmRSS", pid)


def peak_resident(pid: int | None = None) -> int:
    """Return the most bytes that a process, or this one, has had resident; raise ProcessLookupError if it is gone."""
    return _read("VmHWM", pid)


def settle() -> int:
    """Give back what this process does not use, let its peak begin anew, and return the bytes that it has resident."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library may have no such function
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):  # not allowed everywhere; then the peak is that since the start of the process
        Path("/proc/self/clear_refs").write_text(_FORGET_PEAK)
    return resident()


def _read(field: str, pid: int | None) -> int:
    path = Path(f"/proc/{'self' if pid is None else pid}/status")
    try:
        lines = path.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"{path} does not say {field}: the process has ended, or this is not Linux")
