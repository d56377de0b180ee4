"""What becomes of a stream's replica and of its messages, in a round with a real server worker."""

from pathlib import Path

import pytest
import torch
from torch import nn

from broker.events import BatchTrained, CheckpointSaved, ClientRoundEnded, MessageRefused, ReplicaSetBack
from coordinator.experiment import load_experiment
from coordinator.store.records import StreamRecord, Suspect, stream_lease
from learning.halves import ClientHalf
from learning.tensors import pack, unpack
from tests.unit.one_round import OneRound
from workers.run_settings import RunSettings

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

FATAL = (torch.full((8, 12), 13.0), LABELS)


def layers(sample_shape: tuple[int, ...], classes: int) -> list[nn.Module]:
    return [nn.Linear(sample_shape[0], 12), nn.Linear(12, classes, bias=False)]


def large(sample_shape: tuple[int, ...], classes: int) -> list[nn.Module]:
    first, last = layers(sample_shape, classes)
    return [nn.Sequential(nn.Linear(sample_shape[0], 1000), nn.Linear(1000, sample_shape[0]), first), last]


class Fuse(nn.Module):
    """Fails as a layer does whose library cannot compute something."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x == 13.0).all()):
            raise RuntimeError("no such kernel")
        return x


def fused(sample_shape: tuple[int, ...], classes: int) -> list[nn.Module]:
    first, last = layers(sample_shape, classes)
    return [first, nn.Sequential(Fuse(), last)]


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
    assert len([event for event in there.heard if isinstance(event, ReplicaSetBack)]) == 1
    assert {event.kind for event in there.heard if isinstance(event, MessageRefused)} <= {"nonfinite"}


def test_interleaved_batches_are_trained_in_turn() -> None:
    there = one_round("training.interleave=true")
    for client, batches in zip(CLIENTS, (3, 1, 4), strict=True):
        there.publish(client, [ZEROS] * batches)
    (stream,) = there.work().values()
    trained = [(event.client, event.sequence) for event in there.heard if isinstance(event, BatchTrained)]
    first, second, third = CLIENTS
    assert trained == [(first, 0), (second, 0), (third, 0), (first, 1), (third, 1), (first, 2), (third, 2), (third, 3)]
    assert [stream.clients[client].sequence for client in CLIENTS] == [4, 2, 5], "their ends of round too"


def test_of_interleaved_clients_that_ruin_the_replica_none_counts() -> None:
    there = one_round("training.interleave=true", "training.server.lr=1e38")
    there.publish("client-01", [ZEROS])  # at its end before the others
    there.publish("client-02", [ZEROS, LARGE, LARGE])
    there.publish("client-03", [ZEROS] * 3)
    (stream,) = there.work().values()
    start = there.ledger.version(0)
    assert start is not None
    (kept,), (first,) = stream.layers.values(), start.record.layers.values()
    weights, before = unpack(there.ledger.store.get_blob(kept)), unpack(there.ledger.store.get_blob(first))
    assert torch.equal(weights["weight"], before["weight"])
    assert {client: progress.tallies.samples for client, progress in stream.clients.items()} == dict.fromkeys(CLIENTS, 0)
    assert all(progress.discarded and "non-finite" in progress.closed for progress in stream.clients.values())
    ended = [event for event in there.heard if isinstance(event, ClientRoundEnded)]
    assert [(event.client, event.kept) for event in ended] == [(client, False) for client in CLIENTS]
    assert len([event for event in there.heard if isinstance(event, ReplicaSetBack)]) == 1


def kinds(there: OneRound) -> list[str]:
    """Return in which order batches were trained and saved."""
    return [type(event).__name__ for event in there.heard if isinstance(event, BatchTrained | CheckpointSaved)]


def publish_all(there: OneRound, batches: int) -> None:
    for client in CLIENTS:
        there.publish(client, [ZEROS] * batches)


def test_after_losses_every_step_is_saved_before_the_next() -> None:
    there = one_round()
    for number in range(3):
        assert there.ledger.store.acquire(stream_lease("all"), f"nonce-{number}", "lost", 15.0)
        there.clock.move(20)
    publish_all(there, 4)
    (stream,) = there.work().values()
    assert (stream.tallies().samples, stream.tallies().refused, stream.suspect) == (3 * 4 * 8, 0, None)
    trained = [index for index, kind in enumerate(kinds(there)) if kind == BatchTrained.__name__]
    assert all(kinds(there)[index + 1] == CheckpointSaved.__name__ for index in trained)


@pytest.mark.parametrize(("workers", "refused"), [(5, 1), (4, 0)])
def test_a_message_that_workers_were_lost_at_is_refused_from_the_limit_on(workers: int, refused: int) -> None:
    there = one_round("transport.poison_limit=5")
    claim = there.ledger.claim(1, "all", "lost", 600.0)
    assert claim is not None
    suspect = Suspect(client="client-01", sequence=0, workers=workers)
    there.ledger.advance(claim, StreamRecord(round=1, stream="all", worker="lost", suspect=suspect))
    there.ledger.store.release(claim.lease)
    publish_all(there, 2)
    (stream,) = there.work().values()
    assert (stream.tallies().samples, stream.tallies().refused) == ((6 - refused) * 8, refused)
    reasons = [event.reason for event in there.heard if isinstance(event, MessageRefused)]
    assert reasons == ["round 1 sequence 0: 5 server workers were lost at it"] * refused
    assert [hole.sequence for hole in stream.clients["client-01"].holes] == [0] * refused


def test_a_message_that_ends_every_worker_is_found_out() -> None:
    there = one_round("model.name=tests.unit.test_stream:fused", "transport.poison_limit=2")
    there.publish("client-01", [ZEROS, ZEROS, FATAL, ZEROS])
    for client in CLIENTS[1:]:
        there.publish(client, [ZEROS])
    for _ in range(4):  # two, and two more that were seen to take it
        with pytest.raises(RuntimeError, match="no such kernel"):
            there.worker().run()
        there.clock.move(20)  # past the lease
    (stream,) = there.work().values()
    assert (stream.tallies().samples, stream.tallies().refused) == (5 * 8, 1)
    assert [hole.sequence for hole in stream.clients["client-01"].holes] == [2]
    trained = [(event.client, event.sequence) for event in there.heard if isinstance(event, BatchTrained)]
    assert trained[:6] == [("client-01", 0), ("client-01", 1)] * 3, "twice without, then with every step saved"


SMALL = ("transport.message_limit=1024", "transport.unconfirmed_bytes=1024", "transport.held_bytes=102400")


@pytest.mark.parametrize("interleave", ["false", "true"])
def test_a_half_in_more_parts_than_a_worker_would_hold_is_taken(interleave: str) -> None:
    patient = ("transport.starved_seconds=600", "transport.checkpoint_seconds=600")  # nobody waits for a timer
    there = one_round(
        *SMALL, *patient, "model.name=tests.unit.test_stream:large", "training.average=all", f"training.interleave={interleave}"
    )
    settings = RunSettings.from_json(there.experiment.to_json())
    halves = {client: pack(ClientHalf(there.network, 1, there.experiment.training).state()) for client in CLIENTS}
    assert settings.parts(len(halves["client-01"])) > 2 * settings.parts(settings.largest_message(there.network))
    for client in CLIENTS:
        there.publish(client, [ZEROS] * 50, halves[client])
    (stream,) = there.work().values()
    assert not [event for event in there.heard if isinstance(event, MessageRefused)]
    for client, progress in stream.clients.items():
        assert (progress.tallies.samples, progress.ended) == (50 * 8, True)
        assert there.ledger.store.get_blob(stream.halves[client]) == halves[client]
