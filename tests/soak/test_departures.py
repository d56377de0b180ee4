"""How long a round waits for a client that is gone: printed, for docs/results.md. What counts of it is tests/end_to_end's."""

import time
from collections.abc import Callable

import pytest

from broker.events import BatchTrained, RoundClosed, StreamCommitted
from tests.end_to_end.conftest import Deploy
from tests.end_to_end.harness import Event, Node, summary
from tests.end_to_end.test_dropouts import GONE, PACED, THREE

TIMEOUT = 4.0  # seconds: transport.heartbeat_timeout


def last(node: Node, holds: Callable[[Event], bool]) -> float:
    """Return when a process last said something of a kind."""
    return max(at for event, at in zip(node.heard, node.times, strict=False) if holds(event))


@pytest.mark.soak
@pytest.mark.parametrize("strategy", ["averaging", "sequential"])
@pytest.mark.parametrize("policy", ["keep", "discard"])
def test_a_round_closes_soon_after_a_client_is_gone(policy: str, strategy: str, deploy: Deploy) -> None:
    own = (f"clients.on_dropout={policy}", f"training.strategy={strategy}", f"transport.heartbeat_timeout={TIMEOUT}")
    deployment = deploy(*THREE, *PACED, *own)
    coordinator, server = deployment.coordinator(), deployment.server()
    clients = deployment.clients()
    server.wait_for(BatchTrained, lambda event: (event["round"], event["client"], event["sequence"]) == (2, GONE, 1))
    killed = time.monotonic()
    clients[GONE].kill()
    coordinator.wait_for(RoundClosed, lambda event: event["round"] == 2)
    for node in (coordinator, server, *(node for name, node in clients.items() if name != GONE)):
        assert node.wait() == 0, node.text()
    assert [gone["client"] for gone in summary(deployment.output)["dropouts"]] == [GONE]

    closed = last(coordinator, lambda event: event["event"] == RoundClosed.__name__ and event["round"] == 2)
    done = {BatchTrained.__name__: "client", StreamCommitted.__name__: "stream"}
    others = last(
        server,
        lambda event: event["event"] in done and event["round"] == 2 and event[done[event["event"]]] not in (GONE, "all"),
    )
    late = closed - max(killed + TIMEOUT, others)
    print(
        f"\n{strategy}, {policy}: round closed {closed - killed:.2f} s after the kill, with a heartbeat timeout of {TIMEOUT:g} s;"
    )
    print(f"{late:.2f} s after the later of that timeout and what was last trained or committed of the others")
