"""How runs end that nothing happens to: each experiment is trained once, for all tests of all processes that share a folder."""

import hashlib
import os
from pathlib import Path
from typing import Any

from filelock import FileLock

from tests.end_to_end.harness import Setup, summary, tiny, train


class Undisturbed:
    """Summaries of the tiny experiment with overrides, trained in one process. folder: processes may share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, *overrides: str) -> dict[str, Any]:
        """Return the summary; under "folder" where that run left its files, which nobody may change."""
        experiment = tiny(self._folder / f"process-{os.getpid()}", *overrides)
        key = hashlib.sha256(experiment.to_json().encode()).hexdigest()[:16]  # whatever the order of its overrides
        folder = self._folder / key
        with FileLock(self._folder / f"{key}.lock"):
            if not (folder / "output" / "summary.json").exists():
                train(Setup.write(folder, *overrides).experiment(), folder / "output")
        return {**summary(folder / "output"), "folder": folder / "output"}
