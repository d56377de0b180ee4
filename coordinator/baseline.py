"""The baselines: whole networks, trained without servers. alone: one a client, on its part of the data; centralized: one, on all.

A whole network is a server half from layer 1, which samples enter at cut 0: it has the server optimizer, and the same initial
layers, batches, augmentation and evaluation as the networks that clients and servers train between them.
"""

import time
from collections.abc import Mapping
from pathlib import Path

import torch

from broker.events import Emit, NetworkStep, RoundClosed, RoundOpened, RunStarted
from coordinator.baseline_results import ALL, BaselineResults, cuts_of
from coordinator.baseline_state import BaselineState, ClosedRound, Trained
from coordinator.errors import StoreError
from coordinator.experiment import Experiment
from coordinator.store.records import RunRecord, Tallies
from learning.data import ClientData, Dataset, evaluation_batches
from learning.errors import LearningError, TensorError
from learning.halves import ServerHalf, Step
from learning.layers import Network

_BATCH = 100  # test samples at once


def parts_of(experiment: Experiment) -> int:
    """Return into how many parts a run's training data is divided; 0: it is not."""
    return 0 if experiment.training.strategy == "centralized" else len(experiment.clients.roster())


class Baseline:
    """Trains the networks of a run one after another, round by round, and writes its results.

    One network is in memory at a time: between its rounds each is on disk, with its optimizer's state. An interrupted run goes
    on after the last round of a network that was completed, with the same bits.
    """

    def __init__(
        self,
        experiment: Experiment,
        record: RunRecord,
        network: Network,
        dataset: Dataset,
        parts: list[torch.Tensor],
        output: Path,
        emit: Emit,
    ) -> None:
        """Take a resolved experiment. parts: indices into the training data by client; empty for centralized."""
        self._experiment = experiment
        self._training = experiment.training
        self._record = record
        self._network = network
        self._dataset = dataset
        self._parts = self._by_network(parts)
        self._output = output
        self._emit = emit

    def run(self) -> None:
        """Train all rounds that are left and write the results.

        Raises LearningError if a network diverges or data cannot be read, CoordinatorError if the folder cannot be used.
        """
        self._state = BaselineState(self._output / "state", self._record.name, self._record.fingerprint)
        try:
            results = BaselineResults(self._output, self._experiment, self._record, self._emit)
            first = len(self._state.rounds) + 1
            self._announce(first)
            for closed in self._state.rounds:
                results.line(closed)
            for number in range(first, self._training.rounds + 1):
                results.line(self._train_round(number))
            results.write_all(self._state.rounds, ((name, self._final(name)) for name in self._parts))
        finally:
            self._state.close()

    def _by_network(self, parts: list[torch.Tensor]) -> Mapping[str, torch.Tensor]:
        if self._training.strategy == "centralized":
            return {ALL: torch.arange(len(self._dataset.train))}
        return dict(zip((entry.id for entry in self._experiment.clients.roster()), parts, strict=True))

    def _announce(self, first: int) -> None:
        self._emit(
            RunStarted(
                run=self._record.name,
                strategy=self._training.strategy,
                rounds=self._training.rounds,
                clients=len(self._parts),
                resumed_at=first,
            )
        )

    def _train_round(self, round: int) -> ClosedRound:
        self._emit(RoundOpened(round=round, streams=0, clients=len(self._parts), opened_at=time.time()))
        trained = {name: self._trained(name, round) or self._train(name, round) for name in self._parts}
        tallies = sum((one.tallies for one in trained.values()), Tallies())
        accuracy = {name: one.right / one.tested for name, one in trained.items() if one.tested}
        by_cut: dict[str, Tallies] = {}
        for name, cut in cuts_of(self._experiment).items():
            by_cut[cut] = by_cut.get(cut, Tallies()) + trained[name].tallies
        seconds = sum(one.seconds for one in trained.values())
        closed = ClosedRound(round=round, seconds=seconds, tallies=tallies, by_cut=by_cut, accuracy=accuracy)
        self._state.close_round(closed)
        self._emit(
            RoundClosed(
                round=round,
                seconds=closed.seconds,
                samples=tallies.samples,
                server_loss=tallies.server_loss,
                server_accuracy=tallies.correct / tallies.samples if tallies.samples else None,
                client_loss=None,
            )
        )
        return closed

    def _trained(self, name: str, round: int) -> Trained | None:
        """Return what a network's round amounted to if an earlier process has completed it."""
        last = self._state.trained(name)
        if (last.round if last else 0) not in (round - 1, round):
            raise StoreError(
                f"{self._output / 'state'} is damaged: network {name} is not at round {round}, where the run is; "
                "delete the run's folder to train it anew"
            )
        return last if last and last.round == round else None

    def _train(self, name: str, round: int) -> Trained:
        data = ClientData(self._dataset, self._parts[name], self._experiment.data, self._training, name)
        half = ServerHalf(self._network, 1, self._training)
        self._state.load(name, half, optimizer=self._training.optimizer_state == "keep")
        half.begin_round(round)
        began = time.monotonic()
        loss_sum, samples, correct = 0.0, 0, 0
        for sequence in range(data.batches_in_round()):
            step = self._step(half, data, name, round, sequence)
            loss_sum, samples, correct = loss_sum + step.loss * step.samples, samples + step.samples, correct + step.correct
            self._progress(name, round, sequence + 1, data.batches_in_round())
        seconds = time.monotonic() - began
        tallies = Tallies(samples=samples, loss_sum=loss_sum, correct=correct, dropped_samples=data.dropped_in_round())
        tested, right = self._test(half, round) if self._training.evaluates(round) else (0, 0)
        trained = Trained(round=round, seconds=seconds, tallies=tallies, tested=tested, right=right)
        self._state.save(name, half, trained)
        return trained

    def _step(self, half: ServerHalf, data: ClientData, name: str, round: int, sequence: int) -> Step:
        images, labels = data.batch(round, sequence)
        try:
            return half.step(images, labels, 0, (name, round, sequence))
        except TensorError as error:
            raise LearningError(
                f"network {name} diverges in round {round}, batch {sequence}: {error}; "
                f"lower training.server.lr, now {self._training.server.lr:g}, or look at its data"
            ) from None

    def _progress(self, name: str, round: int, batches: int, of: int) -> None:
        place = list(self._parts).index(name) + 1
        self._emit(NetworkStep(round=round, network=name, place=place, networks=len(self._parts), batches=batches, of=of))

    def _test(self, half: ServerHalf, round: int) -> tuple[int, int]:
        """Return how many test samples were tried, all of them after the last round, and how many the network gets right."""
        tested = right = 0
        whole = round == self._training.rounds
        for images, labels in evaluation_batches(self._dataset, self._experiment.data, self._training.seed, _BATCH, whole):
            right += int((half.predict(images, 0).argmax(dim=1) == labels).sum())
            tested += len(labels)
        return tested, right

    def _final(self, name: str) -> dict[str, torch.Tensor]:
        return self._state.layers(name, ServerHalf(self._network, 1, self._training))
