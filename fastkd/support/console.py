"""Tables on standard output: as wide as the terminal, or as they need to be where there is none."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

_UNBOUNDED = 10_000  # columns of a file, which may be as wide as it likes


def table_console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _UNBOUNDED
    return console


def new_table(*left: str, right: Sequence[str] = (), title: str | None = None) -> Table:
    """A table with its columns: those of words on the left, those of numbers on the right. No cell is ever cut."""
    table = Table(title=title, title_justify="left")
    for heading in left:
        table.add_column(heading, overflow="fold")
    for heading in right:
        table.add_column(heading, overflow="fold", justify="right")
    return table
