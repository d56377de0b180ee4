"""A table as text, for a terminal and as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True)
class Grid:
    """A title, the columns' names, and rows of cells."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self, level: int) -> str:
        """Return it as Markdown, its title a heading of a level."""
        lines = [f"| {' | '.join(row)} |" for row in (self.head, ["---"] * len(self.head), *self.rows)]
        return "\n".join([f"{'#' * level} {self.title}", "", *lines, ""])

    def rich(self) -> Table:
        """Return it for a terminal."""
        shown = Table(title=self.title)
        for column in self.head:
            first = column == self.head[0]
            shown.add_column(column.replace(", ", "\n"), justify="left" if first else "right", no_wrap=first)
        for row in self.rows:
            shown.add_row(*row)
        return shown
