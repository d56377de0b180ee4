"""A measured figure over several seeds."""

import statistics
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
        return f"{self.mean:.3f}" + (f" ± {self.deviation:.3f}" if self.deviation is not None else "")

    def plain(self) -> dict[str, object]:
        """Return it as plain data."""
        return {"mean": self.mean, "deviation": self.deviation, "values": list(self.values)}
