"""What a client counts, on its way in heartbeats to the coordinator's listeners."""

import msgpack
import pytest

from broker import events
from broker.client_counts import ClientCounts
from broker.codec import decode, encode
from broker.errors import MalformedMessage
from broker.messages import Heartbeat
from coordinator.client_reports import ClientReports
from coordinator.store.ledger import Ledger
from coordinator.store.memory import MemoryStore
from coordinator.store.records import LEADER, ClientRecord, Roster
from tests.unit.test_metrics import FEATURES
from workers.tally import Tally


def beat(counts: ClientCounts | None, process: str = "p") -> Heartbeat:
    said = {"round": 1, "confirmed": 0, "samples": 0, "bytes": 0, "loss": 0.0, "scores": ()}
    return Heartbeat(client="a", incarnation=1, process=process, counts=counts, **said)


@pytest.fixture
def heard() -> list[events.Event]:
    return []


@pytest.fixture
def reports(heard: list[events.Event]) -> ClientReports:
    ledger = Ledger(MemoryStore())
    lease = ledger.store.acquire(LEADER, "nonce", "coordinator", 1000.0)
    assert lease is not None
    client = ClientRecord(id="a", index=0, cut=4, incarnation=1, process="p", samples=None, first_round=1)
    ledger.lead(lease, [ledger.roster().change(Roster(clients={"a": client}))])
    return ClientReports(ledger, heard.append)


def total(heard: list[events.Event], name: str) -> float:
    assert all(isinstance(event, events.ClientReported) and (event.client, event.cut) == ("a", 4) for event in heard)
    return sum(event.counts.get(name, 0) for event in heard if isinstance(event, events.ClientReported))


def test_a_tally_sums_and_passes_on() -> None:
    heard: list[events.Event] = []
    tally = Tally(heard.append)
    said = [
        FEATURES,
        FEATURES,
        events.Acknowledged(client="a", by="broker", messages=1, seconds=0.5),
        events.Acknowledged(client="a", by="server", messages=2, seconds=4.0),
        events.Waited(role="a", awaited="servers", seconds=3.0),
        events.Reconnected(role="client"),
        events.Waiting(role="a", what="something"),
    ]
    for event in said:
        tally(event)
    assert heard == said
    assert tally.counts() == ClientCounts(
        samples=8,
        batches=2,
        correct=2,
        loss=4.0,
        raw_bytes=180,
        wire_bytes=100,
        step_seconds=0.5,
        window=1.5,
        confirmed=1,
        confirm_seconds=0.5,
        acknowledged=2,
        acknowledge_seconds=4.0,
        wait_servers_seconds=3.0,
        reconnects=1,
    )


def test_counts_survive_the_wire_and_older_clients_have_none() -> None:
    message = beat(ClientCounts(samples=3, loss=1.5))
    assert decode(encode(message), Heartbeat) == message
    fields = msgpack.unpackb(encode(message))
    del fields["fields"]["counts"]
    assert decode(msgpack.packb(fields), Heartbeat).counts is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"samples": -1},
        {"samples": 2**63},
        {"samples": 1.5},
        {"loss": float("nan")},
        {"loss": float("inf")},
        {"loss": 1e301},
        {"window": -0.1},
        {"another": 1},
        {"step_seconds": "1"},
    ],
)
def test_hostile_counts_are_refused(wrong: dict[str, object]) -> None:
    fields = msgpack.unpackb(encode(beat(ClientCounts())))
    fields["fields"]["counts"].update(wrong)
    with pytest.raises(MalformedMessage, match="Heartbeat: counts"):
        decode(msgpack.packb(fields), Heartbeat)


def test_differences_are_told(reports: ClientReports, heard: list[events.Event]) -> None:
    for samples, loss in ((0, 0.0), (4, 2.0), (4, 2.0), (12, 5.0)):
        reports.take(beat(ClientCounts(samples=samples, loss=loss)))
    assert [event.counts for event in heard if isinstance(event, events.ClientReported)] == [
        {"samples": 4, "loss": 2.0},
        {"samples": 8, "loss": 3.0},
    ]


def test_a_client_that_starts_again_takes_nothing_back(reports: ClientReports, heard: list[events.Event]) -> None:
    for samples, process in ((0, "p"), (40, "p"), (0, "q"), (3, "q")):
        reports.take(beat(ClientCounts(samples=samples), process))
    assert total(heard, "samples") == 43


def test_heartbeats_in_another_order_or_from_a_liar_take_nothing_back(reports: ClientReports, heard: list[events.Event]) -> None:
    for samples in (0, 40, 10, 30, 41):
        reports.take(beat(ClientCounts(samples=samples)))
    assert total(heard, "samples") == 41
    assert all(min(event.counts.values()) > 0 for event in heard if isinstance(event, events.ClientReported))


def test_what_an_earlier_coordinator_has_heard_is_not_counted_again(reports: ClientReports, heard: list[events.Event]) -> None:
    for samples in (1000, 1004):
        reports.take(beat(ClientCounts(samples=samples)))
    assert total(heard, "samples") == 4


def test_a_client_of_an_earlier_version_counts_nothing(reports: ClientReports, heard: list[events.Event]) -> None:
    reports.take(beat(None))
    reports.take(beat(None))
    assert heard == []
