"""A sitting: one round of a run with a real server worker in this process, and hostile messages between the good ones."""

import functools
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from broker import topology
from broker.codec import decode, encode
from broker.events import Event, MessageRefused, StreamLost
from broker.inference_events import InferenceAnswered
from broker.messages import InferenceRequest, Prediction
from broker.transport import Delivery
from coordinator.experiment import Experiment, load_experiment
from coordinator.store.records import StreamClient, StreamRecord
from learning.layers import Network, build_network
from tests.fuzz.mutations import Mutator
from tests.fuzz.traffic import Traffic, batches, decoded, untrainable
from tests.unit.one_round import OneRound
from tests.unit.test_codec import EXAMPLES
from workers.features import to_wire
from workers.run_settings import RunSettings
from workers.server import ServerWorker

RUN, INCARNATION, SAMPLE, CLASSES = "fuzz", 2, (10,), 5
CUTS = {"client-01": 1, "client-02": 2, "client-03": 1}  # the first two share a stream
CLIENTS = ",".join(f"{{id='{client}',cut={cut}}}" for client, cut in CUTS.items())
BATCHES, REQUESTS = 12, 20  # good ones: of each client, and for inference
HOLE = b""
PATIENCE = 60.0  # seconds without any progress after which a worker hangs
SETTINGS = (
    f"name={RUN}", "model.name=tests.fuzz.network:layers", "training.rounds=1", "training.batch_size=8", "training.streams=2",
    "training.precision=float32", "training.device=cpu", "training.memory_format=contiguous", "data.augment=none",
    "clients.count=none", "clients.cuts=none", f"clients.list=[{CLIENTS}]",
    "transport.wire_dtype=float32", "transport.message_limit=40000", "transport.refused_limit=1000000",
    "transport.inference_ttl=86400",
)  # fmt: skip


@dataclass
class Outcome:
    """What a sitting left behind: the committed streams, dead letters and answers, and what had to become of each message."""

    streams: dict[str, StreamRecord]
    traffic: dict[str, Traffic]
    letters: int
    answers: dict[str, bytes]
    reasons: Counter[str]
    refused_requests: int


