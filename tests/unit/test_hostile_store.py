"""Documents in the store that are not what a role wrote: refused in a line that names them, or fit for use."""

import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import Score
from coordinator.errors import DamagedDocument, MissingBlob, StoreError
from coordinator.store.interface import MOST_BLOB_BYTES, BlobRef, Write
from coordinator.store.ledger import MOST_DOCUMENT_BYTES, Ledger
from coordinator.store.memory import MemoryStore
from coordinator.store.records import (
    ClientProgress,
    ClientRecord,
    Closing,
    Departure,
    Hole,
    Record,
    Rollback,
    Roster,
    RoundRecord,
    RunRecord,
    RunState,
    Savepoint,
    Scores,
    StreamClient,
    StreamPlan,
    StreamRecord,
    Tallies,
    VersionRecord,
)
from tests.hostile import Hostile, check_line

ROUND, MUTATIONS = 3, 400
REF = BlobRef("stream/000003/a", "ab" * 32, 12)
LAYERS = {4: REF, 5: BlobRef("version/000002", "0c" * 32, 2**21)}
TALLIES = Tallies(samples=48, loss_sum=3.5, correct=20, bytes=9000, refused=1, client_samples=64, client_loss_sum=70.25)
PROGRESS = ClientProgress(
    incarnation=1,
    cut=3,
    sequence=4,
    ended=True,
    digest="cd" * 32,
    tallies=TALLIES,
    unplaced=1,
    holes=[Hole(sequence=2, reason="why")],
)
PLANS = [StreamPlan(id=name, clients=[StreamClient(id=name, incarnation=1, cut=3)]) for name in ("a", "b")]
CLIENT = ClientRecord(id="a", index=0, cut=3, incarnation=1, process="p", samples=None, first_round=1)
DEPARTURE = Departure(client="a", cut=3, incarnation=1, round=2, reason="silent for 30 s", at=1.7e9)
RECORDS: list[Record] = [
    RunRecord(name="run", experiment="{}", fingerprint="f", sample_shape=(1, 8, 8), classes=10, versions={"torch": "2"}, id="1"),
    RunState(phase="training", round=ROUND, closed=2, rollbacks=[Rollback(from_closed=2, to_closed=1)]),
    Roster(clients={"a": CLIENT}, departures=[DEPARTURE]),
    RoundRecord(
        round=ROUND, streams=PLANS, frozen=["a"], opened_at=1.7e9, seconds=2.5, tallies=TALLIES,
        by_cut={3: TALLIES}, closings=[Closing(client="a", incarnation=1, batches=3, discarded=False)],
    ),
    StreamRecord(
        round=ROUND, stream="a", worker="w", clients={"a": PROGRESS}, layers=LAYERS, optimizer=REF, halves={"a": REF},
        savepoint=Savepoint(layers=LAYERS, optimizer=REF),
    ),
    VersionRecord(
        round=ROUND, layers=LAYERS, replicas={"a": LAYERS}, optimizers={"a": REF}, halves={"a": REF}, client_layers={1: REF},
        exits={3: REF},
    ),
    Scores(round=ROUND, clients={"a": Score(round=3, samples=9, client_correct=3, server_correct=4, server_answered=9)}),
]  # fmt: skip
READ: dict[type[Record], tuple[str, Callable[[Ledger], object]]] = {
    RunRecord: ("run", lambda ledger: ledger.run()),
    RunState: ("state", lambda ledger: ledger.state().record),
    Roster: ("roster", lambda ledger: ledger.roster().record),
    RoundRecord: ("round/000003", lambda ledger: kept(ledger.round(ROUND))),
    StreamRecord: ("stream/000003/a", lambda ledger: kept(ledger.stream(ROUND, "a"))),
    VersionRecord: ("version/000003", lambda ledger: kept(ledger.version(ROUND))),
    Scores: ("scores/000003", lambda ledger: ledger.scores(ROUND).record),
}
of_every_kind = pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)


def kept(found: object) -> object:
    return getattr(found, "record", None)


def read(record: Record, value: bytes) -> object:
    """Return what a role is given where this stands in place of a record; None if it is refused as it should be."""
    ledger = Ledger(MemoryStore())
    key, reading = READ[type(record)]
    ledger.store.transact([Write(key, value, None, "v")])
    try:
        return reading(ledger)
    except StoreError as error:
        check_line(error, f"document {key} in the store is damaged: ")
        if type(error) is not DamagedDocument:
            raise
        return None


def use(record: object) -> None:
    """Do with a record what roles do with it, as far as that depends on its values."""
    assert isinstance(record, Record)
    assert type(record).model_validate_json(record.model_dump_json()) == record, "what is written back is another"
    refs: set[BlobRef] = set()
    if isinstance(record, Roster):
        for departure in record.departures:
            datetime.fromtimestamp(departure.at, UTC)
    if isinstance(record, RoundRecord):
        for tallies in (record.tallies, *record.by_cut.values()):
            assert (tallies + tallies).server_loss is None or tallies.samples
        assert all(plan.clients for plan in record.streams)
    if isinstance(record, StreamRecord):
        assert record.tallies().client_loss is None or record.tallies().client_samples
        assert {len(bytes.fromhex(progress.digest)) for progress in record.clients.values()} <= {0, 32}
        refs = record.blobs()
    if isinstance(record, VersionRecord):
        refs = {*record.layers.values(), *record.optimizers.values(), *record.halves.values(), *record.half_of(3).values()}
        assert {ref.scope for ref in refs} <= record.scopes()
    assert all(0 <= ref.size <= MOST_BLOB_BYTES for ref in refs)


