"""One client's queue in a round: its good messages in order, with hostile ones in between, and what must become of each."""

import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from broker.codec import MAX_FRAMES, decode, encode, join, split
from broker.errors import MalformedMessage
from broker.messages import MESSAGES, Activations, EndOfRound, Frame, Message, WireTensor, wire_bytes
from coordinator.store.records import StreamClient
from learning.errors import TensorError
from learning.layers import Network
from learning.settings import TrainingSettings
from learning.tensors import pack
from workers.batches import check_activations, check_marker
from workers.features import FIRST_DIGEST, next_digest, to_wire

KINDS = tuple(MESSAGES.values())
NAN, INFINITY = b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff"


@dataclass
class Traffic:
    """What is published for one client. ``fates`` counts what must become of it."""

    client: StreamClient
    round: int
    limit: int  # bytes of a message,
    frame: int  # and of the largest frame of a batch: more is not kept as a copy, nor more than once for later rounds
    network: Network
    training: TrainingSettings
    bodies: list[bytes] = field(default_factory=list)
    fates: Counter[str] = field(default_factory=Counter)
    samples: int = 0
    holes: list[int] = field(default_factory=list)
    slots: int = 0  # sequences that are taken, complete, by what has been published
    _waiting: list[tuple[int, bytes]] = field(default_factory=list)

    def good(self, body: bytes, parts_of: int) -> list[bytes]:
        """Publish a data message in the next place, in parts if it is large; return its frames."""
        who = (self.client.id, self.client.incarnation, self.round, self.slots)
        frames = split(decode(body, Activations, EndOfRound), *who, parts_of)
        self._place(frames)
        return frames

    def hole(self, body: bytes) -> None:
        """Publish what cannot be trained in the next place."""
        self.holes.append(self.slots)
        self.fates["refused"] += 1
        self._place([self._frame(body, self.slots)])

    def again(self, body: bytes) -> None:
        """Publish something under a sequence that is taken."""
        self.hostile(self._frame(body, max(0, self.slots - 1)), self.slots + 1)

    def hostile(self, body: bytes, total: int) -> None:
        """Publish a mutated message where it can take no good one's place; total: sequences that there will be."""
        fate = self._fate(body)
        if isinstance(fate, str):
            self.fates[fate] += 1
            self.bodies.append(body)
        elif fate >= total:
            self.fates["beyond"] += 1
            self.bodies.append(body)
        elif fate == total - 1:
            self.fates["decoded only"] += 1  # the marker's place: the round would end before what comes after it
        else:
            self._waiting.append((fate, body))

    def is_trainable(self, body: bytes, sequence: int) -> bool:
        """Return whether a data message would be accepted in a place; any error but the promised ones comes out."""
        try:
            message = decode(body, Activations, EndOfRound)
            if isinstance(message, Activations):
                check_activations(message, self.client.cut, self.network, self.training)
            else:
                check_marker(message, sequence, self.client.cut, self.network, self.training)
        except (MalformedMessage, TensorError):
            return False
        return True

    def _frame(self, body: bytes, sequence: int) -> bytes:
        who = {"client": self.client.id, "incarnation": self.client.incarnation, "round": self.round}
        return encode(Frame(**who, sequence=sequence, part=0, parts=1, body=body))

    def _place(self, frames: list[bytes]) -> None:
        self.bodies += frames
        self.slots += 1
        waiting, self._waiting = self._waiting, []
        for sequence, body in waiting:
            if sequence < self.slots:
                self.hostile(body, self.slots + 1)
            else:
                self._waiting.append((sequence, body))

    def _fate(self, body: bytes) -> str | int:
        """Return what a worker must do with a message: its sequence if it is this round's and not taken yet."""
        message = decoded(body)
        if len(body) > self.limit or not isinstance(message, Frame):
            return "refused"
        if message.client != self.client.id or message.parts > MAX_FRAMES:
            return "refused"
        place = (message.incarnation, message.round)
        if place != (self.client.incarnation, self.round):
            later = "later" if len(body) <= self.frame else "large later"
            return "stale" if place < (self.client.incarnation, self.round) else later
        if message.sequence in self.holes:
            return "refused again" if len(body) <= self.frame else "large again"
        return "duplicate" if message.sequence < self.slots else message.sequence


def decoded(body: bytes) -> Message | None:
    """Decode what may be anything, and check what is accepted; any error but the promised one comes out."""
    message: Message | None
    try:
        message = decode(body, *KINDS)
    except MalformedMessage as error:
        reason = str(error)
        message = None
    if message is None:
        assert reason.isprintable(), f"a reason with control characters: {reason!r}"
        assert len(reason) < 1000
        return None
    check_bounds(message.model_dump())
    if isinstance(message, Frame) and message.parts == 1:
        with_body(message)
    return message


