"""The choice of a cut for a device: what each asks of it, and the deepest that stays within what it has."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CutProfile:
    """What one cut asks of a device. Times are medians in milliseconds; bytes are bytes."""

    cut: int
    layer: str  # name of the last layer on the device
    feature_shape: tuple[int, ...]  # of one sample at the cut
    step_ms: float  # one training step of a whole batch
    step_ms_fastest: float
    step_ms_slowest: float
    inference_ms: float  # one sample alone, through layers and exit
    memory_bytes: int  # most that the client half had in training, above what the process had before
    parameter_bytes: int
    optimizer_bytes: int
    sample_bytes: int  # one sample's features and label on the wire
    samples_per_second: float  # of training at full speed

    @property
    def upload_mbps(self) -> float:
        """Mbit/s that training at full speed sends, all the time."""
        return self.samples_per_second * self.sample_bytes * 8 / 1e6


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a device may spend; None: as much as it takes."""

    max_step_ms: float | None = None
    max_memory_mb: float | None = None  # of 1,000,000 bytes
    max_mbps: float | None = None

    def bounds(self) -> list["Bound"]:
        """Return the bounds that are given."""
        every = [
            ("--max-step-ms", self.max_step_ms, "ms a step", lambda row: row.step_ms),
            ("--max-memory-mb", self.max_memory_mb, "MB", lambda row: row.memory_bytes / 1e6),
            ("--max-mbps", self.max_mbps, "Mbit/s", lambda row: row.upload_mbps),
        ]
        return [Bound(option, limit, unit, need) for option, limit, unit, need in every if limit is not None]


@dataclass(frozen=True)
class Bound:
    """One bound of a budget: the option that gives it, and what a cut needs of it, in the same unit."""

    option: str
    limit: float
    unit: str
    need: Callable[[CutProfile], float]

    def __str__(self) -> str:
        return f"{self.option} {self.limit:g}"

    def holds(self, row: CutProfile) -> bool:
        """Return whether a cut stays within it; just reaching it is within."""
        return self.need(row) <= self.limit

    def needed(self, row: CutProfile) -> str:
        """Return what a cut needs, rounded up: so much would do."""
        return f"{math.ceil(self.need(row) * 10) / 10:g} {self.unit}"


def recommend(rows: Sequence[CutProfile], budget: Budget) -> CutProfile | None:
    """Return the deepest cut that stays within every bound; None if no cut does, or no bound is given.

    The deepest, because more of the network is then the device's own, its exit is better, and fewer layers are the servers'.
    """
    bounds = budget.bounds()
    fitting = [row for row in rows if all(bound.holds(row) for bound in bounds)]
    return max(fitting, key=lambda row: row.cut, default=None) if bounds else None


def shortfall(rows: Sequence[CutProfile], budget: Budget) -> str:
    """Return which bounds no cut satisfies, each alone or only together, and what the nearest cut needs of them.

    The nearest is the one whose worst excess, as a ratio, is least; of several, the deepest.
    """
    bounds = budget.bounds()
    hopeless = [bound for bound in bounds if not any(map(bound.holds, rows))]
    if not hopeless:
        row = _nearest(rows, bounds)
        needs = " and ".join(bound.needed(row) for bound in bounds)
        return f"no cut satisfies {' and '.join(map(str, bounds))} together; cut {row.cut} comes nearest and needs {needs}"
    return "; ".join(_alone(bound, _nearest(rows, [bound])) for bound in hopeless)


def _alone(bound: Bound, row: CutProfile) -> str:
    return f"no cut satisfies {bound}; cut {row.cut} comes nearest and needs {bound.needed(row)}"


def _nearest(rows: Sequence[CutProfile], bounds: Sequence[Bound]) -> CutProfile:
    return min(rows, key=lambda row: (max(bound.need(row) / bound.limit for bound in bounds), -row.cut))
