"""Numbers as Grafana shows them, for the units that the dashboards use."""

import math

_SECONDS = ((1e-3, 1e-6, "µs"), (1.0, 1e-3, "ms"), (120.0, 1.0, "s"), (7200.0, 60.0, "min"), (172800.0, 3600.0, "hours"))
_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")
UNITS = ("none", "short", "percentunit", "s", "bytes", "binBps")  # and "suffix: ..."


def shown(value: float, unit: str, decimals: int | None, *, short: bool = False) -> str:
    """Return a value with its unit. decimals None: three figures. short: on an axis, without a suffix."""
    if unit.startswith("suffix:"):
        return _number(value, decimals) + ("" if short else unit.removeprefix("suffix:"))
    if unit == "percentunit":
        return f"{value * 100:.{decimals or 0}f} %"
    if unit == "s":
        scale, name = next(((scale, name) for below, scale, name in _SECONDS if abs(value) < below), (86400.0, "days"))
        return "0 s" if value == 0 else f"{_number(value / scale, decimals)} {name}"
    if unit in ("bytes", "binBps"):
        power = min(int(math.log2(abs(value)) // 10), len(_BYTES) - 1) if abs(value) >= 1 else 0
        return f"{_number(value / 1024**power, None)} {_BYTES[power]}{'/s' if unit == 'binBps' else ''}"
    return _number(value, decimals)


def _number(value: float, decimals: int | None) -> str:
    if decimals is not None:
        return f"{value:.{decimals}f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