def with_body(frame: Frame) -> None:
    """Join a frame of one part as a worker does."""
    try:
        check_bounds(join([frame], Activations, EndOfRound).model_dump())
    except MalformedMessage:
        return


def check_bounds(value: object) -> None:
    """Fail unless everything in an accepted message is within the bounds of the protocol, checked anew here."""
    if isinstance(value, dict):
        if value.keys() == {"dtype", "shape", "data"}:
            assert wire_bytes(value["dtype"], tuple(value["shape"])) == len(value["data"])
            assert len(value["shape"]) <= 8
        assert 0 <= value.get("loss", 0) < 1e39
        for member in value.values():
            check_bounds(member)
    elif isinstance(value, list | tuple):
        assert len(value) <= 1000
        for member in value:
            check_bounds(member)
    elif isinstance(value, float):
        assert math.isfinite(value)
    elif isinstance(value, int):
        assert 0 <= value < 2**63
    elif isinstance(value, str):
        assert len(value) <= 1_000_000


def batches(client: StreamClient, count: int, network: Network, random: random.Random) -> Iterator[bytes]:
    """Yield a client's batches of a round, encoded, then its marker with its half."""
    generator = torch.Generator().manual_seed(random.getrandbits(60))
    digest, samples = FIRST_DIGEST, 0
    for _ in range(count):
        size = random.randint(2, 8)
        features = torch.randn(size, *network.feature_shape(client.cut), generator=generator)
        labels = torch.randint(0, network.classes, (size,), generator=generator)
        wire, labels_wire = to_wire(features, "float32")[0], to_wire(labels, "int64")[0]
        yield encode(Activations(cut=client.cut, digest=digest, features=wire, labels=labels_wire))
        digest, samples = next_digest(digest, wire, labels_wire), samples + size
    layers = torch.nn.ModuleDict({f"layer{number}": network.build_layer(number) for number in range(1, client.cut + 1)})
    layers["exit"] = network.build_exit(client.cut)
    half = pack(layers.state_dict())
    yield encode(EndOfRound(digest=digest, samples=samples, loss=0.5, dropped_samples=0, half=half))


def untrainable(cut: int, network: Network, batch_size: int, random: random.Random) -> bytes:
    """Return a data message, valid in itself, that no worker may train on."""
    shape, classes = network.feature_shape(cut), network.classes
    size = random.randint(2, batch_size)

    def batch(
        features: tuple[int, ...] = (size, *shape), labels: tuple[int, ...] = (size,), value: bytes = bytes(4), label: int = 0,
        at: int = cut, kind: str = "float32", label_kind: str = "int64",
    ) -> bytes:  # fmt: skip
        count = wire_bytes(kind, features)
        data = (bytes(count - len(value)) + value)[-count:] if count else b""
        label_data = (label.to_bytes(8, "little", signed=True) * math.prod(labels))[: wire_bytes(label_kind, labels)]
        return encode(
            Activations.model_construct(
                cut=at,
                digest=random.randbytes(32),
                features=WireTensor.model_validate({"dtype": kind, "shape": features, "data": data}),
                labels=WireTensor.model_validate({"dtype": label_kind, "shape": labels, "data": label_data}),
            )
        )

    huge = 2**31 - 1
    return random.choice(
        [
            lambda: batch(value=random.choice([NAN, INFINITY])),
            lambda: batch(label=random.choice([-1, classes, 2**62, -(2**63)])),
            lambda: batch(features=(size, *shape, 1)),
            lambda: batch(features=(size, shape[0] + 1)),
            lambda: batch(features=(size,)),
            lambda: batch(features=()),
            lambda: batch(features=(huge,) * 7 + (0,), labels=(huge,) * 3 + (0, 0)),
            lambda: batch(features=(0, *shape), labels=(0,)),
            lambda: batch(features=(1, *shape), labels=(1,)),
            lambda: batch(features=(batch_size + 1, *shape), labels=(batch_size + 1,)),
            lambda: batch(features=(400, *shape), labels=(400,)),
            lambda: batch(labels=(size + 1,)),
            lambda: batch(labels=(size, 1)),
            lambda: batch(labels=()),
            lambda: batch(at=random.choice([cut + 1, 2**62])),
            lambda: batch(kind="int64"),
            lambda: batch(label_kind="float32"),
        ]
    )()
