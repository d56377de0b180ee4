"""This machine, in words: what measured figures depend on."""

import os
import platform
from pathlib import Path

from cli.embedded import available_cores
from cli.prepare import versions


def machine() -> dict[str, object]:
    """Return what figures depend on."""
    return {
        "processor": _processor(),
        "cores": available_cores(),
        "system": platform.platform(),
        "load_average": os.getloadavg()[0],
        **versions(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return said.get("model name") or said.get("Model") or platform.processor() or platform.machine()  # Model: of an ARM board
