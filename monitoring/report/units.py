"""Figures as people read them."""

BYTES = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1))
MISSING = "-"


def byte_unit(largest: float) -> tuple[str, int]:
    """Return the unit for sizes up to this many bytes, and how many bytes it is."""
    return next((found for found in BYTES if largest >= found[1]), BYTES[-1])


def in_bytes(value: float | None) -> str:
    """Return a size."""
    if value is None:
        return MISSING
    unit, size = byte_unit(value)
    return f"{value / size:.3g} {unit}" if value < 1000 * size else f"{value / size:,.0f} {unit}"


def percent(value: float | None) -> str:
    """Return a share between 0 and 1."""
    return MISSING if value is None else f"{100 * value:.1f} %"


def count(value: float | None) -> str:
    """Return a number with its thousands set apart."""
    return MISSING if value is None else f"{value:,.0f}" if value >= 1000 or float(value).is_integer() else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """Return a time in its two largest units."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"
