"""The client: trains its half on its own data, publishes features, and never waits for a gradient."""

import threading
import time
from contextlib import AbstractContextManager, nullcontext

from broker.crash_points import Between, crash_point
from broker.errors import BrokerUnavailable, UnknownQueue
from broker.events import Emit, Waited, Waiting
from broker.mailbox import Mailbox
from broker.messages import Acknowledgement, Join, Message, Prediction, Refusal, Score, Target, Welcome
from broker.transport import Transport
from learning.errors import SettingsError, TensorError
from learning.layers import build_network
from workers.aim import Aim
from workers.averaged_halves import AveragedHalves
from workers.batches import half_bytes
from workers.client_data import LocalNames, load_client_data, local_settings
from workers.client_state import ClientState, Identity
from workers.context import Stopped
from workers.evaluation import Evaluator, VersionGone
from workers.link import Link
from workers.local_training import LocalTraining, Lost
from workers.publisher import Publisher
from workers.run_settings import RunSettings
from workers.tally import Tally

WAIT_SECONDS = 0.5
SCORES_KEPT = 2  # of the last evaluated rounds: a store that lost its last writes may ask again


class _Rejoin(Exception):
    """The coordinator has given this client up: it may take part again from a later round."""


class _Rewind(Exception):
    """The servers ask for something again: start from the snapshot of that round."""


