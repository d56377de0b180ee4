"""The messages of a run. Each is checked against its type when it is decoded, before anything uses it."""

import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from broker.client_counts import ClientCounts

ITEM_SIZES = {"float32": 4, "float16": 2, "bfloat16": 2, "uint8": 1, "int64": 8}
SCALE_BYTES = 8  # float32 lowest value and step of a channel, which uint8 values have in front
MOST_NAME = 200  # characters
CLIENT_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"  # enters broker permissions unescaped

Count = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[int, Field(ge=1, lt=2**63)]
ClientId = Annotated[str, Field(pattern=CLIENT_PATTERN)]
Digest = Annotated[bytes, Field(min_length=32, max_length=32)]
Name = Annotated[str, Field(max_length=MOST_NAME)]
Text = Annotated[str, Field(max_length=2000)]
Loss = Annotated[float, Field(ge=0, le=3.5e38)]  # a mean of cross-entropies in float32; sums of it stay finite
WireDtype = Literal["float32", "float16", "bfloat16", "uint8", "int64"]
Dimension = Annotated[int, Field(ge=0, lt=2**31)]


class Message(BaseModel):
    """Base of all messages."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def wire_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Return the bytes that a tensor has in a message. uint8 has a scale for each channel: dimension 1 of images, else the last."""
    values = math.prod(shape) * ITEM_SIZES[dtype]
    return values + (scale_bytes(shape) if dtype == "uint8" else 0)


def scale_bytes(shape: tuple[int, ...]) -> int:
    """Return the bytes of the scales of a uint8 tensor."""
    if len(shape) < 2:
        return SCALE_BYTES
    return SCALE_BYTES * (shape[1] if len(shape) > 3 else shape[-1])


class WireTensor(Message):
    """A tensor as raw little-endian bytes in row-major order; uint8: floats, scaled by channel, behind their scales."""

    dtype: WireDtype
    shape: Annotated[tuple[Dimension, ...], Field(max_length=8, strict=False)]
    data: bytes

    @model_validator(mode="after")
    def _size_fits_shape(self) -> Self:
        expected = wire_bytes(self.dtype, self.shape)
        if len(self.data) != expected:
            raise ValueError(f"{self.dtype} tensor of shape {self.shape} needs {expected} bytes, got {len(self.data)}")
        return self


class Frame(Message):
    """One part of a data message on a client's activations queue; most messages have one part."""

    client: ClientId
    incarnation: Positive
    round: Positive
    sequence: Count
    part: Count
    parts: Positive
    body: bytes
    requeued: bool = False  # it was a dead letter and is sent again on purpose: it may fill the hole that its refusal left

    @model_validator(mode="after")
    def _part_is_within_parts(self) -> Self:
        if self.part >= self.parts:
            raise ValueError(f"part {self.part} of {self.parts}")
        return self


class Activations(Message):
    """Features at the cut and labels of one batch: (batch, ...) and (batch,)."""

    cut: Positive
    digest: Digest  # running SHA-256 over the features and labels of this round's earlier batches
    features: WireTensor
    labels: WireTensor


class EndOfRound(Message):
    """A client's round is complete: its sequence is the number of batches before it."""

    digest: Digest
    samples: Count
    loss: Loss  # mean local loss over the samples
    dropped_samples: Count  # last batches of one sample, which BatchNorm cannot train on
    half: bytes | None  # the client's layers and exit as safetensors, where the round asks for it


class Join(Message):
    """A client asks to take part. Answered with ``Welcome`` or ``Refusal``."""

    client: ClientId
    cut: Positive
    incarnation: Positive | None  # from its state directory, if it has one
    process: Name  # random, new for every process: tells a second process from a repeated message
    samples: Count | None  # training samples of its own, None where the run's data set is partitioned
    run_id: Name = ""  # from its state directory too: of the run that this incarnation is in
    lost: Text = ""  # why that incarnation cannot go on, where it cannot: it asks for another


class Score(Message):
    """Correct predictions of one client on the test split after a round."""

    round: Count
    samples: Count
    client_correct: Count
    server_correct: Count
    server_answered: Count

    @model_validator(mode="after")
    def _no_more_than_all_are_correct(self) -> Self:
        if self.client_correct > self.samples or not self.server_correct <= self.server_answered <= self.samples:
            raise ValueError(
                f"{self.client_correct} and {self.server_correct} of {self.server_answered} correct, of {self.samples} samples"
            )
        return self


