"""Seeds by name: every random draw has its own, so there is no generator state to save."""

import contextlib
import hashlib
import threading
from collections.abc import Iterator

import torch

_global_generator = threading.RLock()


def derive(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for one purpose of a run, such as ("layer", 3)."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a CPU generator seeded for one purpose."""
    return torch.Generator().manual_seed(derive(seed, *purpose))


@contextlib.contextmanager
def seeded(seed: int, *purpose: str | int) -> Iterator[None]:
    """Run a block under its own state of torch's global CPU generator, then put the old state back.

    Library initialisers (``nn.Linear`` and its kin) and dropout draw from that generator and take no other.
    It is one for the process, so threads take turns.
    """
    with _global_generator, torch.random.fork_rng(devices=[]):
        _set_global(derive(seed, *purpose))
        yield


def _set_global(seed: int) -> None:
    """Seed the CPU's generator, and those of GPUs where there are any: dropout there draws from theirs."""
    if torch.cuda.is_available():
        torch.manual_seed(seed)
    else:  # manual_seed keeps a stack trace for every kind of device that is not in use: a quarter of a small server's time
        torch.default_generator.manual_seed(seed)
