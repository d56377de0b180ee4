"""What has arrived of one sequence of a client's round: while it waits, and when its turn has come."""

from dataclasses import dataclass, field

from broker.messages import Frame
from broker.transport import Delivery


@dataclass
class Parked:
    """The deliveries of one sequence that have arrived, by part; the number of parts is the first one's."""

    parts: int
    deliveries: dict[int, Delivery] = field(default_factory=dict)
    size: int = 0  # bytes of them
    copies: list[Delivery] = field(default_factory=list)  # sent twice; dead letters too, if the sequence is refused
    fault: str = ""  # why it was refused when it arrived, before its turn,
    faulty: set[int] = field(default_factory=set)  # and the parts that were


@dataclass(frozen=True)
class Taken:
    """A sequence whose turn it is: its frames, in order, their deliveries and copies; or why it was refused when it arrived."""

    sequence: int
    frames: list[Frame]
    deliveries: list[Delivery]
    copies: list[Delivery]
    fault: str = ""
