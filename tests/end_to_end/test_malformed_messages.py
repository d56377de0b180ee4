"""Malformed messages in the queues of a run: each a dead letter with its reason, and the run goes on to its end."""

import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest

from broker import topology
from broker.codec import decode, encode
from broker.messages import Activations, DeadLetter, Frame, InferenceRequest, Prediction, WireTensor
from broker.rabbitmq import RabbitTransport
from broker.transport import Delivery, Reopened
from tests.end_to_end.conftest import Deploy
from tests.end_to_end.harness import PATIENCE, summary

DIGEST = bytes(32)
NAN = b"\x00\x00\xc0\x7f"  # float32, little-endian
FEATURES = {3: (4, 8, 8), 4: (8, 4, 4)}  # of the tiny network, by cut


def frame(body: bytes, client: str = "client-01", part: int = 0, parts: int = 1) -> bytes:
    return encode(Frame(client=client, incarnation=1, round=1, sequence=0, part=part, parts=parts, body=body))


def batch(cut: int = 3, shape: tuple[int, ...] | None = None, value: bytes = bytes(4), label: int = 0) -> bytes:
    shape = (2, *(shape or FEATURES[cut]))
    labels = label.to_bytes(8, "little", signed=True) * 2
    return encode(
        Activations(
            cut=cut,
            digest=DIGEST,
            features=WireTensor(dtype="float32", shape=shape, data=value * math.prod(shape)),
            labels=WireTensor(dtype="int64", shape=(2,), data=labels),
        )
    )


UNPLACED = {  # no place in a client's sequence: beside what the client sends
    b"\x00random bytes\xff": "not msgpack",
    msgpack.packb([1, 2, 3]): "envelope is a list, not a map",
    msgpack.packb({"v": 99, "type": "Frame", "fields": {}}): "message version 99, this program speaks 1",
    msgpack.packb({"v": 1, "type": "Join", "fields": {}}): "message of type 'Join', expected Frame",
    frame(batch(), client="client-02"): "from client 'client-02' in the queue of 'client-01'",
    frame(b"", parts=2**40): f"{2**40} parts, at most",
}
IN_PLACE = {  # client: what takes the place of its first batch, and why it is refused
    "client-01": (batch(shape=(5, 8, 8)), "features have shape (2, 5, 8, 8), expected (batch, 4, 8, 8) at cut 3"),
    "client-02": (batch(value=NAN), "a value is not finite"),
    "client-03": (batch(cut=4, label=10), "labels from 10 to 10, there are 10 classes"),
    "client-04": (batch(cut=3), "cut 3, but this client's cut is 4"),
    "client-05": (b"\xc1", "not msgpack"),
}


class Listener:
    """All messages of one queue."""

    def __init__(self, transport: RabbitTransport, queue: str) -> None:
        self.bodies: list[bytes] = []
        self._changed = threading.Condition()
        self._subscription = transport.subscribe(queue, 100, self._receive)

    def wait_for(self, count: int) -> list[bytes]:
        with self._changed:
            self._changed.wait_for(lambda: len(self.bodies) >= count, PATIENCE)
            return list(self.bodies)

    def _receive(self, item: Delivery | Reopened) -> None:
        if isinstance(item, Delivery):
            with self._changed:
                self.bodies.append(item.body)
                self._changed.notify_all()
            self._subscription.ack([item])


@pytest.fixture
def transport(rabbitmq_url: str) -> Iterator[RabbitTransport]:
    transport = RabbitTransport(rabbitmq_url)
    yield transport
    transport.close()


def test_a_run_bears_them_all(deploy: Deploy, transport: RabbitTransport, undisturbed: Callable[..., dict[str, Any]]) -> None:
    deployment = deploy()
    run, settings = deployment.run, deployment.setup.experiment().transport
    requests = topology.inference(run, settings)
    answers = topology.inbox(run, "intruder")
    for queue in (topology.dead(run), topology.coordinator(run), requests, answers):
        transport.declare(queue)
    for client, (body, _) in IN_PLACE.items():
        queue = topology.activations(run, client, settings)
        transport.declare(queue)
        transport.publish(queue.name, frame(body, client))
    for body in UNPLACED:
        transport.publish(topology.activations(run, "client-01", settings).name, body)
    transport.publish(topology.coordinator(run).name, msgpack.packb({"v": 1, "type": "Join", "fields": {"client": "../etc"}}))
    transport.publish(requests.name, b"no request")
    features = WireTensor(dtype="float32", shape=(1, 3), data=bytes(12))
    request = InferenceRequest(client="intruder", request="1", version=0, cut=3, features=features)
    transport.publish(requests.name, encode(request))
    dead, inbox = Listener(transport, topology.dead(run).name), Listener(transport, answers.name)

    coordinator, server = deployment.coordinator(), deployment.server()
    clients = deployment.clients()
    for node in (coordinator, server, *clients.values()):
        assert node.wait() == 0, node.text()
        assert "Traceback" not in node.text()

    found = summary(deployment.output)
    assert found["refused"] == len(UNPLACED) + len(IN_PLACE)
    lost = undisturbed()["samples_trained"] - found["samples_trained"]
    assert 0 < lost <= len(IN_PLACE) * deployment.setup.experiment().training.batch_size  # the batches whose place was taken
    letters = [decode(body, DeadLetter) for body in dead.wait_for(len(UNPLACED) + len(IN_PLACE) + 2)]
    by_body = {letter.body: letter for letter in letters}
    for body, reason in UNPLACED.items():
        assert reason in by_body[body].reason
    for client, (body, reason) in IN_PLACE.items():
        letter = by_body[frame(body, client)]
        assert reason in letter.reason
        assert (letter.client, letter.round, letter.sequence) == (client, 1, 0)
    others = {letter.queue.rpartition(".")[2]: letter.reason for letter in letters if ".activations." not in letter.queue}
    assert "Join: client" in others["coordinator"]
    assert "not msgpack" in others["inference"]
    answer = decode(inbox.wait_for(1)[0], Prediction)
    assert answer.probabilities is None
    assert "features have shape (1, 3)" in str(answer.error)
