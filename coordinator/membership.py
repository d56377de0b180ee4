"""Who takes part: admits clients, gives up those that fall silent, and tells each what it must know."""

import sys
import time
from dataclasses import dataclass, field

from broker.crash_points import Between, crash_point
from broker.events import ClientDropped, DropoutKind, Emit
from broker.messages import Heartbeat, Join, Leave, Refusal, Score, Target, Welcome
from coordinator.experiment import Experiment
from coordinator.store.interface import Lease
from coordinator.store.ledger import Ledger
from coordinator.store.records import ClientRecord, Departure, Roster, RunRecord, RunState
from learning.errors import ModelError
from learning.layers import Network


@dataclass
class _Heard:
    """The last that was heard of a client. ``at``: this process's monotonic clock."""

    at: float
    samples: int = 0
    bytes: int = 0
    loss: float | None = None
    round: int = 0
    confirmed: int = 0


@dataclass
class Membership:
    """The roster in the store, and what this coordinator has heard since it leads."""

    ledger: Ledger
    experiment: Experiment
    record: RunRecord
    network: Network
    leader: Lease
    emit: Emit
    listening_since: float = field(default_factory=time.monotonic)
    over: bool = False  # the run's end cannot be lost any more: clients may go
    _heard: dict[str, _Heard] = field(default_factory=dict)

    def join(self, message: Join) -> Welcome | Refusal | None:
        """Admit a client, or say why not; None: it should ask again later."""
        problem = self._problem(message)
        if problem:
            return Refusal(client=message.client, process=message.process, reason=problem)
        self._heard[message.client] = _Heard(time.monotonic())
        kept = self.ledger.roster()
        known = kept.record.clients.get(message.client)
        if known and (known.state == "active" or (known.state == "left" and message.incarnation == known.incarnation)):
            if message.process == known.process or (message.incarnation == known.incarnation and not message.lost):
                return self._welcome(self._update(known, process=message.process) or known, message.process)
            if message.incarnation and message.incarnation < known.incarnation:
                reason = "another process has joined under this id; stop one of them"
                return Refusal(client=message.client, process=message.process, reason=reason)
            self.give_up(known.id, message.lost or _why_another(message, known))
            return None
        state = self.ledger.state().record
        if state.phase in ("finished", "failed"):
            return Refusal(client=message.client, process=message.process, reason=f"run {self.record.name!r} is {state.phase}")
        if known and known.state == "closing" and known.first_round <= state.round != state.closed:
            return None  # its stream in the open round is being closed
        admitted = self._admit(kept.record, message, known, state)
        return self._welcome(admitted, message.process) if self._write(kept.record, admitted) else None

    def hear(self, message: Heartbeat) -> Target | Refusal | None:
        """Take a heartbeat; return what the client must know."""
        roster = self.ledger.roster().record
        known = roster.clients.get(message.client)
        if known is None or known.state == "gone" or message.incarnation != known.incarnation:
            reason = (known.reason if known else "") or "not known here"
            return Refusal(client=message.client, process=message.process, reason=reason)
        if known.process != message.process:
            if time.monotonic() - self._last(known.id) < self.experiment.transport.heartbeat_timeout / 2:
                return None
            known = self._update(known, process=message.process) or known  # the store has lost that this one took over
        self._heard[message.client] = _Heard(
            time.monotonic(), message.samples, message.bytes, message.loss, message.round, message.confirmed
        )
        self._record_scores(known, message.scores)
        return self.target(known, message.number)

    def give_up(self, client: str, reason: str, kind: DropoutKind = "replaced") -> None:
        """End a client's part: its stream closes it where its queue ends, and the next round goes without it."""
        kept = self.ledger.roster()
        known = kept.record.clients[client]
        if known.state != "active":
            return
        state = self.ledger.state().record
        taking_part = state.round > state.closed and known.first_round <= state.round
        left = known.model_copy(update={"state": "closing" if taking_part else "gone", "reason": reason})
        departure = Departure(
            client=client, cut=known.cut, incarnation=known.incarnation, round=state.round, reason=reason, at=time.time()
        )
        changed = Roster(clients={**kept.record.clients, client: left}, departures=[*kept.record.departures, departure])
        if self.ledger.lead(self.leader, [kept.change(changed)]):
            crash_point(Between.DEPARTURE_AND_CLOSING)
            self.emit(ClientDropped(client=client, round=state.round, reason=reason, kind=kind))

    def leave(self, message: Leave) -> None:
        """A client has heard the end of the run."""
        roster = self.ledger.roster().record
        known = roster.clients.get(message.client)
        finished = self.ledger.state().record.phase == "finished"
        if known and finished and (known.state, known.incarnation) == ("active", message.incarnation):
            self._write(roster, known.model_copy(update={"state": "left"}))

    def silent(self) -> list[ClientRecord]:
        """Return clients not heard of for a whole time-out, in which this coordinator was listening."""
        now = time.monotonic()
        timeout = self.experiment.transport.heartbeat_timeout
        if now - self.listening_since <= timeout:
            return []
        return [client for client in self.ledger.roster().record.active() if now - self._last(client.id) > timeout]

    def quiet(self, seconds: float) -> dict[str, float]:
        """Return clients that take part and were not heard for so long, each with when it last was, in seconds since the epoch."""
        now, clock = time.monotonic(), time.time()
        ages = {client.id: now - self._last(client.id) for client in self.ledger.roster().record.active()}
        return {client: clock - age for client, age in ages.items() if age > seconds}

    def listening_again(self) -> None:
        """The coordinator was cut off: its own silence is not the clients'."""
        self.listening_since = time.monotonic()

    def target(self, client: ClientRecord, answers: int = 0) -> Target:
        """Return everything that a client must know now. answers: number of the heartbeat that asks, 0 if none does."""
        state = self.ledger.state().record
        position = (state.closed + 1, 0)
        if state.round > state.closed:
            progress = self._progress(state.round, client)
            position = (state.round, progress)
        return Target(
            client=client.id,
            incarnation=client.incarnation,
            round=self._target_round(state),
            closed=state.closed,
            durable_round=position[0],
            durable_sequence=position[1],
            recorded=self._recorded(state, client),
            finished=state.phase == "failed" or (state.phase == "finished" and self.over),
            answers=answers,
        )

    def heard_samples(self) -> int:
        """Return samples trained by clients, as far as heard."""
        return sum(heard.samples for heard in self._heard.values())

    def confirmed(self, client: str, round: int) -> int:
        """Return the sequence of a round before which the broker has everything of a client, as far as heard."""
        heard = self._heard.get(client)
        if heard is None or heard.round < round:
            return 0
        return heard.confirmed if heard.round == round else sys.maxsize

    def heard_loss(self, round: int) -> float | None:
        """Return the mean local loss in a round, as far as heard."""
        losses = [heard.loss for heard in self._heard.values() if heard.round == round and heard.loss is not None]
        return sum(losses) / len(losses) if losses else None

    def _last(self, client: str) -> float:
        heard = self._heard.get(client)
        return max(heard.at if heard else 0.0, self.listening_since)

    def _problem(self, message: Join) -> str:
        clients = self.experiment.clients
        if message.run_id not in ("", self.record.id):
            return "its state is of an earlier run of that name; use another --state folder"
        if not clients.open:
            expected = {entry.id: entry.cut for entry in clients.roster()}
            if message.client not in expected:
                return f"client {message.client!r} is not in the experiment's list of clients"
            if expected[message.client] != message.cut:
                return f"cut {message.cut}, but the experiment has this client at cut {expected[message.client]}"
        try:
            self.network.check_cut(message.cut)
        except ModelError as error:
            return str(error)
        return ""

    def _admit(self, roster: Roster, message: Join, known: ClientRecord | None, state: RunState) -> ClientRecord:
        listed = [entry.id for entry in self.experiment.clients.roster()]
        index = known.index if known else (listed.index(message.client) if listed else len(roster.clients))
        return ClientRecord(
            id=message.client,
            index=index,
            cut=message.cut,
            incarnation=max(known.incarnation if known else 0, message.incarnation or 0) + 1,  # the store may have lost some
            process=message.process,
            samples=message.samples,
            first_round=state.round + 1,
        )

    def _write(self, roster: Roster, client: ClientRecord) -> bool:
        kept = self.ledger.roster()
        if kept.record != roster:
            return False
        changed = roster.model_copy(update={"clients": {**roster.clients, client.id: client}})
        return self.ledger.lead(self.leader, [kept.change(changed)])

    def _update(self, client: ClientRecord, **changes: object) -> ClientRecord | None:
        changed = client.model_copy(update=changes)
        return changed if self._write(self.ledger.roster().record, changed) else None

    def _welcome(self, client: ClientRecord, process: str) -> Welcome:
        parts = len(self.experiment.clients.roster())
        return Welcome(
            client=client.id,
            process=process,
            incarnation=client.incarnation,
            cut=client.cut,
            part=client.index if parts else 0,
            parts=parts,
            first_round=client.first_round,
            sample_shape=self.record.sample_shape,
            classes=self.record.classes,
            experiment=self.record.experiment,
            fingerprint=self.record.fingerprint,
            run_id=self.record.id,
        )

    def _target_round(self, state: RunState) -> int:
        """Return the round up to which clients may train: not past the next evaluation, nor while the run is paused."""
        if state.phase != "training" or state.round == state.closed:
            return state.closed
        training = self.experiment.training
        if training.average == "all":  # the next round starts from what this one's end averages
            return state.round
        return min(-(-state.round // training.evaluate_every) * training.evaluate_every, training.rounds)

    def _progress(self, round: int, client: ClientRecord) -> int:
        kept = self.ledger.round(round)
        plan = kept.record.plan_of(client.id) if kept else None
        stream = self.ledger.stream(round, plan.id) if plan else None
        progress = stream.record.clients.get(client.id) if stream else None
        return progress.sequence if progress else 0

    def _recorded(self, state: RunState, client: ClientRecord) -> int:
        training = self.experiment.training
        last = state.closed if state.closed == training.rounds else state.closed - state.closed % training.evaluate_every
        return last if last and client.id in self.ledger.scores(last).record.clients else 0

    def _record_scores(self, client: ClientRecord, scores: tuple[Score, ...]) -> None:
        if not scores:  # as nearly always: no look at the store
            return
        closed = self.ledger.state().record.closed
        for score in scores:
            if score.round > closed or not self.experiment.training.evaluates(score.round):
                continue
            kept = self.ledger.scores(score.round)
            if client.id not in kept.record.clients:
                clients = {**kept.record.clients, client.id: score}
                self.ledger.lead(self.leader, [kept.change(kept.record.model_copy(update={"clients": clients}))])
                crash_point(Between.SCORES_AND_ANSWER)


def _why_another(message: Join, known: ClientRecord) -> str:
    if message.incarnation and message.incarnation > known.incarnation:
        return "the store has lost that it had joined again"
    return "its state was lost, or a second process runs under its id"
