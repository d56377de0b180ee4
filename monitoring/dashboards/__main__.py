"""Write all dashboards into a folder: `python -m monitoring.dashboards monitoring/grafana/dashboards`."""

import json
import sys
from pathlib import Path

from monitoring.dashboards.dashboard import Dashboard
from monitoring.dashboards.inference import INFERENCE
from monitoring.dashboards.pipeline import PIPELINE
from monitoring.dashboards.training import TRAINING

DASHBOARDS: tuple[Dashboard, ...] = (TRAINING, PIPELINE, INFERENCE)


def files() -> dict[str, str]:
    """Return the text of each dashboard's file, by the file's name."""
    return {f"{one.name}.json": json.dumps(one.to_json(), indent=1, ensure_ascii=False) + "\n" for one in DASHBOARDS}


if __name__ == "__main__":
    for name, text in files().items():
        (Path(sys.argv[1]) / name).write_text(text)
