"""Round ticks, and the way from a value to its place on an axis."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from monitoring.report.figure import Axis, Figure


@dataclass(frozen=True)
class Scale:
    """The range of an axis and its ticks, in the units of the file."""

    low: float
    high: float
    ticks: tuple[float, ...]
    labels: tuple[str, ...]

    def place(self, value: float, start: float, end: float) -> float:
        """Return where a value is between two ends of a drawing."""
        return start + (value - self.low) / (self.high - self.low) * (end - start)


def scales(figure: Figure) -> tuple[Scale, Scale]:
    """Return the x and y axes that all panels of a figure share."""
    points = list(figure.points())
    x = scale(figure.x, (point.x for point in points), 6, widen=figure.x.zero)
    top = max((point.y for point in points), default=0.0)
    room = [1.02 * top] if figure.y.zero and figure.y.most is None else []  # no line along the upper edge
    return x, scale(figure.y, [*(point.y for point in points), *room], 5, widen=True)


def scale(axis: Axis, values: Iterable[float], count: int, widen: bool) -> Scale:
    """Return a scale of about ``count`` ticks that holds all values. ``widen``: it begins and ends at a tick."""
    low, high = _range(axis, [value * axis.factor for value in values])
    step = _step((high - low) / count, axis.whole)
    first, last = low / step, high / step
    if widen:
        first, last = math.floor(first + 1e-9), math.ceil(last - 1e-9)
        low, high = first * step, last * step
        high = high if axis.most is None else min(high, max(axis.most, low + step))
    numbers = range(math.ceil(first - 1e-9), math.floor(high / step + 1e-9) + 1)
    ticks = [number * step for number in numbers]
    return Scale(low / axis.factor, high / axis.factor, tuple(tick / axis.factor for tick in ticks), _texts(ticks, step))


def _range(axis: Axis, shown: list[float]) -> tuple[float, float]:
    low, high = min(shown, default=0.0), max(shown, default=1.0)
    if axis.zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    room = max(abs(low) * 0.1, 1.0 if axis.whole or axis.unit == "%" else 0.1)  # one value only
    return (0.0, high + room) if axis.zero else (low - room, high + room)


def _step(rough: float, whole: bool) -> float:
    """Return the next of 1, 2, 5, 10, ... times a power of ten."""
    if whole and rough <= 1:
        return 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    return next((factor * power for factor in (1.0, 2.0, 5.0) if factor * power >= rough * (1 - 1e-9)), 10.0 * power)


def _texts(ticks: list[float], step: float) -> tuple[str, ...]:
    largest = max((abs(tick) for tick in ticks), default=0.0)
    if largest >= 1e7 or step < 1e-4:
        return tuple(f"{tick:.3g}" for tick in ticks)
    if largest >= 1e4:
        return tuple(f"{tick / 1000:.{_decimals(step / 1000)}f}k" if tick else "0" for tick in ticks)
    return tuple(f"{tick:.{_decimals(step)}f}" for tick in ticks)


def _decimals(step: float) -> int:
    return max(0, -math.floor(math.log10(step) + 1e-9))
