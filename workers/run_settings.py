"""What a worker must know of a run, read from the JSON that the coordinator resolved."""

import json
import math
from dataclasses import dataclass

from broker.messages import ITEM_SIZES, WireDtype
from broker.settings import TransportSettings
from learning.errors import SettingsError
from learning.layers import Network
from learning.settings import DataSettings, ModelSettings, TrainingSettings

MOST_PREFETCH = 65_535  # AMQP counts in 16 bits


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

    def largest_message(self, network: Network) -> int:
        """Return the bytes of the largest batch of features that a client of any cut sends, in its wire dtype."""
        values = max(math.prod(network.feature_shape(cut)) for cut in range(1, network.depth))
        return values * self.training.batch_size * ITEM_SIZES[self.wire_dtype]

    def prefetch(self, network: Network) -> int:
        """Return how many deliveries a stream holds unacknowledged; the same for every worker of a run.

        Consumers with different prefetch make a queue redeliver out of order.
        """
        largest = self.largest_message(network)
        parts = -(-largest // self.transport.message_limit)
        held = self.transport.held_bytes // min(largest, self.transport.message_limit)
        return min(max(parts + 1, held, 2), MOST_PREFETCH)
