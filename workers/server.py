"""The server worker: claims streams, trains and commits them, and answers inference requests all the while."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from broker import topology
from broker.crash_points import Between, crash_point
from broker.dead_letters import DeadLetters
from broker.errors import BrokerError, BrokerUnavailable, UnknownQueue
from broker.events import Emit, Reconnected, StreamClaimed, StreamLost, Waiting
from broker.mailbox import Mailbox
from broker.transport import Delivery, Reopened, Transport
from coordinator.errors import LeaseLost, MissingBlob, RunConflict, StoreError, StoreUnavailable
from coordinator.store.interface import Store
from coordinator.store.lasting import Lasting
from coordinator.store.lease_keeper import LeaseKeeper
from coordinator.store.ledger import Claim, Ledger
from coordinator.store.records import RunRecord, RunState, StreamPlan
from learning.layers import build_network
from workers.context import Released, Stopped, WorkerContext
from workers.inference import InferenceService
from workers.replica import ReplicaCache
from workers.rotation import Rotation
from workers.run_settings import RunSettings
from workers.stream import StreamWorker
from workers.versions import StoreVersions

LOOK_SECONDS: Final = 1.0  # between two looks at the store while there is nothing to do


class ServerWorker:
    """One member of the pool. It holds one stream at a time: its memory does not grow with the number of clients.

    connect: called twice, with the run's AMQP heartbeat in seconds: after some two of them a worker that stands still loses its
    queues. What is consumed and its acknowledgements go over one connection, what is said over the other. stays: when the run is
    finished, to answer inference requests.
    """

    def __init__(
        self, name: str, run: str, store: Store, connect: Callable[[int], Transport], emit: Emit, *, stays: bool = False
    ) -> None:
        self._name = name
        self._run_name = run
        self._ledger = Ledger(store)
        self._connect = connect
        self._emit = emit
        self._stays = stays
        self._stop = threading.Event()
        self._mailbox = Mailbox()
        self._rotation = Rotation()
        self._gone_since: float | None = None  # time.monotonic at which the run was first found to be missing

    def stop(self) -> None:
        """Ask the worker to stop; it gives back what it holds. May be called from any thread or signal handler."""
        self._stop.set()
        self._mailbox.post(lambda: None)

    @property
    def turned(self) -> float:
        """Time of ``time.monotonic`` at which its loop last turned."""
        return self._mailbox.turned

    def run(self) -> None:
        """Work until the run is over, if the worker does not stay, or it is asked to stop."""
        record = self._wait_for_run()
        if record is None:
            return
        context = self._context(record)
        self._record, self._end = record, Lasting(context.settings.transport.store_loss_window)
        inference = InferenceService(context, StoreVersions(context.network, context.settings.training, context.ledger))
        try:
            while not self._stop.is_set() and self._look(context, inference):
                pass
        finally:
            inference.close()
            context.keeper.close()

    def _wait_for_run(self) -> RunRecord | None:
        said = False
        while not self._stop.is_set():
            self._mailbox.turn()
            record, state = self._ledger.run(), self._ledger.state().record
            if record is not None and state.phase != "failed":
                return record
            if not said:
                due = "to be created" if record is None else f"to be taken up again ({state.reason})"
                self._emit(Waiting(role=self._name, what=f"run {self._run_name!r} {due} by a coordinator"))
                said = True
            self._stop.wait(LOOK_SECONDS)
        return None

    def _context(self, record: RunRecord) -> WorkerContext:
        settings = RunSettings.from_json(record.experiment)
        heartbeat = settings.transport.amqp_heartbeat
        transport, control = self._connect(heartbeat), self._connect(heartbeat)
        for queue in (topology.dead(settings.run), topology.offers(settings.run), topology.coordinator(settings.run)):
            transport.declare(queue)
        self._offers = transport.subscribe(topology.offers(settings.run).name, 1, self._mailbox.sink(self._offered))
        network = build_network(settings.model, record.sample_shape, record.classes, settings.training.seed)
        return WorkerContext(
            name=self._name,
            settings=settings,
            network=network,
            ledger=self._ledger,
            transport=transport,
            control=control,
            mailbox=self._mailbox,
            keeper=LeaseKeeper(self._ledger),
            dead=DeadLetters(control, settings.run, self._mailbox, self._emit, settings.largest_letter(network)),
            cache=ReplicaCache(),
            emit=self._emit,
            stop=self._stop,
        )

    def _offered(self, item: Delivery | Reopened) -> None:
        if isinstance(item, Delivery):  # being awake is all that an offer is for
            self._offers.ack([item])
        else:
            self._emit(Reconnected(role="server"))

    def _look(self, context: WorkerContext, inference: InferenceService) -> bool:
        """Do what there is to do; return False when the run is over."""
        try:
            state = self._ledger.state()
            finished = state.record.phase == "finished" and not self._stays and self._end.lasts(state.version)
            if finished or state.record.phase == "failed":
                return False
            context.dead.turn()
            inference.serve(LOOK_SECONDS)
            found = self._claim(context, state.record) if self._run_is_there(context) else None
            if found is not None:
                self._train(context, inference, *found)
            elif not inference.waiting:
                context.wait(LOOK_SECONDS, "stream")
        except (BrokerUnavailable, StoreUnavailable) as error:
            self._emit(Waiting(role=self._name, what=str(error)))
            self._stop.wait(LOOK_SECONDS)
        return True

    def _run_is_there(self, context: WorkerContext) -> bool:
        """Return whether the store still has this run; raise RunConflict if it has lost it for good, or has another instead."""
        record, now = self._ledger.run(), time.monotonic()
        if record is not None:
            self._gone_since = None
            if (record.fingerprint, record.id) == (self._record.fingerprint, self._record.id):
                return True
            raise RunConflict(f"run {self._run_name!r} was replaced in the store by another of that name; start this worker again")
        self._gone_since = now if self._gone_since is None else self._gone_since
        if now - self._gone_since > context.settings.transport.lease_seconds:  # a coordinator that has just made it makes it again
            raise RunConflict(f"run {self._run_name!r} is gone from the store: it was emptied or replaced while the run went on")
        return False

    def _claim(self, context: WorkerContext, state: RunState) -> tuple[Claim, StreamPlan, float] | None:
        kept = self._ledger.round(state.round) if state.phase == "training" else None
        if kept is None or kept.record.phase != "open":
            return None
        unfinished = self._ledger.unfinished(kept.record)
        for plan in self._rotation.order(state.round, unfinished, context.cache.__contains__):
            asked = time.monotonic()
            claim = self._ledger.claim(state.round, plan.id, self._name, context.settings.transport.lease_seconds)
            if claim is not None:
                return claim, plan, asked
        return None

    def _train(self, context: WorkerContext, inference: InferenceService, claim: Claim, plan: StreamPlan, asked: float) -> None:
        record = claim.kept.record
        trained = sum(progress.sequence for progress in record.clients.values())
        self._emit(
            StreamClaimed(
                worker=self._name,
                round=record.round,
                stream=plan.id,
                epoch=claim.lease.epoch,
                trained=trained,
                again=claim.kept.version is not None or claim.lease.lost > 0,
            )
        )
        try:
            with self._holding(context, claim, asked):
                start = self._ledger.version(record.round - 1)
                if start is None:  # the round was closed meanwhile
                    return
                crash_point(Between.CLAIM_AND_LOAD)
                StreamWorker(context, inference, plan, start.record, claim).run()
        except (LeaseLost, UnknownQueue) as error:
            self._emit(StreamLost(worker=self._name, round=record.round, stream=plan.id, reason=str(error)))
        except MissingBlob as error:
            if self._ledger.store.renew(claim.lease):
                raise
            self._emit(StreamLost(worker=self._name, round=record.round, stream=plan.id, reason=str(error)))
        except Released:
            self._rotation.give_back(record.round, plan.id)
        except BrokerUnavailable:  # perhaps of this stream's queue only: others first
            self._rotation.give_back(record.round, plan.id)
            raise
        except Stopped:
            return

    @contextlib.contextmanager
    def _holding(self, context: WorkerContext, claim: Claim, asked: float) -> Iterator[None]:
        """Keep a claim's lease, and give it back at the end.

        Not after an error that ends this worker: it may be a message of this stream that does, and as with a worker that is
        killed by one, the lease has to pass by itself to be counted.
        """
        context.keeper.keep(claim.lease, asked)
        died = False
        try:
            yield
        except Exception as error:
            lives = isinstance(error, Released | Stopped | BrokerError | StoreError) and not isinstance(error, MissingBlob)
            died = not lives
            raise
        finally:
            context.keeper.let_go()
            crash_point(Between.STREAM_AND_RELEASE)
            if not died:
                with contextlib.suppress(StoreUnavailable):  # it passes by itself
                    self._ledger.store.release(claim.lease)
