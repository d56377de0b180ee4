"""What a run leaves behind: a line for every round, the summary, the final layers, the experiment as run."""

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from broker.crash_points import Between, crash_point
from broker.events import Emit, RoundEvaluated, RunFinished
from coordinator.accuracy import Accuracy, by_client, by_cut
from coordinator.experiment import Experiment
from coordinator.store.ledger import Ledger
from coordinator.store.records import Departure, RoundRecord, RunState, Tallies, VersionRecord
from learning.strategies import group
from learning.tensors import State, fingerprint, pack, unpack


class Results:
    """Writes a run's results into a folder, from what is in the store alone: started again, it writes the same."""

    def __init__(self, folder: Path, ledger: Ledger, experiment: Experiment, emit: Emit) -> None:
        self._folder = folder
        self._ledger = ledger
        self._experiment = experiment
        self._emit = emit
        self._written = 0
        begin_folder(folder, experiment)

    def write(self, state: RunState) -> None:
        """Write the lines of all rounds that are complete."""
        while self._written < state.closed and self._complete(self._written + 1, state):
            self._written += 1
            self._line(self._written)

    def scored(self, round: int) -> bool:
        """Return whether every client that is still there has reported its scores of a round."""
        there = {c.id for c in self._ledger.roster().record.active() if c.first_round <= round}
        return there <= self._ledger.scores(round).record.clients.keys()

    def write_all(self, state: RunState) -> None:
        """Write everything of a run that is over: all lines, the final layers and the summary."""
        self.write(state)
        version = self._ledger.version(self._experiment.training.rounds)
        states = _final_states(version.record, self._ledger.store.get_blob) if version else iter(())
        summary = self._summary(fingerprint(write_layers(self._folder, states)))
        self._describe()
        crash_point(Between.LAYERS_AND_SUMMARY)
        write_json(self._folder / "summary.json", summary)
        self._emit(RunFinished(summary=summary))

    def _describe(self) -> None:
        """Write what the layers are of: with the experiment, all that is needed to use them."""
        run, roster = self._ledger.run(), self._ledger.roster().record
        if run is None:
            return
        streams = group([(client.index, client.id) for client in roster.clients.values()], self._experiment.training)
        stream_of = {client: stream for stream, clients in streams.items() for client in clients}
        clients = sorted(roster.clients.values(), key=lambda client: client.index)
        write_json(
            self._folder / "run.json",
            {
                "sample_shape": run.sample_shape,
                "classes": run.classes,
                "class_names": run.class_names,
                "clients": {client.id: {"cut": client.cut, "stream": stream_of[client.id]} for client in clients},
            },
        )

    def _complete(self, round: int, state: RunState) -> bool:
        evaluated = self._experiment.training.evaluates(round)
        return not evaluated or state.phase in ("finished", "failed") or self.scored(round)

    def _line(self, round: int) -> None:
        kept = self._ledger.round(round)
        if kept is None:
            return
        record, tallies = kept.record, kept.record.tallies
        accuracy = self._accuracy(round) if self._experiment.training.evaluates(round) else None
        line = {
            "round": round,
            "seconds": round_to(record.seconds),
            "samples": tallies.samples,
            "clients": sum(len(plan.clients) for plan in record.streams),
            "streams": len(record.streams),
            "client_loss": tallies.client_loss,
            "server_loss": tallies.server_loss,
            "loss_by_cut": {str(cut): {"client": of.client_loss, "server": of.server_loss} for cut, of in record.by_cut.items()},
            "server_train_accuracy": tallies.correct / tallies.samples if tallies.samples else None,
            "accuracy": accuracy,
            "bytes": tallies.bytes,
            "duplicates_dropped": tallies.duplicates,
            "refused": tallies.refused,
        }
        with (self._folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        if accuracy is not None:
            self._emit(RoundEvaluated(round=round, accuracy=accuracy))

    def _accuracy(self, round: int) -> Accuracy:
        return by_cut(self._ledger.scores(round).record, self._ledger.roster().record)

    def _rounds(self) -> Iterator[RoundRecord]:
        for number in range(1, self._experiment.training.rounds + 1):
            kept = self._ledger.round(number)
            if kept is not None:
                yield kept.record

    def _summary(self, digest: str) -> dict[str, object]:
        rounds = list(self._rounds())
        run = self._ledger.run()
        totals = sum((record.tallies for record in rounds), Tallies())
        seconds = sum(record.seconds for record in rounds)
        training = self._experiment.training
        roster = self._ledger.roster().record
        return {
            "run": self._experiment.name,
            "strategy": training.strategy if training.streams is None else f"streams = {training.streams}",
            "rounds": len(rounds),
            "clients": len(roster.clients),
            "samples_trained": totals.samples,
            "samples_dropped": totals.dropped_samples,
            "seconds": round_to(seconds),
            "samples_per_second": round_to(totals.samples / seconds) if seconds else None,
            "bytes_published": totals.bytes,
            "parameters_sha256": digest,
            "accuracy": self._accuracy(training.rounds),
            "accuracy_by_client": by_client(self._ledger.scores(training.rounds).record),
            "samples_discarded": totals.discarded_samples,
            "dropouts": [self._dropout(departure) for departure in roster.departures],
            "duplicates_dropped": totals.duplicates,
            "refused": totals.refused,
            "divergent_replay": totals.divergent,
            "store_rollbacks": [rollback.model_dump() for rollback in self._ledger.state().record.rollbacks],
            "fingerprint": self._experiment.fingerprint(),
            "versions": run.versions if run else {},
        }

    def _dropout(self, departure: Departure) -> dict[str, object]:
        """Return who left, when and why, and how many batches of its last round count; None: it took no part in one."""
        kept = self._ledger.round(departure.round)
        closings = kept.record.closings if kept else []
        mine = (c for c in closings if (c.client, c.incarnation) == (departure.client, departure.incarnation))
        closing = next(mine, None)
        at = datetime.fromtimestamp(departure.at, UTC).isoformat(timespec="seconds")
        return {**departure.model_dump(), "at": at, "batches_kept": closing.batches if closing else None}


def begin_folder(folder: Path, experiment: Experiment) -> None:
    """Make the folder of a run's results, with its experiment, without a summary, and no round in its metrics yet."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").unlink(missing_ok=True)
    (folder / "metrics.jsonl").write_text("")
    (folder / "experiment.json").write_text(json.dumps(json.loads(experiment.to_json()), indent=2) + "\n")


def write_layers(folder: Path, states: Iterable[tuple[str, State]]) -> Iterator[tuple[str, State]]:
    """Write each named state to a file on its way: there may be more of them than fit in memory."""
    layers = folder / "layers"
    layers.mkdir(exist_ok=True)
    for name, state in states:
        (layers / f"{name}.safetensors").write_bytes(pack(state))
        yield name, state


def round_to(value: float) -> float:
    """Return a measured figure without digits that mean nothing."""
    return float(f"{value:.4g}")


def _final_states(version: VersionRecord, blob: Callable[..., bytes]) -> Iterator[tuple[str, State]]:
    """Yield the final layers by name in a fixed order: the servers' (shared, or by replica), then the clients' halves."""
    if version.replicas:
        for stream, layers in sorted(version.replicas.items()):
            for number, ref in sorted(layers.items()):
                yield f"server-{stream}-layer{number}", unpack(blob(ref))
    else:
        for number, ref in sorted(version.layers.items()):
            yield f"server-layer{number}", unpack(blob(ref))
    for client, ref in sorted(version.halves.items()):
        yield f"client-{client}", unpack(blob(ref))


def write_json(path: Path, value: object) -> None:
    """Write JSON so that after a crash the file is either the old one or the new one, whole."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, indent=2) + "\n")
    part.replace(path)
