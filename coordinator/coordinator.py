"""The coordinator: leads a run from its first client to its summary. A second one stands by and takes over."""

import contextlib
import secrets
import threading
import time
from pathlib import Path

from broker.crash_points import Between, crash_point
from broker.errors import BrokerUnavailable
from broker.events import Emit, RoundClosed, RoundOpened, RunStarted, Waiting
from broker.mailbox import Mailbox
from broker.transport import Transport
from coordinator.continuity import Continuity
from coordinator.deadlines import Deadlines
from coordinator.errors import LeaseLost, MissingBlob, RunFailed, StoreUnavailable
from coordinator.experiment import Experiment
from coordinator.membership import Membership
from coordinator.quorum import Quorum
from coordinator.reception import Reception
from coordinator.reporter import Reporter
from coordinator.results import Results
from coordinator.rounds import Rounds
from coordinator.store.interface import Lease, Store
from coordinator.store.lasting import Lasting
from coordinator.store.leader_ledger import LeaderLedger
from coordinator.store.lease_keeper import LeaseKeeper
from coordinator.store.ledger import Kept, Ledger
from coordinator.store.records import LEADER, RoundRecord, RunRecord, RunState
from learning.layers import Network

TICK = 0.2  # seconds between two looks at the store


class Coordinator:
    """Schedules the rounds of one run. ``output``: folder of the results."""

    def __init__(
        self,
        experiment: Experiment,
        record: RunRecord,
        network: Network,
        store: Store,
        transport: Transport,
        output: Path,
        emit: Emit,
    ) -> None:
        self._experiment = experiment
        self._record = record
        self._network = network
        self._ledger = Ledger(store)
        self._transport = transport
        self._output = output
        self._emit = emit
        self._stop = threading.Event()
        self._mailbox = Mailbox()
        self._stands_by = False  # as has been said
        self._seen_going = False  # whether this coordinator has seen the run before it failed
        self._quorum = Quorum(experiment.clients, emit)
        self._told: float | None = None  # time.monotonic at which clients were told of the end
        self._lasting = Lasting(experiment.transport.store_loss_window)
        self._continuity = Continuity(self._ledger, emit)

    def stop(self) -> None:
        """Ask the coordinator to stop; it can be started again. May be called from any thread or signal handler."""
        self._stop.set()
        self._mailbox.post(lambda: None)

    @property
    def turned(self) -> float:
        """Time of ``time.monotonic`` at which its loop last turned."""
        return self._mailbox.turned

    def run(self) -> None:
        """Lead the run to its end, or stand by while another coordinator does.

        Raises RunConflict if a different experiment has this name, RunFailed if the run cannot go on.
        """
        self._record = self._ledger.create_run(self._record)
        self._ledger.store.save()
        crash_point(Between.RUN_AND_LEASE)
        keeper = LeaseKeeper(self._ledger)
        try:
            while not self._stop.is_set() and not self._over():
                self._mailbox.turn()
                try:
                    asked = time.monotonic()
                    lease = self._acquire()
                    if lease is not None:
                        keeper.keep(lease, asked)
                        self._lead(lease, keeper)
                except (StoreUnavailable, BrokerUnavailable) as error:
                    self._wait_for(error)
        finally:
            keeper.close()

    def _over(self) -> bool:
        """Return whether the run is over; raise RunFailed if it failed under another coordinator.

        One that is started anew on a failed run goes on with it.
        """
        try:
            state = self._ledger.state().record
        except StoreUnavailable as error:
            self._wait_for(error)
            return False
        if state.phase != "failed":
            self._seen_going = True
        elif self._seen_going:
            raise RunFailed(f"run {self._record.name!r}: {state.reason}")
        self._continuity.see(state)
        if state.over and self._told is None:
            Results(self._output, self._ledger, self._experiment, self._emit).write_all(state)
        return state.over

    def _wait_for(self, error: Exception) -> None:
        self._emit(Waiting(role="coordinator", what=str(error)))
        self._stop.wait(1.0)

    def _acquire(self) -> Lease | None:
        ttl = self._experiment.transport.lease_seconds
        lease = self._ledger.store.acquire(LEADER, secrets.token_hex(8), "coordinator", ttl)
        if lease is None and not self._stands_by:
            self._emit(Waiting(role="coordinator", what="the coordinator that leads this run"))
        self._stands_by = lease is None
        if lease is None:
            self._stop.wait(ttl / 3)
        return lease

    def _lead(self, lease: Lease, keeper: LeaseKeeper) -> None:
        """Lead until the run is over, another coordinator takes over, or this one is asked to stop."""
        self._leading = ledger = LeaderLedger(self._ledger.store)
        self._rounds = Rounds(ledger, self._experiment, self._network, lease)
        self._members = Membership(ledger, self._experiment, self._record, self._network, lease, self._emit)
        self._deadlines = Deadlines(ledger, self._experiment.clients.round_timeout, self._members.confirmed)
        self._results = Results(self._output, ledger, self._experiment, self._emit)
        self._told = None  # the summary is written, and said, by whoever leads last
        self._reception = Reception(
            self._record.name,
            self._experiment.transport,
            self._members,
            ledger,
            self._transport,
            self._mailbox,
            self._emit,
        )
        self._reporter = Reporter(ledger, self._members, self._reception, self._emit)
        try:
            self._continuity.check(self._record, lease)
            self._go_on()
            self._rounds.initialise()
            self._rounds.sweep()
            crash_point(Between.VERSION_AND_QUEUES)
            self._reception.open()
            self._announce()
            while not self._stop.is_set() and not self._turn():
                keeper.turn()
        except LeaseLost as error:
            self._emit(Waiting(role="coordinator", what=f"the coordinator that leads this run ({error})"))
        finally:
            keeper.let_go()  # first: else a broker that does not answer would leave it renewed, and nobody leading
            with contextlib.suppress(StoreUnavailable):  # it passes by itself
                self._ledger.store.release(lease)
            self._reception.close()

    def _go_on(self) -> None:
        """A run that failed, for want of clients, is taken up again where it was."""
        state = self._leading.state()
        if state.record.phase == "failed":
            phase = "training" if state.record.round else "waiting"
            self._leading.lead(self._rounds.leader, [state.change(state.record.model_copy(update={"phase": phase, "reason": ""}))])

    def _announce(self) -> None:
        state = self._leading.state().record
        self._emit(
            RunStarted(
                run=self._record.name,
                strategy=self._experiment.training.strategy,
                rounds=self._experiment.training.rounds,
                clients=len(self._experiment.clients.roster()),
                resumed_at=state.closed + 1,
            )
        )

    def _turn(self) -> bool:
        """Look at the run and do what is due; return whether it is over."""
        try:
            self._leading.look_anew()
            self._mailbox.handle(TICK)
            self._reception.turn()
            self._reporter.look(self._quorum.lacks)
            state = self._leading.state()
            self._continuity.see(state.record)
            self._results.write(state.record)
            if state.record.phase == "finished":
                return self._lasting.lasts(state.version) and self._end(state)
            self._drop_silent()
            self._step(state)
        except MissingBlob as error:
            if self._leading.store.renew(self._rounds.leader):
                raise
            raise LeaseLost(str(error)) from None  # the store has lost what was being written when it went down
        except (StoreUnavailable, BrokerUnavailable) as error:
            self._wait_for(error)
        return False

    def _step(self, state: Kept[RunState]) -> None:
        if state.record.round == state.record.closed:
            if state.record.closed == self._experiment.training.rounds:
                self._finish(state)
            else:
                self._open(state)
            return
        kept = self._leading.round(state.record.round)
        if kept is None and self._ledger.state() == state:  # else the store was started again between the two, and lost both
            raise RunFailed(f"round {state.record.round} is gone from the store")
        if kept is None:
            return
        if kept.record.phase == "open":
            self._drop_overdue(kept.record)
            self._reporter.turn(kept.record)
            if not self._leading.unfinished(kept.record):
                self._leading.freeze(self._rounds.leader, kept)
                crash_point(Between.FREEZE_AND_AVERAGE)
                self._mailbox.post(lambda: None)  # averaging need not wait for the next tick
        elif kept.record.phase == "frozen":
            self._close(state, kept)

    def _open(self, state: Kept[RunState]) -> None:
        roster = self._leading.roster()
        if not self._quorum.holds(roster.record, first=state.record.closed == 0):
            if self._quorum.why_not:
                self._fail(self._quorum.why_not)
            return
        opened = self._rounds.open(state, roster)
        if opened is not None:
            crash_point(Between.ROUND_AND_OFFERS)
            clients = sum(len(plan.clients) for plan in opened.streams)
            self._emit(RoundOpened(round=opened.round, streams=len(opened.streams), clients=clients, opened_at=opened.opened_at))
            self._reporter.turn(opened)
            self._reception.tell_everyone()

    def _close(self, state: Kept[RunState], kept: Kept[RoundRecord]) -> None:
        closed = self._rounds.close(state, kept)
        if closed is None:
            return
        self._continuity.see(state.record.model_copy(update={"closed": closed.round}))
        self._leading.store.save()
        crash_point(Between.CLOSE_AND_TARGETS)
        tallies = closed.tallies
        self._emit(
            RoundClosed(
                round=closed.round,
                seconds=closed.seconds,
                samples=tallies.samples,
                server_loss=tallies.server_loss,
                server_accuracy=tallies.correct / tallies.samples if tallies.samples else None,
                client_loss=tallies.client_loss,
            )
        )
        state = self._leading.state()
        if closed.round < self._experiment.training.rounds:
            self._open(state)
        else:
            self._reception.tell_everyone()

    def _fail(self, reason: str) -> None:
        state = self._leading.state()
        failed = state.record.model_copy(update={"phase": "failed", "reason": reason})
        self._leading.lead(self._rounds.leader, [state.change(failed)])
        crash_point(Between.FAILURE_AND_TARGETS)
        self._reception.tell_everyone()
        raise RunFailed(f"run {self._record.name!r}: {reason}")

    def _finish(self, state: Kept[RunState]) -> None:
        """End the run when every client still there has reported its scores of the last round."""
        if not self._results.scored(state.record.closed):
            return
        self._leading.lead(self._rounds.leader, [state.change(state.record.model_copy(update={"phase": "finished"}))])
        crash_point(Between.FINISH_AND_RESULTS)

    def _drop_silent(self) -> None:
        for client in self._members.silent() if self._reception.hears else ():
            self._members.give_up(client.id, f"silent for {self._experiment.transport.heartbeat_timeout:g} s", "silent")

    def _drop_overdue(self, round: RoundRecord) -> None:
        for client in self._deadlines.overdue(round):
            self._members.give_up(
                client, f"held up round {round.round} for {self._experiment.clients.round_timeout:g} s", "overdue"
            )

    def _end(self, state: Kept[RunState]) -> bool:
        """Write the results and tell the clients; the run is over when all have heard or have had time enough to."""
        self._members.over = True
        if self._told is None:
            self._results.write_all(state.record)
            self._leading.store.save()
            crash_point(Between.RESULTS_AND_TARGETS)
            self._reception.tell_everyone()
            self._told = time.monotonic()
        late = time.monotonic() - self._told > self._experiment.transport.heartbeat_timeout
        if not (late or self._reception.everyone_left()):
            return False
        crash_point(Between.TARGETS_AND_REMOVAL)
        self._reception.remove_queues()
        crash_point(Between.REMOVAL_AND_OVER)
        self._leading.lead(self._rounds.leader, [state.change(state.record.model_copy(update={"over": True}))])
        self._leading.store.save()
        return True
