"""`splitee report`: what runs have left behind, as a page to look at and as figures for papers."""

from collections.abc import Sequence
from pathlib import Path

from cli.errors import CommandError
from monitoring.report.charts import figures as figures_of
from monitoring.report.folder import read_runs
from monitoring.report.page import page


def report(*, runs: Sequence[Path], output: Path, figures: Path | None) -> None:
    """Write the report of runs' folders, and their figures into a folder if one is given; say what was written.

    Raises ReportError if a folder is no run's, CommandError if something cannot be written.
    """
    found = read_runs(runs)
    try:
        output.write_text(page(found), encoding="utf-8")
        print(f"Wrote {output} ({output.stat().st_size / 1024:.0f} KiB)")
        if figures is not None:
            from monitoring.report.plots import write_figures

            written = write_figures(figures_of(found), figures)
            print(f"Wrote {len(written)} files into {figures}: {', '.join(path.name for path in written)}")
    except OSError as error:
        raise CommandError(f"{error.filename or output}: cannot be written: {error.strerror}") from None
