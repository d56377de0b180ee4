"""What a baseline leaves behind: the same files as a run with servers, as far as they apply; what does not apply is null."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from broker.events import Emit, RoundEvaluated, RunFinished
from coordinator.accuracy import Accuracy, mean_by
from coordinator.baseline_state import ClosedRound
from coordinator.experiment import Experiment
from coordinator.results import begin_folder, round_to, write_json, write_layers
from coordinator.store.records import RunRecord, Tallies
from learning.tensors import State, fingerprint

WHERE = "network"  # accuracy is that of whole networks, at their end
ALL = "all"  # the one network of centralized: its batches are drawn as those of a client of this name


def cuts_of(experiment: Experiment) -> dict[str, str]:
    """Return the cut under which each network's figures are told, lowest first; "all" of one for all clients."""
    if experiment.training.strategy == "centralized":
        return {ALL: ALL}
    return {entry.id: str(entry.cut) for entry in sorted(experiment.clients.roster(), key=lambda entry: entry.cut)}


class BaselineResults:
    """Writes a baseline's results into a folder; started again, it writes the same."""

    def __init__(self, folder: Path, experiment: Experiment, record: RunRecord, emit: Emit) -> None:
        self._folder = folder
        self._experiment = experiment
        self._record = record
        self._emit = emit
        begin_folder(folder, experiment)

    def line(self, closed: ClosedRound) -> None:
        """Write the line of a round."""
        tallies = closed.tallies
        accuracy = self._by_cut(closed) if closed.accuracy else None
        line = {
            "round": closed.round,
            "seconds": round_to(closed.seconds),
            "samples": tallies.samples,
            "clients": self._networks,
            "streams": None,
            "client_loss": None,
            "server_loss": tallies.server_loss,
            "loss_by_cut": {cut: {WHERE: of.server_loss} for cut, of in closed.by_cut.items()},
            "server_train_accuracy": tallies.correct / tallies.samples if tallies.samples else None,
            "accuracy": accuracy,
            "bytes": None,
            "duplicates_dropped": None,
            "refused": None,
        }
        with (self._folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        if accuracy is not None:
            self._emit(RoundEvaluated(round=closed.round, accuracy=accuracy))

    def write_all(self, rounds: Sequence[ClosedRound], networks: Iterable[tuple[str, State]]) -> None:
        """Write the final layers, by network, and the summary."""
        digest = fingerprint(write_layers(self._folder, self._named(networks)))
        summary = self._summary(rounds, digest)
        write_json(self._folder / "run.json", self._description())
        write_json(self._folder / "summary.json", summary)
        self._emit(RunFinished(summary=summary))

    @property
    def _cuts(self) -> dict[str, int]:
        """Cuts by network; none where one network is trained for all clients."""
        whole = self._experiment.training.strategy == "centralized"
        return {} if whole else {entry.id: entry.cut for entry in self._experiment.clients.roster()}

    @property
    def _networks(self) -> int:
        return len(self._cuts) or 1

    def _named(self, networks: Iterable[tuple[str, State]]) -> Iterator[tuple[str, State]]:
        for name, state in networks:
            yield f"network-{name}", state

    def _by_cut(self, closed: ClosedRound) -> Accuracy:
        return mean_by(self._by_network(closed), cuts_of(self._experiment))

    def _by_network(self, closed: ClosedRound) -> Accuracy:
        return {name: {WHERE: share} for name, share in closed.accuracy.items()}

    def _description(self) -> dict[str, object]:
        return {
            "sample_shape": self._record.sample_shape,
            "classes": self._record.classes,
            "class_names": self._record.class_names,
            "clients": {name: {"cut": cut} for name, cut in self._cuts.items()},
        }

    def _summary(self, rounds: Sequence[ClosedRound], digest: str) -> dict[str, object]:
        totals = sum((closed.tallies for closed in rounds), Tallies())
        seconds = sum(closed.seconds for closed in rounds)
        last = rounds[-1]
        return {
            "run": self._experiment.name,
            "strategy": self._experiment.training.strategy,
            "rounds": len(rounds),
            "clients": self._networks,
            "samples_trained": totals.samples,
            "samples_dropped": totals.dropped_samples,
            "seconds": round_to(seconds),
            "samples_per_second": round_to(totals.samples / seconds) if seconds else None,
            "bytes_published": None,
            "parameters_sha256": digest,
            "accuracy": self._by_cut(last),
            "accuracy_by_client": self._by_network(last),
            "samples_discarded": None,
            "dropouts": [],
            "duplicates_dropped": None,
            "refused": None,
            "divergent_replay": None,
            "store_rollbacks": [],
            "fingerprint": self._experiment.fingerprint(),
            "versions": self._record.versions,
        }