@of_every_kind
def test_what_was_written_is_read(record: Record) -> None:
    assert read(record, record.model_dump_json().encode()) == record
    use(record)


@of_every_kind
def test_changed_documents(record: Record) -> None:
    hostile, document = Hostile(type(record).__name__), record.model_dump_json().encode()
    found = [read(record, change(document)) for _ in range(MUTATIONS) for change in (hostile.data, hostile.json)]
    accepted = [value for value in found if value is not None]
    for value in accepted:
        use(value)
    assert 0 < len(accepted) < len(found), "the mutations change nothing, or everything is refused"


@of_every_kind
@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4), max_leaves=9,
).map(lambda tree: json.dumps(tree).encode())))  # fmt: skip
def test_any_other_values(record: Record, value: bytes) -> None:
    found = read(record, value)
    if found is not None:
        use(found)


@of_every_kind
@pytest.mark.parametrize("value", [
    b"[" * 100_000, b'{"round":' * 100_000, b"9" * 100_000, b'{"round":' + b"9" * 100_000 + b"}", b'{"round":1e99999}',
    b'{"round":-0.0}', b'{"streams":[' + b"{}," * 20_000 + b"{}]}", b'"' + b"\\ud800" * 10_000 + b'"',
    b"\xef\xbb\xbf{}", b"{}" * 1000,
])  # fmt: skip
def test_bombs(record: Record, value: bytes) -> None:
    found = read(record, value)
    assert found is None or found == type(record)() or value == b'{"round":-0.0}'


def test_a_document_that_is_too_large_is_not_even_parsed() -> None:
    assert read(RECORDS[0], b" " * MOST_DOCUMENT_BYTES + RECORDS[0].model_dump_json().encode()) is None


@pytest.mark.parametrize("change", [
    {"round": 4}, {"stream": "b"}, {"clients": {"../../x": PROGRESS}}, {"optimizer": BlobRef("s", "../index", 1)},
    {"optimizer": BlobRef("s", "ab" * 32, 10**18)}, {"optimizer": BlobRef("s", "ab" * 32, -1)},
    {"clients": {"a": PROGRESS.model_copy(update={"digest": "z" * 64})}},
    {"clients": {"a": PROGRESS.model_copy(update={"cut": 0})}},
    {"clients": {"a": PROGRESS.model_copy(update={"tallies": TALLIES.model_copy(update={"loss_sum": float("nan")})})}},
    {"clients": {"a": PROGRESS.model_copy(update={"tallies": TALLIES.model_copy(update={"samples": 10**400})})}},
], ids=str)  # fmt: skip
def test_a_stream_that_cannot_be(change: dict[str, object]) -> None:
    record = RECORDS[4].model_copy(update=change)
    tree = record.model_dump(mode="json")
    assert read(RECORDS[4], json.dumps(tree, default=str).encode()) is None


@pytest.mark.parametrize("cuts", [
    {"0": {}}, {"x": {}}, {str(2**31): {}}, {"3": {"loss_sum": 1e999}}, {"3": {"samples": 10**30}}, {"3": {"other": 1}}, [],
], ids=str)  # fmt: skip
def test_a_round_of_cuts_that_cannot_be(cuts: object) -> None:
    assert read(RECORDS[3], json.dumps(RECORDS[3].model_dump(mode="json") | {"by_cut": cuts}).encode()) is None


def test_a_round_from_before_sums_were_kept_by_cut_is_read() -> None:
    document = RECORDS[3].model_dump(mode="json")
    del document["by_cut"]
    assert read(RECORDS[3], json.dumps(document).encode()) == RECORDS[3].model_copy(update={"by_cut": {}})


@pytest.mark.parametrize("change", [
    {"classes": 10**9}, {"sample_shape": [10**5, 10**5]}, {"sample_shape": [1] * 9}, {"sample_shape": [0]},
    {"sample_shape": [-1, 8]},
], ids=str)  # fmt: skip
def test_a_run_that_would_not_fit_into_memory(change: dict[str, object]) -> None:
    assert read(RECORDS[0], json.dumps(RECORDS[0].model_dump(mode="json") | change).encode()) is None


def test_documents_in_each_others_places() -> None:
    for one in RECORDS:
        for other in RECORDS:
            if one is not other:
                found = read(one, other.model_dump_json().encode())
                assert found is None or found == type(one)()


def test_blobs_that_are_not_what_their_name_says() -> None:
    store = MemoryStore()
    (ref,) = store.put_blobs("s", [b"value"])
    for other in (BlobRef("s", "0" * 64, 5), BlobRef("s", ref.digest, 6), BlobRef("t", ref.digest, 5), BlobRef("s", "../s", 5)):
        with pytest.raises(MissingBlob, match=other.digest):
            store.get_blob(other)