class Heartbeat(Message):
    """A client is alive, how far it is, and which scores it has. Answered with ``Target``."""

    client: ClientId
    incarnation: Positive
    process: Name
    round: Count  # being trained, 0 before the first
    confirmed: Count  # sequence up to which the broker has confirmed that round
    samples: Count  # trained in all
    bytes: Count  # published in all
    loss: Loss  # mean local loss of the round so far
    scores: Annotated[tuple[Score, ...], Field(max_length=1000, strict=False)]  # not yet recorded
    number: Count = 0  # of this heartbeat, counted by its process
    counts: ClientCounts | None = None  # by its process since it started; for metrics alone


class Notice(Message):
    """A worker has committed a stream: worth a look at the store."""

    round: Positive


class Echo(Message):
    """What a coordinator says to itself, to know that it hears."""

    sender: Name  # random, new for every coordinator
    sent: float  # seconds of its monotonic clock


class Leave(Message):
    """A client has heard that the run is finished."""

    client: ClientId
    incarnation: Positive


class HalfRequest(Message):
    """A client asks for its half as it is averaged after a closed round. Answered with ``AveragedHalf``, or not yet.

    The answer comes to a queue of its process, in frames under the place (client, incarnation, round, number): it may be large.
    """

    client: ClientId
    incarnation: Positive
    reply: Annotated[str, Field(pattern=r"^[0-9a-f]{1,32}$")]  # names that queue
    round: Positive
    cut: Positive
    number: Count  # of the request, chosen by its process; a repeated one has the same


class Welcome(Message):
    """What a client needs to take part."""

    client: ClientId
    process: Name
    incarnation: Positive
    cut: Positive
    part: Count  # which part of the run's data set is its own,
    parts: Count  # of how many; 0: it brings its own
    first_round: Positive  # it takes part from here on
    sample_shape: Annotated[tuple[Dimension, ...], Field(max_length=8, strict=False)]
    classes: Positive
    experiment: Annotated[str, Field(max_length=1_000_000)]  # JSON, as resolved by the coordinator
    fingerprint: Name
    run_id: Name = ""  # tells the run from an earlier one of the same name and experiment


class Refusal(Message):
    """A client may not take part; it should stop and say why."""

    client: ClientId
    process: Name
    reason: Text


class Target(Message):
    """Everything a client must know, repeated with every heartbeat."""

    client: ClientId
    incarnation: Positive
    round: Count  # train up to and including this round
    closed: Count  # last round that has been averaged: its version of the server layers can be evaluated
    durable_round: Count
    durable_sequence: Count  # of durable_round, trained and durable up to here
    recorded: Count  # scores up to this round are recorded
    finished: bool
    answers: Count = 0  # the heartbeat after which the store was read; 0: none


class Acknowledgement(Message):
    """A stream's durable position in one client's round; cumulative. ``resend``: what follows is missing, send it again."""

    client: ClientId
    incarnation: Positive
    round: Positive
    sequence: Count  # everything before it is trained and durable
    loss: Loss  # mean server loss of the round so far
    correct: Count
    samples: Count
    resend: bool = False


class Offer(Message):
    """There may be a stream to claim."""

    round: Positive


class InferenceRequest(Message):
    """Features to be finished by a server worker.

    reply: names the queue of the client's process that asks; empty: its inbox. patience: seconds after which nobody waits for the
    answer any more; None: it is wanted however late, and computed apart from others.
    """

    client: ClientId
    request: Name
    reply: Annotated[str, Field(pattern=r"^[0-9a-f]{0,32}$")] = ""
    patience: Annotated[float, Field(gt=0, le=3600)] | None = None
    version: Count  # round whose averaged layers are asked for
    cut: Positive
    features: WireTensor


class Prediction(Message):
    """Answer to an inference request: probabilities (batch, classes), or an error; neither: ask again later.

    gone: the version that is asked for was there and is not kept any more.
    """

    client: ClientId
    request: Name
    probabilities: WireTensor | None = None
    error: Text | None = None
    gone: bool = False


class AveragedHalf(Message):
    """The averaged layers up to a cut and its exit after a round, as safetensors; what nobody has trained yet is left out."""

    round: Positive
    cut: Positive
    half: bytes


class DeadLetter(Message):
    """What was refused, where and why. ``id`` depends on the message alone, so a repeat can be told."""

    id: Name
    queue: Name
    reason: Text
    sender: Name | None
    client: Name | None
    round: Count | None
    sequence: Count | None
    size: Count  # bytes of what was refused: ``body`` has only the first of them where the letter would be too large
    body: bytes


MESSAGES: dict[str, type[Message]] = {
    kind.__name__: kind
    for kind in (
        Frame, Activations, EndOfRound, Join, Heartbeat, Leave, Notice, Echo, HalfRequest, Welcome, Refusal, Target,
        Acknowledgement, Offer, InferenceRequest, Prediction, AveragedHalf, DeadLetter,
    )
}  # fmt: skip
