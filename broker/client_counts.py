"""What a client counts of itself. Devices behind NAT are not scraped: it travels in their heartbeats, for metrics alone."""

from collections.abc import Mapping
from functools import singledispatch
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from broker import events

Whole = Annotated[int, Field(ge=0, lt=2**63)]
Sum = Annotated[float, Field(ge=0, le=1e300)]  # differences of such, added up, stay finite


class ClientCounts(BaseModel):
    """Sums since a client's process started; what it computes again counts again."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    samples: Whole = 0
    batches: Whole = 0
    correct: Whole = 0  # by its exit, in training
    loss: Sum = 0.0  # over samples
    raw_bytes: Whole = 0
    wire_bytes: Whole = 0
    step_seconds: Sum = 0.0
    window: Sum = 0.0  # over batches: share of the window that was full
    confirmed: Whole = 0  # messages, by the broker,
    confirm_seconds: Sum = 0.0  # and how long that took
    acknowledged: Whole = 0  # messages, by servers: durable
    acknowledge_seconds: Sum = 0.0
    wait_broker_seconds: Sum = 0.0
    wait_servers_seconds: Sum = 0.0
    wait_round_seconds: Sum = 0.0
    reconnects: Whole = 0


@singledispatch
def counted(_event: events.Event) -> Mapping[str, float]:
    """Return what an event of a client adds to its counts, by their names."""
    return {}


@counted.register
def _(event: events.FeaturesPublished) -> Mapping[str, float]:
    return {
        "samples": event.samples,
        "batches": 1,
        "correct": event.correct,
        "loss": event.loss * event.samples,
        "raw_bytes": event.raw_bytes,
        "wire_bytes": event.bytes,
        "step_seconds": event.seconds,
        "window": event.window,
    }


@counted.register
def _(event: events.Acknowledged) -> Mapping[str, float]:
    if event.by == "broker":
        return {"confirmed": event.messages, "confirm_seconds": event.seconds}
    return {"acknowledged": event.messages, "acknowledge_seconds": event.seconds}


@counted.register
def _(event: events.Waited) -> Mapping[str, float]:
    return {f"wait_{event.awaited}_seconds": event.seconds}


@counted.register
def _(_event: events.Reconnected) -> Mapping[str, float]:
    return {"reconnects": 1}
