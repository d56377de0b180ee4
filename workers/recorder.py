"""Recording: every client of a finished run and its servers answer the test split, in this process."""

import math
import statistics
import time
from collections.abc import Callable

import torch

from broker.messages import ITEM_SIZES
from learning.data import Dataset, evaluation_batches
from learning.exit_rule import entropy
from learning.halves import ClientHalf, ServerHalf
from learning.records import Records
from learning.strategies import averaged
from learning.sweep import Costs
from workers.features import from_wire, to_wire
from workers.trained_run import TrainedRun

Advance = Callable[[int, int], None]  # is told how many of how many answers are recorded
_Answers = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # the exit's labels and the servers', the exit's entropies


class Recorder:
    """Takes answers as the run's own evaluation does, in the same batches and over the wire dtype, and the time they take."""

    def __init__(self, run: TrainedRun, dataset: Dataset, limit: int | None, advance: Advance) -> None:
        """limit: of the test split that seeded random subset only."""
        self._run = run
        self._dataset = dataset
        self._data = run.settings.data.model_copy(update={"test_limit": limit})
        self._advance = advance
        self._done = 0
        self._seconds: dict[int, list[tuple[float, float]]] = {cut: [] for cut in run.cuts()}  # a sample, of each batch
        self._shared: ServerHalf | None = None

    def record(self, samples: torch.Tensor, labels: torch.Tensor) -> Records:
        """Return the answers of all clients; samples and labels: int64 (samples,), what is asked.

        Raises DataError if a sample cannot be read, RunFolderError or TensorError if layers or features are not as they should be.
        """
        rows = [self._row(client, len(samples)) for client in self._run.clients]
        predicted, server_predicted, entropies = (torch.stack(column) for column in zip(*rows, strict=True))
        cuts = tuple(member.cut for member in self._run.clients.values())
        return Records(cuts, samples, labels, predicted, server_predicted, entropies)

    def costs(self) -> dict[int, Costs]:
        """Return what a sample costs at each cut: of seconds the median over batches, because the first ones are slower."""
        item = ITEM_SIZES[self._run.settings.wire_dtype]
        found = {}
        for cut, seconds in self._seconds.items():
            client_seconds, server_seconds = (statistics.median(column) for column in zip(*seconds, strict=True))
            found[cut] = Costs(math.prod(self._run.network.feature_shape(cut)) * item, client_seconds, server_seconds)
        return found

    def _row(self, client: str, samples: int) -> _Answers:
        settings, cut = self._run.settings, self._run.member(client).cut
        half, server = self._run.client_half(client), self._server(client)
        most = settings.request_samples(self._run.network.feature_shape(cut))
        answers = []
        for images, _ in evaluation_batches(self._dataset, self._data, settings.training.seed, most, whole=False):
            answers.append(self._answer(half, server, images))
            self._done += len(images)
            self._advance(self._done, samples * len(self._run.clients))
        predicted, server_predicted, entropies = (torch.cat(column) for column in zip(*answers, strict=True))
        return predicted, server_predicted, entropies

    def _answer(self, half: ClientHalf, server: ServerHalf, images: torch.Tensor) -> _Answers:
        began = time.perf_counter()
        logits, features = half.evaluate(images)
        client_seconds = time.perf_counter() - began
        wire, _ = to_wire(features, self._run.settings.wire_dtype)
        received = from_wire(wire)
        began = time.perf_counter()
        probabilities = server.predict(received, half.cut)
        server_seconds = time.perf_counter() - began
        self._seconds[half.cut].append((client_seconds / len(images), server_seconds / len(images)))
        return logits.argmax(dim=1), probabilities.argmax(dim=1), entropy(logits)

    def _server(self, client: str) -> ServerHalf:
        """Return the layers that answer a client, loaded once where all clients share them."""
        if not averaged(self._run.settings.training):
            return self._run.server_half(client)
        self._shared = self._shared or self._run.server_half(client)
        return self._shared