class ClientWorker:
    """One client of a run. ``transport`` carries bulk data, ``control`` heartbeats and answers.

    slot: held during each training step, where several clients share a machine's cores.
    """

    def __init__(
        self,
        run: str,
        client: str,
        cut: int,
        transport: Transport,
        control: Transport,
        state: ClientState,
        names: LocalNames,
        emit: Emit,
        slot: AbstractContextManager[object] | None = None,
    ) -> None:
        self._run_name = run
        self._id = client
        self._cut = cut
        self._transport = transport
        self._control = control
        self._state = state
        self._names = names
        self._emit = self._tally = Tally(emit)
        self._slot = slot or nullcontext()
        self._stop = threading.Event()
        self._mailbox = Mailbox()
        self._heard = Aim()
        self._rewind: tuple[int, int] | None = None
        self._given_up = ""
        self._incarnation = 0  # not admitted yet
        self._scores: dict[int, Score] = {}
        self._averaged: AveragedHalves | None = None  # where halves are averaged

    def stop(self) -> None:
        """Ask the client to stop; it can be started again. May be called from any thread or signal handler."""
        self._stop.set()
        self._mailbox.post(lambda: None)

    @property
    def turned(self) -> float:
        """Time of ``time.monotonic`` at which its loop last turned."""
        return self._mailbox.turned

    def run(self) -> None:
        """Take part until the run is finished or the client is asked to stop.

        Raises SettingsError if the coordinator refuses it, LearningError if model or data do not fit.
        """
        self._link = Link(self._run_name, self._id, self._control, self._mailbox, self._emit, self._tally.counts)
        try:
            self._join()
            while not self._finished():
                self._advance()
            crash_point(Between.END_AND_LEAVE)
            self._link.leave()
        except Stopped:
            return
        finally:
            if self._averaged is not None:
                self._averaged.close()
            self._link.close()
            self._state.close()

    def _join(self, lost: str = "") -> None:
        """Join, for the first time or again, and go to where training has to go on.

        lost: why the incarnation there is cannot go on, where it cannot.
        """
        self._given_up, self._rewind, self._heard = "", None, Aim(self._link.number)
        identity = self._state.of(self._run_name, self._id, self._cut)
        known = identity.incarnation if identity else self._incarnation or None
        message = Join(
            client=self._id,
            cut=self._cut,
            incarnation=known,
            process=self._state.applicant(),
            samples=None,
            run_id=identity.run_id if identity else "",
            lost=lost,
        )
        welcome = self._link.join(message, self._stop)
        if isinstance(welcome, Refusal):
            raise SettingsError(f"client {self._id}: {welcome.reason}")
        settings = local_settings(RunSettings.from_json(welcome.experiment), self._names)
        crash_point(Between.WELCOME_AND_IDENTITY)
        self._state.claim(Identity(settings.run, welcome.fingerprint, self._id, self._cut, welcome.incarnation, welcome.run_id))
        if known != welcome.incarnation:
            self._state.begin(welcome.first_round)
        crash_point(Between.IDENTITY_AND_DATA)
        self._link.start(welcome.incarnation, settings.transport.heartbeat_interval)  # reading its data may take long
        self._prepare(welcome, settings)
        self._link.handlers = {
            Target: self._hear,
            Acknowledgement: self._hear,
            Prediction: self._evaluator.answered,
            Refusal: self._hear,
        }
        target = self._first_target()
        if target is None:
            self._join_again(self._given_up)
        else:
            self._start(max(self._first_round, target.closed + 1))

    def _first_target(self) -> Target | None:
        """Wait for the coordinator's first word; None: it has given this client up."""
        while self._heard.target is None:
            if self._given_up:
                return None
            if self._stop.is_set():
                raise Stopped
            self._mailbox.handle(WAIT_SECONDS)
        return self._heard.target

    def _join_again(self, why: str, lost: str = "") -> None:
        self._emit(Waiting(role=self._id, what=f"the next round to take part again: {why}"))
        crash_point(Between.REFUSAL_AND_REJOIN)
        self._join(lost)

    def _prepare(self, welcome: Welcome, settings: RunSettings) -> None:
        self._settings = settings
        self._incarnation = welcome.incarnation
        self._dataset, data = load_client_data(settings, welcome)
        self._network = build_network(settings.model, tuple(welcome.sample_shape), welcome.classes, settings.training.seed)
        self._first_round = welcome.first_round
        self._publisher = Publisher(self._transport, settings, self._id, welcome.incarnation, self._mailbox, self._turn, self._emit)
        self._training = LocalTraining(
            settings, welcome, self._network, self._cut, data, self._state, self._publisher, self._link, self._slot, self._emit
        )
        self._evaluator = Evaluator(self._transport, settings, self._id, self._turn)

    def _start(self, round: int) -> None:
        try:
            self._training.start(round)
        except Lost as error:
            self._join(lost=str(error))

    def _finished(self) -> bool:
        return self._heard.target is not None and self._heard.target.finished

    def _advance(self) -> None:
        """Do the next thing: take an averaged half, report scores, train a round, or wait for the target to move."""
        target = self._heard.target
        assert target is not None
        try:
            if self._to_align(target):
                self._align(target.closed)
            elif self._to_evaluate(target):
                self._evaluate(target.closed)
            elif self._training.round <= target.round:
                self._training.train()
            else:
                self._await_round()
        except _Rewind:
            self._go_back()
        except _Rejoin:
            self._join_again(self._given_up)

    def _await_round(self) -> None:
        began = time.monotonic()
        try:
            self._turn(WAIT_SECONDS)
        finally:
            self._emit(Waited(role=self._id, awaited="round", seconds=time.monotonic() - began))

    def _go_back(self) -> None:
        position, self._rewind = self._rewind or (0, 0), None
        self._publisher.discard()
        crash_point(Between.DISCARD_AND_RESTORE)
        try:
            self._training.restore(position[0])
        except Lost as error:
            self._join_again(str(error), lost=str(error))
        else:
            self._publisher.rewind(position)

    def _to_align(self, target: Target) -> bool:
        """Return whether the half must be what the last round's end averaged, and may not be. Snapshots of closed rounds are."""
        due = self._settings.training.average == "all" and 1 <= target.closed == self._training.round - 1
        return due and self._training.aligned != target.closed

    def _align(self, round: int) -> None:
        """Go on from the averaged half after a round if it is here; else ask for it and hear what comes in."""
        averaged = self._averaged = self._averaged or self._listen_for_halves()
        state = averaged.after(round, self._incarnation, self._cut) if averaged else None
        if averaged is None or state is None:
            self._turn(WAIT_SECONDS)
            return
        crash_point(Between.HALF_AND_LOAD)
        try:
            self._training.align(round, state)
        except TensorError as error:
            averaged.refuse(error)

    def _listen_for_halves(self) -> AveragedHalves | None:
        """Return the way to averaged halves; None if the broker is away."""
        most = half_bytes(self._network, self._cut)
        try:
            return AveragedHalves(self._transport, self._settings, self._id, most, self._link, self._mailbox, self._emit)
        except (BrokerUnavailable, UnknownQueue) as error:
            self._emit(Waiting(role=self._id, what=str(error)))
            return None

    def _to_evaluate(self, target: Target) -> bool:
        closed = target.closed
        due = self._settings.training.evaluates(closed) and self._training.round == closed + 1 and closed >= self._first_round
        return due and target.recorded < closed and closed not in self._scores

    def _evaluate(self, round: int) -> None:
        try:
            self._scores[round] = self._evaluator.score(
                self._training.half, self._dataset, self._network.feature_shape(self._cut), round
            )
        except VersionGone:  # it was given up meanwhile, or has not heard how far the run is: it will be told
            self._turn(WAIT_SECONDS)
            return
        crash_point(Between.SCORE_AND_REPORT)
        self._scores = dict(sorted(self._scores.items())[-SCORES_KEPT:])
        self._report(now=True)

    def _report(self, *, now: bool = False) -> None:
        recorded = self._heard.target.recorded if self._heard.target else 0
        self._link.update(scores=tuple(score for scored, score in self._scores.items() if scored > recorded), now=now)

    def _turn(self, timeout: float) -> None:
        """Hear what has come in. Raises Stopped or _Rewind where that ends what is being done."""
        self._mailbox.handle(timeout)
        self._publisher.turn()
        if self._stop.is_set():
            raise Stopped
        if self._given_up:
            raise _Rejoin
        if self._rewind:
            raise _Rewind

    def _hear(self, message: Message) -> None:
        if isinstance(message, Refusal):
            self._given_up = message.reason
        elif isinstance(message, Acknowledgement) and message.incarnation == self._incarnation:
            position = (message.round, message.sequence)
            self._publisher.now_durable(position)
            if message.resend and self._is_lost(position):
                self._rewind = position
        elif isinstance(message, Target):
            self._aim(message)

    def _is_lost(self, position: tuple[int, int]) -> bool:
        """Return whether what a worker waits for was sent, or should have been, and is not on its way any more."""
        closed = self._heard.target.closed if self._heard.target else 0
        return closed < position[0] and self._publisher.lacks(position, ended=position[0] < self._training.round)

    def _aim(self, message: Target) -> None:
        if message.incarnation > self._incarnation:
            raise SettingsError(f"client {self._id}: another process has joined under this id")
        if max(message.round, message.closed) > self._settings.training.rounds:
            return  # no coordinator of this run says so
        if message.incarnation < self._incarnation:
            return
        went_back = self._heard.take(message, self._link.number)
        target = self._heard.target or message
        if went_back:
            self._training.aligned = 0
            if self._averaged is not None:
                self._averaged.forget()
            self._scores = {scored: score for scored, score in self._scores.items() if scored <= target.closed}
        self._publisher.now_durable((target.durable_round, target.durable_sequence))
        self._publisher.now_durable((target.closed + 1, 0))
        self._state.forget(target.closed)
        self._report()
