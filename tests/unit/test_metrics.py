"""Each event moves its metrics, and nothing moves or exists that is not in the table."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from broker import events, inference_events, store_events
from cli import metrics_page
from monitoring.metric_table import DEFINITIONS, Role
from monitoring.metrics import Metrics

ROOT = Path(__file__).parents[2]
Labels = tuple[str, ...]
FEATURES = events.FeaturesPublished(
    client="a",
    cut=3,
    round=1,
    sequence=0,
    samples=4,
    correct=1,
    bytes=50,
    raw_bytes=90,
    loss=0.5,
    clamped=0,
    seconds=0.25,
    window=0.75,
)
BATCH = events.BatchTrained(
    round=1, stream="s", client="a", cut=3, sequence=0, samples=4, correct=3, bytes=80, loss=0.5, seconds=0.004
)
REPORT = events.ClientReported(client="a", cut=3, counts={"samples": 8, "wait_round_seconds": 1.5, "batches": 2, "window": 0.5})
CLAIM = {"worker": "w", "round": 1, "stream": "s", "epoch": 1, "trained": 0}
SAVED = {"round": 1, "stream": "s", "bytes": 9, "seconds": 0.3}
CASES: list[tuple[Role, events.Event, Mapping[tuple[str, Labels], float]]] = [
    (
        "client",
        FEATURES,
        {
            ("splitee_client_samples_total", ("3",)): 4,
            ("splitee_client_batches_total", ("3",)): 1,
            ("splitee_client_correct_total", ("3",)): 1,
            ("splitee_client_loss_total", ("3",)): 2,
            ("splitee_client_raw_bytes_total", ("3",)): 90,
            ("splitee_client_wire_bytes_total", ("3",)): 50,
            ("splitee_client_step_seconds_total", ("3",)): 0.25,
            ("splitee_client_window_ratio_sum", ("3",)): 0.75,
            ("splitee_client_window_ratio_count", ("3",)): 1,
        },
    ),
    (
        "client",
        events.Acknowledged(client="a", by="broker", messages=1, seconds=0.2),
        {("splitee_client_confirm_seconds_sum", ("3",)): 0.2, ("splitee_client_confirm_seconds_count", ("3",)): 1},
    ),
    (
        "client",
        events.Acknowledged(client="a", by="server", messages=3, seconds=0.9),
        {("splitee_client_acknowledge_seconds_sum", ("3",)): 0.9, ("splitee_client_acknowledge_seconds_count", ("3",)): 3},
    ),
    *(
        ("client", events.Waited(role="a", awaited=what, seconds=2.0), {("splitee_client_waiting_seconds_total", ("3", what)): 2})
        for what in ("broker", "servers", "round")
    ),
    ("client", events.Reconnected(role="client"), {("splitee_reconnects_total", ("client",)): 1}),
    (
        "coordinator",
        REPORT,
        {
            ("splitee_client_samples_total", ("3",)): 8,
            ("splitee_client_batches_total", ("3",)): 2,
            ("splitee_client_waiting_seconds_total", ("3", "round")): 1.5,
            ("splitee_client_window_ratio_sum", ("3",)): 0.5,
            ("splitee_client_window_ratio_count", ("3",)): 2,
        },
    ),
    (
        "coordinator",
        events.ClientReported(client="a", cut=3, counts={"reconnects": 2}),
        {("splitee_reconnects_total", ("client",)): 2},
    ),
    ("coordinator", events.Reconnected(role="coordinator"), {("splitee_reconnects_total", ("coordinator",)): 1}),
    ("server", events.Reconnected(role="server"), {("splitee_reconnects_total", ("server",)): 1}),
    (
        "server",
        BATCH,
        {
            ("splitee_server_samples_total", ("3",)): 4,
            ("splitee_server_correct_total", ("3",)): 3,
            ("splitee_server_loss_total", ("3",)): 2,
            ("splitee_server_bytes_total", ("3",)): 80,
            ("splitee_server_step_seconds_sum", ("3",)): 0.004,
            ("splitee_server_step_seconds_count", ("3",)): 1,
        },
    ),
    *(
        ("server", events.Waited(role="w", awaited=what, seconds=2.0), {("splitee_server_waiting_seconds_total", (what,)): 2})
        for what in ("client", "stream")
    ),
    ("server", events.StreamClaimed(**CLAIM, again=False), {("splitee_streams_total", ("claimed",)): 1}),
    ("server", events.StreamClaimed(**CLAIM, again=True), {("splitee_streams_total", ("reclaimed",)): 1}),
    (
        "server",
        events.StreamCommitted(worker="w", round=1, stream="s", samples=4),
        {("splitee_streams_total", ("committed",)): 1},
    ),
    ("server", events.StreamLost(worker="w", round=1, stream="s", reason="r"), {("splitee_streams_total", ("lost",)): 1}),
    *(
        (
            "server",
            events.CheckpointSaved(**SAVED, commits=commits),
            {
                ("splitee_checkpoint_bytes_total", (kind,)): 9,
                ("splitee_checkpoint_seconds_sum", (kind,)): 0.3,
                ("splitee_checkpoint_seconds_count", (kind,)): 1,
            },
        )
        for commits, kind in ((False, "checkpoint"), (True, "commit"))
    ),
    ("server", events.DuplicatesDropped(client="a", count=5), {("splitee_duplicates_total", ()): 5}),
    ("server", events.GapFound(client="a", round=1, sequence=2), {("splitee_gaps_total", ()): 1}),
    ("server", events.ReplicaSetBack(round=1, stream="s"), {("splitee_replicas_set_back_total", ()): 1}),
    *(
        ("server", events.MessageRefused(queue="q", reason="r", kind=kind), {("splitee_dead_letters_total", (kind,)): 1})
        for kind in ("malformed", "misplaced", "unfit", "nonfinite", "poison")
    ),
    (
        "server",
        inference_events.InferenceAnswered(worker="w", requests=2, samples=9, seconds=0.1),
        {
            ("splitee_inference_batch_samples_sum", ()): 9,
            ("splitee_inference_batch_samples_count", ()): 1,
            ("splitee_inference_batch_seconds_sum", ()): 0.1,
            ("splitee_inference_batch_seconds_count", ()): 1,
        },
    ),
    ("server", inference_events.InferenceLate(worker="w", client="a"), {("splitee_inference_late_total", ()): 1}),
    (
        "coordinator",
        events.RunStarted(run="r", strategy="averaging", rounds=7, clients=3, resumed_at=1),
        {("splitee_run_rounds", ()): 7},
    ),
    (
        "coordinator",
        events.RoundOpened(round=4, streams=1, clients=1, opened_at=1e9),
        {("splitee_round", ()): 4, ("splitee_round_opened_timestamp_seconds", ()): 1e9},
    ),
    (
        "coordinator",
        store_events.StoreUsed(used=50, limit=90),
        {("splitee_store_bytes", ()): 50, ("splitee_store_limit_bytes", ()): 90},
    ),
    ("coordinator", store_events.StoreUsed(used=50, limit=None), {("splitee_store_bytes", ()): 50}),
    (
        "coordinator",
        events.RoundClosed(round=4, seconds=2.0, samples=1, server_loss=1.0, server_accuracy=0.5, client_loss=1.0),
        {("splitee_round_seconds_sum", ()): 2, ("splitee_round_seconds_count", ()): 1},
    ),
    (
        "coordinator",
        events.ClientsCounted(states={"active": 2, "gone": 1}),
        {("splitee_clients", ("active",)): 2, ("splitee_clients", ("gone",)): 1},
    ),
    *(
        (
            "coordinator",
            events.ClientDropped(client="a", round=1, reason="r", kind=kind),
            {("splitee_dropouts_total", (kind,)): 1},
        )
        for kind in ("silent", "overdue", "replaced")
    ),
    (
        "coordinator",
        events.RoundEvaluated(round=1, accuracy={"3": {"client": 0.5, "server": 0.75}}),
        {("splitee_evaluation_accuracy", ("3", "client")): 0.5, ("splitee_evaluation_accuracy", ("3", "server")): 0.75},
    ),
    (
        "inference",
        inference_events.InferenceFinished(client="a", where={"client": 3, "server": 2, "degraded": 1}, seconds=0.1),
        {
            ("splitee_inference_samples_total", ("client",)): 3,
            ("splitee_inference_samples_total", ("server",)): 2,
            ("splitee_inference_samples_total", ("degraded",)): 1,
            ("splitee_inference_seconds_sum", ()): 0.1,
            ("splitee_inference_seconds_count", ()): 1,
        },
    ),
]


def _labels(found: Mapping[str, str]) -> Labels:
    """Return the values of labels as the table orders them."""
    return tuple(found[name] for name in sorted(found, key=lambda name: (name != "cut", name != "client")))


def listener(role: Role, *, by_client: bool = False, **reachable: bool) -> Metrics:
    return Metrics(role, client=("a", 3) if role == "client" else None, by_client=by_client, reachable=lambda: reachable)


def moved(metrics: Metrics) -> dict[tuple[str, Labels], float]:
    """Return what a scrape reads that is not 0, without the buckets of histograms."""
    families = text_string_to_metric_families(generate_latest(metrics.registry).decode())
    samples = [sample for family in families for sample in family.samples if not sample.name.endswith("_bucket")]
    return {(sample.name, _labels(sample.labels)): sample.value for sample in samples if sample.value}


@pytest.mark.parametrize(("role", "event", "expected"), CASES, ids=[f"{role}-{type(event).__name__}" for role, event, _ in CASES])
def test_an_event_moves_its_metrics_and_no_others(
    role: Role, event: events.Event, expected: Mapping[tuple[str, Labels], float]
) -> None:
    metrics = listener(role)
    assert moved(metrics) == {}
    metrics(event)
    assert moved(metrics) == pytest.approx(expected)


@pytest.mark.parametrize("role", ["coordinator", "server", "client", "train", "inference"])
def test_a_role_has_the_metrics_that_the_table_gives_it_and_all_of_them_move(role: Role) -> None:
    metrics = listener(role, broker=True, store=False)
    found = set()
    for event in (*(event for _, event, _ in CASES), REPORT_OF_ALL):
        metrics(event)
        found |= {name for name, _ in moved(metrics)}
    families = {family.name: family for family in metrics.registry.collect()}
    expected = {one.name.removesuffix("_total") for one in DEFINITIONS if role in one.roles}
    assert families.keys() == expected
    moving = {name for name in expected if found & {name, f"{name}_total", f"{name}_count"}}
    assert moving == expected


ALL_COUNTS = (
    *("samples", "batches", "correct", "loss", "raw_bytes", "wire_bytes", "step_seconds", "window"),
    *("confirmed", "confirm_seconds", "acknowledged", "acknowledge_seconds", "wait_broker_seconds", "reconnects"),
)


REPORT_OF_ALL = events.ClientReported(client="a", cut=3, counts=dict.fromkeys(ALL_COUNTS, 1))


def test_a_round_is_open_from_its_opening_to_its_close() -> None:
    metrics = listener("coordinator")

    def opened_at() -> float | None:
        return metrics.registry.get_sample_value("splitee_round_opened_timestamp_seconds")

    metrics(events.RunStarted(run="r", strategy="averaging", rounds=7, clients=3, resumed_at=1))
    assert opened_at() == 0
    metrics(events.RoundOpened(round=4, streams=1, clients=1, opened_at=1e9))
    assert opened_at() == 1e9
    metrics(events.RoundClosed(round=4, seconds=2.0, samples=1, server_loss=1.0, server_accuracy=0.5, client_loss=1.0))
    assert opened_at() == 0
    figures = {"client_samples": 0, "server_samples": 0, "client_loss": None, "server_loss": None}
    metrics(events.Progress(round=5, opened_at=2e9, clients=1, streams_committed=0, streams=1, **figures))
    assert opened_at() == 2e9, "another coordinator had opened it"


def test_a_server_is_reachable_or_not_at_the_time_of_the_scrape() -> None:
    reached = {"broker": True}
    metrics = Metrics("client", client=("a", 3), reachable=lambda: reached)
    for expected in (True, False):
        reached["broker"] = expected
        assert metrics.registry.get_sample_value("splitee_reachable", {"server": "broker"}) == expected


def test_one_process_with_all_roles_hears_of_clients_once() -> None:
    metrics = listener("train")
    metrics(FEATURES)
    assert moved(metrics) == {}, "it is in the client's next heartbeat"
    metrics(REPORT)
    assert moved(metrics)["splitee_client_samples_total", ("3",)] == 8


def test_clients_are_told_apart_where_that_is_asked_for() -> None:
    metrics = listener("coordinator", by_client=True)
    for client in ("a", "b"):
        metrics(events.ClientReported(client=client, cut=3, counts={"samples": 8, "wait_round_seconds": 1.5}))
    metrics(BATCH)
    assert moved(metrics) == {
        (name, ("3", client, *labels)): value
        for client in ("a", "b")
        for name, labels, value in (
            ("splitee_client_samples_total", (), 8),
            ("splitee_client_waiting_seconds_total", ("round",), 1.5),
        )
    }


def test_series_of_known_labels_begin_at_zero() -> None:
    text = generate_latest(listener("server").registry).decode()
    assert 'splitee_streams_total{change="reclaimed"} 0.0' in text
    assert 'splitee_checkpoint_seconds_count{kind="commit"} 0.0' in text


def test_a_histogram_counts_up_to_each_bound() -> None:
    metrics = listener("server")
    for samples in (1, 2, 3, 5000):
        metrics(inference_events.InferenceAnswered(worker="w", requests=1, samples=samples, seconds=0.1))
    text = generate_latest(metrics.registry).decode()
    counts = {
        bound: f'splitee_inference_batch_samples_bucket{{le="{bound}"}} ' for bound in ("1.0", "2.0", "4.0", "1024.0", "+Inf")
    }
    found = {bound: float(text.split(start)[1].split("\n")[0]) for bound, start in counts.items()}
    assert found == {"1.0": 1, "2.0": 2, "4.0": 3, "1024.0": 3, "+Inf": 4}


def test_gauges_of_what_is_gone_are_gone() -> None:
    metrics = listener("coordinator")
    for cut in ("3", "4"):
        metrics(events.RoundEvaluated(round=1, accuracy={cut: {"client": 0.5}}))
    assert moved(metrics) == {("splitee_evaluation_accuracy", ("4", "client")): 0.5}


def test_the_page_of_metrics_is_up_to_date() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8") == metrics_page.markdown(), "run `make docs`"
