"""What becomes of a stream's replica, in a round with a real server worker."""

from pathlib import Path

import pytest
import torch
from torch import nn

from broker.events import ClientRoundEnded
from coordinator.experiment import load_experiment
from learning.tensors import unpack
from tests.unit.one_round import OneRound

CLIENTS = ("client-01", "client-02", "client-03")
SETTINGS = (
    "name=stream", "model.name=tests.unit.test_stream:layers", "training.rounds=3", "training.batch_size=8",
    "training.strategy=sequential", "training.precision=float32", "training.device=cpu", "data.augment=none",
    "training.server.name=sgd", "training.server.momentum=0", "training.server.weight_decay=0", "training.server.schedule=constant",
    "clients.count=none", "clients.cuts=none", f"clients.list=[{','.join(f'{{id={client!r},cut=1}}' for client in CLIENTS)}]",
    "transport.wire_dtype=float32",
)  # fmt: skip
LABELS = torch.arange(8) % 5
ZEROS, LARGE = (torch.zeros(8, 12), LABELS), (torch.full((8, 12), 1000.0), LABELS)  # on zeros a layer without bias learns nothing


def layers(sample_shape: tuple[int, ...], classes: int) -> list[nn.Module]:
    return [nn.Linear(sample_shape[0], 12), nn.Linear(12, classes, bias=False)]


def one_round(*overrides: str) -> OneRound:
    file = Path(__file__).parents[2] / "experiments" / "digits.toml"
    return OneRound(load_experiment(file, (*SETTINGS, *overrides), {}), (10,), 5)


@pytest.mark.parametrize("policy", ["keep", "discard"])
@pytest.mark.parametrize("after", [[], [LARGE], [ZEROS, LARGE]], ids=["at the end", "at the next step", "later"])
def test_a_replica_that_became_non_finite_is_what_it_was_before_that_client(policy: str, after: list) -> None:
    there = one_round("training.server.lr=1e38", f"clients.on_dropout={policy}")
    there.publish("client-01", [ZEROS] * 3)
    there.publish("client-02", [ZEROS, LARGE, *after])
    there.publish("client-03", [ZEROS] * 2)
    (stream,) = there.work().values()
    start = there.ledger.version(0)
    assert start is not None
    (kept,), (first,) = stream.layers.values(), start.record.layers.values()
    weights, before = unpack(there.ledger.store.get_blob(kept)), unpack(there.ledger.store.get_blob(first))
    assert torch.equal(weights["weight"], before["weight"])
    samples = {client: progress.tallies.samples for client, progress in stream.clients.items()}
    assert samples == {"client-01": 24, "client-02": 0, "client-03": 16}
    ruined = stream.clients["client-02"]
    assert (ruined.discarded, "non-finite" in ruined.closed) == (True, True)
    ended = [event for event in there.heard if isinstance(event, ClientRoundEnded)]
    assert [(event.client, event.kept) for event in ended] == [("client-02", False)]
    assert "training.server.lr" in ended[0].reason
