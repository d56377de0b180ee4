"""Gives clients their averaged halves when they ask, a bounded number of bytes at a time."""

from broker import codec, topology
from broker.crash_points import Between, crash_point
from broker.mailbox import Mailbox
from broker.messages import AveragedHalf, HalfRequest
from broker.settings import TransportSettings
from broker.transport import Transport
from coordinator.client_averages import half_state
from coordinator.store.ledger import Ledger
from learning.tensors import pack


class HalfAnswers:
    """Answers requests from the store; one that it cannot answer, or that is lost, its client repeats. Belongs to one thread.

    Of a client one request waits and one answer is under way; of all answers as many bytes as a client may have unconfirmed.
    """

    def __init__(self, run: str, settings: TransportSettings, ledger: Ledger, transport: Transport, mailbox: Mailbox) -> None:
        self._run = run
        self._settings = settings
        self._ledger = ledger
        self._transport = transport
        self._mailbox = mailbox
        self._waiting: dict[str, HalfRequest] = {}  # by client
        self._under_way: dict[str, int] = {}  # by client: frames that the broker has not confirmed,
        self._bytes = 0  # and of all the bytes
        self._version: tuple[int, str | None] | None = None
        self._packed: dict[int, bytes] = {}  # of that version, by cut

    def ask(self, request: HalfRequest) -> None:
        """Take a request; of a client that is not known so, or is being answered, nothing comes of it."""
        known = self._ledger.roster().record.clients.get(request.client)
        if known is None or (known.incarnation, known.cut) != (request.incarnation, request.cut):
            return
        if request.client not in self._under_way:
            self._waiting[request.client] = request
        self._send()

    def close(self) -> None:
        """Answer nobody any more."""
        self._waiting.clear()

    def _send(self) -> None:
        while self._waiting and self._bytes < self._settings.unconfirmed_bytes:
            self._answer(self._waiting.pop(next(iter(self._waiting))))

    def _answer(self, request: HalfRequest) -> None:
        half = self._half(request.round, request.cut)
        if half is None:
            return
        message = AveragedHalf(round=request.round, cut=request.cut, half=half)
        place = (request.client, request.incarnation, request.round, request.number)
        frames = codec.split(message, *place, self._settings.message_limit)
        queue = topology.replies(self._run, request.client, request.reply).name
        self._under_way[request.client] = len(frames)
        for frame in frames:
            self._publish(queue, request.client, frame)
        crash_point(Between.ANSWER_AND_ANSWER)

    def _publish(self, queue: str, client: str, frame: bytes) -> None:
        size = len(frame)
        self._bytes += size
        self._transport.publish(queue, frame, lambda _: self._mailbox.post(lambda: self._settled(client, size)))

    def _settled(self, client: str, size: int) -> None:
        self._bytes -= size
        self._under_way[client] -= 1
        if not self._under_way[client]:
            del self._under_way[client]
        self._send()

    def _half(self, round: int, cut: int) -> bytes | None:
        """Return the half after a round as safetensors, None if the round's version is not in the store."""
        kept = self._ledger.version(round)
        if kept is None:
            return None
        if self._version != (round, kept.version):
            self._version, self._packed = (round, kept.version), {}
        if cut not in self._packed:
            self._packed[cut] = pack(half_state(self._ledger.store, kept.record, cut))
        return self._packed[cut]
