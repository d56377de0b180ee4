"""What a worker does differently where others before it were lost: it finds out at which message, and whether to refuse that."""

from broker.errors import PoisonedMessage
from coordinator.store.ledger import Claim
from workers.checkpoints import Checkpoints
from workers.position import Position

LOST = 2  # workers in a row, from which on caution is taken: one may be lost for any reason


class Caution:
    """Lets a stream go on message by message: the last one's effect is in the store, and so is who takes the next.

    steps: messages after which the place must be passed where workers were lost, because they saved at least so often.
    limit: workers lost at one message, from which on it is refused.
    """

    def __init__(self, claim: Claim, checkpoints: Checkpoints, position: Position, *, steps: int, limit: int) -> None:
        self._checkpoints = checkpoints
        self._position = position
        self._limit = limit
        self._steps = steps if claim.kept.record.suspect or claim.lease.lost >= LOST else 0
        self._noted: tuple[str, int] | None = None

    @property
    def is_taken(self) -> bool:
        """Whether every effect has to be saved at once."""
        return self._steps > 0

    def allows(self, client: str, sequence: int) -> bool:
        """Return whether a message may be taken now; ask again until it may."""
        if not self.is_taken:
            return True
        if self._checkpoints.busy or self._position.unsaved:
            return False
        if self._noted != (client, sequence):
            self._noted = client, sequence
            self._checkpoints.note(client, sequence)
            return False
        return True

    def check(self) -> None:
        """A message is being taken: raise PoisonedMessage if too many workers were lost at it."""
        if not self.is_taken:
            return
        self._steps -= 1
        suspect = self._checkpoints.record.suspect
        if suspect is not None and suspect.workers > self._limit:
            raise PoisonedMessage(f"{suspect.workers - 1} server workers were lost at it")
