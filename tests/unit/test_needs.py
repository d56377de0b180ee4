"""What a run is said to need of its store, against the most that it had there."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cli import embedded
from cli.prepare import prepare
from coordinator.needs import compute_needs
from coordinator.store.memory import MemoryStore
from coordinator.store.records import BlobRef
from monitoring.display import Display
from tests.end_to_end.harness import Setup

# Each batch is saved, and in the third round two closed ones are kept.
SMALL = ("training.rounds=3", "training.batch_size=8", "data.train_limit=32", "data.partition=iid", "clients.count=2")
SMALL += ("transport.checkpoint_seconds=0.001",)


@pytest.fixture
def most(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return the most bytes of blobs that a store in this process has had at a time."""
    seen = [0]
    put = MemoryStore.put_blobs

    def watched(store: MemoryStore, scope: str, blobs: Sequence[bytes]) -> list[BlobRef]:
        refs = put(store, scope, blobs)
        seen.append(store.usage().used)
        return refs

    monkeypatch.setattr(MemoryStore, "put_blobs", watched)
    return lambda: max(seen)


@pytest.mark.parametrize(
    "settings",
    [
        ("training.strategy=sequential",),
        ("training.strategy=sequential", "training.optimizer_state=reset"),
        ("training.strategy=averaging",),
        ("training.strategy=distributed", "training.optimizer_state=reset"),
    ],
    ids=" ".join,
)
def test_a_store_never_holds_more(tmp_path: Path, most: Callable[[], int], settings: tuple[str, ...]) -> None:
    prepared = prepare(Setup.write(tmp_path, *SMALL, *settings).experiment())
    embedded.train_embedded(prepared, tmp_path / "run", 1, Display())
    need = compute_needs(prepared.experiment, prepared.network, 32).store
    assert need is not None
    documents = 16 * 1024
    assert 0.7 * need < most() <= need + documents
