"""Settings of who takes part: the experiment's [clients] section."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from broker.messages import ClientId
from learning.settings import Positive, Section

Seconds = Annotated[float, Field(gt=0)]
T = TypeVar("T")


class ClientEntry(Section):
    """One client of a roster: its id and after which layer it cuts the network."""

    id: ClientId
    cut: Positive


class ClientsSettings(Section):
    """Who takes part: a list, a number of clients with their cuts, or any device that knows the run."""

    list: tuple[ClientEntry, ...] | None = Field(None, description="clients one by one, instead of count and cuts")
    open: bool = Field(
        False, description="any device with credentials and data of its own joins at the next round, instead of count and cuts"
    )
    count: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default_factory=lambda given: _unless_told(given, 12),
        description="number of clients, named client-01 and so on; none beside list or open",
    )
    cuts: Annotated[tuple[Positive, ...], Field(min_length=1)] | None = Field(
        default_factory=lambda given: _unless_told(given, (3, 4, 5)),
        description="layers after which the clients cut, dealt in equal blocks over count; none beside list or open",
    )
    min_clients: Positive = Field(1, description="clients needed to start without the missing ones, and to go on")
    join_timeout: Seconds = Field(60.0, description="seconds after which the first round opens without the missing clients")
    quorum_timeout: Seconds = Field(600.0, description="seconds below min_clients after which the run fails")
    round_timeout: Seconds | None = Field(
        None, description="seconds for which a client may hold up a round, the servers waiting for it, until it is given up"
    )
    on_dropout: Literal["keep", "discard"] = Field(
        "keep", description="what counts of a client given up in mid-round: keep all that arrived, or discard its part of the round"
    )

    @model_validator(mode="after")
    def _says_once_who_takes_part(self) -> Self:
        said = {
            "list": self.list is not None,
            "count and cuts": self.count is not None or self.cuts is not None,
            "open = true": self.open,
        }
        given = [name for name, there in said.items() if there]
        if len(given) > 1:
            raise ValueError(f'{", and ".join(given)}: keep one, and leave out the others or set them to "none"')
        if not given:
            raise ValueError("nobody takes part: give count and cuts, or list, or open = true")
        if (self.count is None) != (self.cuts is None):
            raise ValueError("count and cuts go together: give both")
        return self

    @model_validator(mode="after")
    def _roster_is_usable(self) -> Self:
        if self.list is not None and not self.list:
            raise ValueError("list is empty; give at least one {id, cut}")
        repeated = [name for name, times in Counter(entry.id for entry in self.roster()).items() if times > 1]
        if repeated:
            raise ValueError(f"list names {', '.join(repeated[:10])} more than once")
        if not self.open and self.min_clients > len(self.roster()):
            raise ValueError(f"min_clients = {self.min_clients} is more than the {len(self.roster())} clients there are")
        return self

    def roster(self) -> Sequence[ClientEntry]:
        """Return the clients in order; empty where the run is open."""
        if self.list is not None:
            return self.list
        if self.count is None or self.cuts is None:
            return ()
        digits = max(2, len(str(self.count)))
        return [
            ClientEntry(id=f"client-{index + 1:0{digits}}", cut=self.cuts[index * len(self.cuts) // self.count])
            for index in range(self.count)
        ]


def _unless_told(given: dict[str, Any], default: T) -> T | None:
    """Return a default that stands only where neither list nor open says who takes part."""
    return None if given.get("list") is not None or given.get("open") else default
