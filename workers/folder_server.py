"""A server for inference in the client's own process: the layers in a run's folder, behind a broker in memory."""

import threading

from broker import topology
from broker.dead_letters import DeadLetters
from broker.events import Emit, ignore
from broker.mailbox import Mailbox
from broker.memory import MemoryBroker, MemoryTransport
from workers.context import ServiceContext
from workers.inference import InferenceService
from workers.trained_run import TrainedRun
from workers.versions import FolderVersions

TURN_SECONDS = 0.5


class FolderServer:
    """Answers on a thread of its own what comes over ``connect()``, through the same classes as a server worker."""

    def __init__(self, run: TrainedRun, emit: Emit = ignore) -> None:
        self._broker = MemoryBroker()
        self._stop = threading.Event()
        self._mailbox = Mailbox()
        transport, settings = MemoryTransport(self._broker), run.settings
        transport.declare(topology.dead(settings.run))
        dead = DeadLetters(transport, settings.run, self._mailbox, emit, settings.largest_letter(run.network))
        context = ServiceContext(
            name="server",
            settings=settings,
            network=run.network,
            transport=transport,
            control=transport,
            mailbox=self._mailbox,
            dead=dead,
            emit=emit,
        )
        self._service = InferenceService(context, FolderVersions(run))
        self._thread = threading.Thread(target=self._run, name="server", daemon=True)
        self._thread.start()

    def connect(self) -> MemoryTransport:
        """Return a client's transport to this server."""
        return MemoryTransport(self._broker, "client")

    def close(self) -> None:
        """Stop answering."""
        self._stop.set()
        self._mailbox.post(lambda: None)
        self._thread.join()
        self._service.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._mailbox.handle(TURN_SECONDS)
            self._service.serve(TURN_SECONDS)
