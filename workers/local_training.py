"""A client's own side of a run: it trains its half on its own data, publishes features, and goes back to a snapshot."""

import time
from contextlib import AbstractContextManager

import torch

from broker.crash_points import Between, crash_point
from broker.events import Emit, FeaturesPublished
from broker.messages import Activations, EndOfRound, Welcome
from learning.data import ClientData
from learning.errors import LearningError, TensorError
from learning.halves import ClientHalf, Step
from learning.layers import Network
from learning.tensors import State, pack
from workers.client_state import ClientState, Counters
from workers.features import FIRST_DIGEST, next_digest, to_wire
from workers.link import Link
from workers.publisher import Publisher
from workers.run_settings import RunSettings


class Lost(Exception):
    """Nothing is left from which a round could be computed again: this incarnation cannot go on."""


class LocalTraining:
    """One incarnation's half and data. ``round`` is the one that is trained next, 0 before ``start``.

    aligned: the round whose averaged half was loaded last, 0 if that is not known.

    slot: held during each training step, where several clients share a machine's cores.
    """

    def __init__(
        self,
        settings: RunSettings,
        welcome: Welcome,
        network: Network,
        cut: int,
        data: ClientData,
        state: ClientState,
        publisher: Publisher,
        link: Link,
        slot: AbstractContextManager[object],
        emit: Emit,
    ) -> None:
        self._settings = settings
        self._id = welcome.client
        self._first_round = welcome.first_round
        self._network = network
        self._cut = cut
        self._data = data
        self._state = state
        self._publisher = publisher
        self._link = link
        self._slot = slot
        self._emit = emit
        self._counters = Counters()
        self.half = self._new_half()
        self.round = 0
        self.aligned = 0

    def start(self, round: int) -> None:
        """Begin with a round, or with the earliest that is left: what came before is in the broker, or is asked for.

        Raises Lost if nothing is left.
        """
        earliest = self._state.first()
        if earliest is not None:
            self.restore(max(round, earliest))
        elif round == self._first_round:
            self.round = round
        else:
            raise Lost(_missing(round))

    def restore(self, round: int) -> None:
        """Go back to the last snapshot at or before a round; what comes between is computed again. Raises Lost."""
        half = self._new_half()
        found = self._state.restore(round, half)
        if found is None:
            raise Lost(_missing(round))
        self.half, self.round, self._counters = half, max(found[0], self._first_round), found[1]
        self.aligned = 0

    def align(self, round: int, state: State) -> None:
        """Go on from the averaged layers and exit after a round, as far as a state names them; the optimizer's state is kept.

        Raises TensorError, and changes nothing, if it does not fit.
        """
        self.half.load_modules(state)
        self.aligned = round
        crash_point(Between.LOAD_AND_SNAPSHOT)

    def train(self) -> None:
        """Train the next round and publish its features. Raises LearningError if it diverges, and what the publisher raises."""
        self._state.save(self.round, self.half, self._counters)
        crash_point(Between.SNAPSHOT_AND_STEP)
        self.half.begin_round(self.round)
        digest, loss_sum, samples = FIRST_DIGEST, 0.0, 0
        for sequence in range(self._data.batches_in_round()):
            images, labels = self._data.batch(self.round, sequence)
            with self._slot:
                began = time.monotonic()
                step, features = self._step(images, labels, sequence)
                seconds = time.monotonic() - began
            crash_point(Between.STEP_AND_PUBLISH)
            wire, clamped = to_wire(features, self._settings.wire_dtype)
            label_wire, _ = to_wire(labels, "int64")
            message = Activations.model_construct(cut=self._cut, digest=digest, features=wire, labels=label_wire)
            digest = next_digest(digest, wire, label_wire)
            size = self._publisher.publish(self.round, sequence, message)
            crash_point(Between.PUBLISH_AND_CONFIRM)
            loss_sum, samples = loss_sum + step.loss * step.samples, samples + step.samples
            raw = 4 * features.numel() + 8 * labels.numel()
            self._count(step, size, clamped, sequence, loss_sum / samples, seconds, raw)
        crash_point(Between.LAST_BATCH_AND_MARKER)
        self._end(digest, samples, loss_sum / max(samples, 1))
        crash_point(Between.MARKER_AND_NEXT_ROUND)
        self.round += 1

    def _end(self, digest: bytes, samples: int, loss: float) -> None:
        """Publish the marker of the round, with the half where it brings that."""
        half = pack(self.half.state()) if self._settings.training.carries_half(self.round) else None
        marker = EndOfRound(digest=digest, samples=samples, loss=loss, dropped_samples=self._data.dropped_in_round(), half=half)
        batches = max(self._data.batches_in_round(), self._publisher.durable(self.round))  # that were, if its data has become less
        self._publisher.publish(self.round, batches, marker)

    def _new_half(self) -> ClientHalf:
        return ClientHalf(self._network, self._cut, self._settings.training)

    def _step(self, images: torch.Tensor, labels: torch.Tensor, sequence: int) -> tuple[Step, torch.Tensor]:
        try:
            return self.half.step(images, labels, (self._id, self.round, sequence))
        except TensorError as error:
            rate = self._settings.training.client.lr
            raise LearningError(
                f"client {self._id} diverges in round {self.round}, batch {sequence}: {error}; "
                f"lower training.client.lr, now {rate:g}, or look at its data"
            ) from None

    def _count(self, step: Step, size: int, clamped: int, sequence: int, loss: float, seconds: float, raw: int) -> None:
        self._counters = Counters(self._counters.samples + step.samples, self._counters.bytes + size)
        self._link.update(
            round=self.round,
            confirmed=self._publisher.confirmed(self.round),
            samples=self._counters.samples,
            bytes=self._counters.bytes,
            loss=loss,
        )
        self._emit(
            FeaturesPublished(
                client=self._id,
                cut=self._cut,
                round=self.round,
                sequence=sequence,
                samples=step.samples,
                correct=step.correct,
                bytes=size,
                raw_bytes=raw,
                loss=step.loss,
                clamped=clamped,
                seconds=seconds,
                window=self._publisher.window,
            )
        )


def _missing(round: int) -> str:
    return f"its state does not reach back to round {round}"