class Sitting:
    """One round. good: every client's good messages; the same in all sittings, so that all must train the same network."""

    def __init__(self, seed: str) -> None:
        self._one = OneRound(experiment(), SAMPLE, CLASSES, INCARNATION)
        self.experiment, self.network = self._one.experiment, self._one.network
        self.ledger, self.transport, self.round = self._one.ledger, self._one.transport, self._one.record
        self.mutator = Mutator(seed)
        self.reasons: Counter[str] = Counter()
        self._faults: list[str] = []
        self._moved = time.monotonic()
        frame = RunSettings.from_json(self.experiment.to_json()).frame_bytes(self.network)
        self.traffic = {
            member.id: Traffic(member, 1, self.experiment.transport.message_limit, frame, self.network, self.experiment.training)
            for plan in self.round.streams
            for member in plan.clients
        }
        self.published = self.refused_requests = 0
        self._requests = self._served = 0  # for inference: in the queue at first, and answered or refused

    def run(self, messages: int) -> Outcome:
        """Publish the good messages and so many hostile ones, let a worker train the round, and return what came of it."""
        self.transport.declare(topology.inbox(RUN, "asker"))
        self._publish_requests(messages // 10)
        share = (messages - messages // 10) // len(CUTS)
        for traffic in self.traffic.values():
            self._compose(traffic, share)
            queue = topology.activations(RUN, traffic.client.id, self.experiment.transport)
            for body in traffic.bodies:
                self.transport.publish(queue.name, body)
        self._work()
        streams = {key: kept.record for key, kept in self.ledger.streams(self.round).items()}
        letters = self.transport.depth(topology.dead(RUN).name)
        return Outcome(streams, self.traffic, letters, self._answers(), self.reasons, self.refused_requests)

    def _compose(self, traffic: Traffic, hostile: int) -> None:
        """Fill a client's queue: good batches, holes and mutants in a random order, the marker last."""
        random = self.mutator.random
        *places, marker = good(traffic.client.id)
        for _ in range(random.randint(3, 12) if hostile else 0):
            places.insert(random.randint(0, len(places)), HOLE)
        total = len(places) + 1
        frames: list[bytes] = []
        before = sorted(random.randint(0, len(places)) for _ in range(hostile))
        for place, body in enumerate([*places, marker]):
            while before and before[0] <= place:
                before.pop(0)
                self._mutant(traffic, frames, marker, total)
            if body is HOLE:
                traffic.hole(self._untrainable(traffic))
            else:
                frames = (traffic.good(body, random.choice([40_000, 600])) + frames)[:6]

    def _mutant(self, traffic: Traffic, frames: list[bytes], marker: bytes, total: int) -> None:
        random = self.mutator.random
        self.published += 1
        if traffic.slots and random.random() < 0.3:  # a good frame around a body that is not
            inner = random.choice(good(traffic.client.id))
            traffic.again(self.mutator.mutate(inner, marker) if random.random() < 0.7 else self._wrong(traffic))
        elif frames and random.random() < 0.2:
            traffic.hostile(self.mutator.readdress(random.choice(frames)), total)
        elif random.random() < 0.002:
            traffic.hostile(bytes(traffic.limit + random.randint(1, 100_000)), total)
        else:
            source = random.choice(frames or [marker]) if random.random() < 0.8 else random.choice(others())
            traffic.hostile(self.mutator.mutate(source, random.choice(frames or [marker])), total)

    def _wrong(self, traffic: Traffic) -> bytes:
        return untrainable(traffic.client.cut, self.network, self.experiment.training.batch_size, self.mutator.random)

    def _untrainable(self, traffic: Traffic) -> bytes:
        """Return a body for a hole: wrong in its meaning, or mutated until it is wrong."""
        while self.mutator.random.random() < 0.5:
            body = self.mutator.mutate(self.mutator.random.choice(good(traffic.client.id)[:-1]), b"")
            if not traffic.is_trainable(body, traffic.slots) and len(body) < traffic.limit - 1000 and not is_marker(body):
                return body
        return self._wrong(traffic)

    def _publish_requests(self, hostile: int) -> None:
        queue = topology.inference(RUN, self.experiment.transport)
        self.transport.declare(queue)
        bodies = list(requests())
        for number in range(hostile):
            if number % max(1, hostile // len(bodies)) == 0 and bodies:
                self._request(queue.name, bodies.pop())
            mutant = self.mutator.mutate(self.mutator.random.choice(requests()), self.mutator.random.choice(others()))
            self.published += 1
            message = decoded(mutant)
            if isinstance(message, InferenceRequest) and message.client == "asker":
                continue  # it is answered, perhaps in a good one's place
            self.refused_requests += not isinstance(message, InferenceRequest)
            self._request(queue.name, mutant)
        for body in bodies:
            self._request(queue.name, body)

    def _request(self, queue: str, body: bytes) -> None:
        self._requests += 1
        self.transport.publish(queue, body)

    def _work(self) -> None:
        worker = self._one.worker(self._hear)
        thread = threading.Thread(target=self._guard, args=(worker,), name="worker", daemon=True)
        thread.start()
        try:
            while thread.is_alive() and not self._done():
                assert time.monotonic() - self._moved < PATIENCE, "the worker hangs"
                time.sleep(0.01)
        finally:
            worker.stop()
            thread.join(PATIENCE)
        assert not self._faults, self._faults
        assert not thread.is_alive()

    def _guard(self, worker: ServerWorker) -> None:
        torch.set_num_threads(1)
        try:
            worker.run()
        except BaseException as error:  # noqa: BLE001  # whatever it is, it is what the sitting looks for
            self._faults.append(repr(error))

    def _done(self) -> bool:
        return not self.ledger.unfinished(self.round) and self._served >= self._requests

    def _hear(self, event: Event) -> None:
        self._moved = time.monotonic()
        if isinstance(event, MessageRefused):
            self.reasons[" ".join(event.reason.split()[:4])] += 1
            assert event.reason.isprintable()
            self._served += event.queue == topology.inference(RUN, self.experiment.transport).name
        elif isinstance(event, InferenceAnswered):
            self._served += event.requests
        elif isinstance(event, StreamLost):
            self._faults.append(str(event))

    def _answers(self) -> dict[str, bytes]:
        answers: dict[str, bytes] = {}

        def take(item: object) -> None:
            if isinstance(item, Delivery):
                answer = decode(item.body, Prediction)
                answers[answer.request] = answer.probabilities.data if answer.probabilities else b""

        self.transport.subscribe(topology.inbox(RUN, "asker").name, 10_000, take).close()
        return answers


def is_marker(body: bytes) -> bool:
    return type(decoded(body)).__name__ == "EndOfRound"


@functools.cache
def experiment() -> Experiment:
    return load_experiment(Path(__file__).parents[2] / "experiments" / "digits.toml", SETTINGS, {})


@functools.cache
def network() -> Network:
    return build_network(experiment().model, SAMPLE, CLASSES, 0)


@functools.cache
def good(client: str) -> list[bytes]:
    """Return a client's good data messages: its batches and its marker."""
    member = StreamClient(id=client, incarnation=INCARNATION, cut=CUTS[client])
    return list(batches(member, BATCHES, network(), Mutator(client).random))


@functools.cache
def others() -> list[bytes]:
    """Return messages of every other kind."""
    return [encode(example) for example in EXAMPLES]


@functools.cache
def requests() -> list[bytes]:
    """Return good inference requests."""
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(3, 12, generator=generator) for _ in range(REQUESTS)]
    return [
        encode(
            InferenceRequest(
                client="asker", request=str(number), version=0, cut=1 + number % 2, features=to_wire(one, "float32")[0]
            )
        )
        for number, one in enumerate(features)
    ]
