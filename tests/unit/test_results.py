"""The lines of metrics.jsonl: each written once, when nothing can be added to it any more."""

import json
from pathlib import Path

import pytest

from broker import events
from broker.messages import Score
from coordinator.experiment import load_experiment
from coordinator.results import Results
from coordinator.store.interface import Lease
from coordinator.store.ledger import Kept, Ledger
from coordinator.store.memory import MemoryStore
from coordinator.store.records import LEADER, ClientRecord, Roster, RoundRecord, RunState, StreamClient, StreamPlan, round_key

CLIENTS = ("client-01", "client-02")


class Run:
    """A run of two rounds that are both closed, evaluated after the first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = Ledger(MemoryStore())
        lease = self.ledger.store.acquire(LEADER, "nonce", "coordinator", 3600.0)
        assert lease is not None
        self.lease: Lease = lease
        clients = [StreamClient(id=client, incarnation=1, cut=3) for client in CLIENTS]
        for number in (1, 2):
            record = RoundRecord(
                round=number, phase="closed", streams=[StreamPlan(id=c.id, clients=[c]) for c in clients], opened_at=0.0
            )
            self.ledger.lead(lease, [Kept(round_key(number), record, None).change(record)])
        self.write_roster("active")
        overrides = ("clients.count=2", "clients.cuts=[3]", "training.rounds=3", "training.evaluate_every=1")
        experiment = load_experiment(Path(__file__).parents[2] / "experiments" / "digits.toml", overrides, {})
        self.results = Results(folder, self.ledger, experiment, events.ignore)

    def write_roster(self, state: str) -> None:
        """Write two clients, of which the second is in a state."""
        states = dict(zip(CLIENTS, ("active", state), strict=True))
        clients = {
            client: ClientRecord.model_validate(
                {"id": client, "index": number, "cut": 3, "incarnation": 1, "process": "p", "samples": None, "first_round": 1}
                | {"state": states[client]}
            )
            for number, client in enumerate(CLIENTS)
        }
        self.ledger.lead(self.lease, [self.ledger.roster().change(Roster(clients=clients))])

    def score(self, client: str, correct: int) -> None:
        kept = self.ledger.scores(1)
        score = Score(round=1, samples=10, client_correct=correct, server_correct=correct, server_answered=10)
        record = kept.record.model_copy(update={"clients": {**kept.record.clients, client: score}})
        self.ledger.lead(self.lease, [kept.change(record)])

    def lines(self) -> list[dict]:
        self.results.write(RunState(phase="training", round=3, closed=2))
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_a_line_waits_for_the_scores_of_every_client(run: Run) -> None:
    assert run.lines() == []
    run.score("client-01", 4)
    assert run.lines() == [], "later it would be a mean over more clients"
    run.score("client-02", 8)
    (line,) = run.lines()
    assert (line["round"], line["accuracy"]["3"]["client"]) == (1, pytest.approx(0.6))


def test_a_line_does_not_wait_for_a_client_that_is_gone(run: Run) -> None:
    run.score("client-01", 4)
    run.write_roster("gone")
    (line,) = run.lines()
    assert line["accuracy"]["3"]["client"] == pytest.approx(0.4)
