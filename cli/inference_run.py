"""What ``splitee sweep`` and ``splitee calibrate`` begin with: a finished run, and its recorded answers."""

from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TaskID

from workers.recorded import Recorded, recorded
from workers.trained_run import TrainedRun


def say(text: str) -> None:
    """Print a line on stderr: what is on stdout may be read by a program."""
    Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)


def open_recorded(folder: Path, limit: int | None) -> tuple[TrainedRun, Recorded]:
    """Return a finished run and its answers to the test split, or to ``limit`` of its samples; shows progress where they are made.

    Raises LearningError if run, data or folder cannot be used.
    """
    run = TrainedRun.open(folder)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task: TaskID | None = None

        def advance(done: int, of: int) -> None:
            nonlocal task
            if task is None:
                task = progress.add_task("recording answers", total=of)
            progress.update(task, completed=done)

        return run, recorded(run, limit, say, advance)
