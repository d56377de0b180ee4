"""Which stream a worker tries next."""

from collections.abc import Callable, Iterable

from coordinator.store.records import StreamPlan


class Rotation:
    """Remembers what was given back in the open round: streams for which nothing comes must not keep a worker from the rest."""

    def __init__(self) -> None:
        self._round = 0
        self._given_back: list[str] = []  # the latest last

    def give_back(self, round: int, stream: str) -> None:
        """A stream was given back before it was committed."""
        if round != self._round:
            self._round, self._given_back = round, []
        self._given_back = [*(known for known in self._given_back if known != stream), stream]

    def order(self, round: int, plans: Iterable[StreamPlan], is_here: Callable[[str], bool]) -> list[StreamPlan]:
        """Return streams in the order to try them: first those never given back, then those given back longest ago.

        is_here: whether a stream's state is in this worker's memory; among the first, those go before the others.
        """
        turns = {stream: turn for turn, stream in enumerate(self._given_back, start=1)} if round == self._round else {}
        return sorted(plans, key=lambda plan: (turns.get(plan.id, 0), not is_here(plan.id)))
