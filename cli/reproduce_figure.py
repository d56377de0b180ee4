"""A measured figure over several seeds."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A figure of each seed. values: by seed, in order."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.mean(self.values)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation, None of one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def __str__(self) -> str:
        return self._text(".3f")

    def __sub__(self, other: "Figure") -> "Figure":
        """Return the difference of each seed; both have the same seeds."""
        return Figure(tuple(mine - its for mine, its in zip(self.values, other.values, strict=True)))

    def signed(self) -> str:
        """Return a difference as text, with its sign and one digit more."""
        return self._text("+.4f")

    def plain(self) -> dict[str, object]:
        """Return it as plain data."""
        return {"mean": self.mean, "deviation": self.deviation, "values": list(self.values)}

    def _text(self, form: str) -> str:
        return f"{self.mean:{form}}" + (f" ± {self.deviation:{form.lstrip('+')}}" if self.deviation is not None else "")


def mean_of(figures: Sequence[Figure]) -> Figure:
    """Return the mean of several figures in each seed; all have the same seeds."""
    return Figure(tuple(map(statistics.mean, zip(*(figure.values for figure in figures), strict=True))))
