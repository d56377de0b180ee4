"""What a worker must know of a run, read from the JSON that the coordinator resolved."""

import json
import math
from dataclasses import dataclass

from broker.codec import MAX_FRAMES, parts
from broker.dead_letters import ENVELOPE_BYTES as LETTER_BYTES
from broker.messages import ITEM_SIZES, WireDtype, scale_bytes
from broker.settings import MIB, TransportSettings
from learning.errors import SettingsError
from learning.layers import Network
from learning.settings import DataSettings, ModelSettings, TrainingSettings

MOST_PREFETCH = 65_535  # AMQP counts in 16 bits
MOST_REQUEST_SAMPLES = 100  # of an inference request
FEWEST_REQUESTS = 8  # for inference that a server worker holds
ENVELOPE_BYTES = 4096  # that a message has beside its tensors


@dataclass(frozen=True)
class Bounds:
    """How much an intake takes, the same for every worker of a run.

    prefetch: deliveries that the subscription hands out unacknowledged; a message of more parts would never be complete.
    limit: bytes of the largest message. frame: bytes of the largest frame of a batch: so many for each of the prefetch may be
    held. batch: bytes of all frames of a batch. marker: bytes of an end of round that brings the client's half; one message at
    a time may have these instead.
    """

    prefetch: int = MAX_FRAMES
    limit: int = 32 * MIB
    frame: int = 32 * MIB
    batch: int = MAX_FRAMES * 32 * MIB
    marker: int = 0


@dataclass(frozen=True)
class RunSettings:
    """The sections of an experiment that decide what a worker does."""

    run: str
    model: ModelSettings
    data: DataSettings
    training: TrainingSettings
    transport: TransportSettings
    discards: bool  # whether what a client sent in a round is rolled back when it is given up

    @classmethod
    def from_json(cls, text: str) -> "RunSettings":
        """Return the settings of an experiment; raise SettingsError if this program does not understand it."""
        try:
            sections = json.loads(text)
            return cls(
                run=str(sections["name"]),
                model=ModelSettings.model_validate(sections["model"]),
                data=DataSettings.model_validate(sections["data"]),
                training=TrainingSettings.model_validate(sections["training"]),
                transport=TransportSettings.model_validate(sections["transport"]),
                discards=sections["clients"]["on_dropout"] == "discard",
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise SettingsError(
                f"the run's experiment is not understood; same version everywhere? {''.join(str(error).splitlines()[:1]):.200}"
            ) from None

    @property
    def wire_dtype(self) -> WireDtype:
        """How features travel."""
        dtype = self.transport.wire_dtype
        if dtype == "auto":
            raise SettingsError("transport.wire_dtype is still auto; the coordinator resolves it")
        return dtype

    def sample_bytes(self, network: Network, cut: int) -> int:
        """Return the bytes that one sample's features and label have at a cut, in the run's wire dtype."""
        return math.prod(network.feature_shape(cut)) * ITEM_SIZES[self.wire_dtype] + ITEM_SIZES["int64"]

    def batch_bytes(self, network: Network, cut: int) -> int:
        """Return the bytes that a batch of features and labels has at a cut, at most, in the run's wire dtype."""
        scales = scale_bytes((1, *network.feature_shape(cut)))
        return self.training.batch_size * self.sample_bytes(network, cut) + scales + ENVELOPE_BYTES

    def largest_message(self, network: Network) -> int:
        """Return the bytes of the largest batch that a client of any cut sends."""
        return max(self.batch_bytes(network, cut) for cut in range(1, network.depth))

    def prefetch(self, network: Network, lanes: int, marker: int) -> int:
        """Return how many deliveries of a client a stream holds unacknowledged; the same for every worker of a run.

        lanes: how many clients' deliveries it holds at once. marker: bytes of the end of round, 0 if it is a small one; like a
        batch it is taken when all of its parts are here. Consumers with different prefetch make a queue redeliver out of order.
        """
        held = self.transport.held_bytes // self.frame_bytes(network) // lanes
        most_parts = max(self.parts(self.largest_message(network)), self.parts(marker))
        return min(max(most_parts + 1, held), MOST_PREFETCH)

    def request_samples(self, feature_shape: tuple[int, ...]) -> int:
        """Return the samples that an inference request has, at most, where one sample's features have this shape."""
        room = self.transport.message_limit - ENVELOPE_BYTES - scale_bytes((1, *feature_shape))
        return max(1, min(MOST_REQUEST_SAMPLES, room // (math.prod(feature_shape) * ITEM_SIZES[self.wire_dtype])))

    def inference_prefetch(self, network: Network) -> int:
        """Return how many inference requests a server worker holds: within ``held_bytes``, whatever their cut."""
        shapes = [network.feature_shape(cut) for cut in range(1, network.depth)]
        largest = max(self.request_samples(shape) * math.prod(shape) for shape in shapes)
        fit = self.transport.held_bytes // (largest * ITEM_SIZES[self.wire_dtype])
        return min(max(fit, FEWEST_REQUESTS), max(self.transport.inference_batch, FEWEST_REQUESTS))

    def parts(self, size: int) -> int:
        """Return in how many frames a message of so many bytes travels."""
        return parts(size, self.transport.message_limit)

    def framed(self, size: int) -> int:
        """Return the bytes of all frames in which a message of so many bytes travels, at most."""
        return min(size + ENVELOPE_BYTES * self.parts(size), self.transport.message_limit * self.parts(size))

    def frame_bytes(self, network: Network) -> int:
        """Return the bytes of the largest frame of a batch that a client of any cut sends."""
        return min(self.largest_message(network), self.transport.message_limit)

    def largest_letter(self, network: Network) -> int:
        """Return the bytes of the largest dead letter: what is no batch is not kept whole."""
        return min(self.frame_bytes(network) + LETTER_BYTES, self.transport.message_limit)
