"""Standard output for tables: as wide as the terminal, or 120 columns where there is none."""

from rich.console import Console


def table_console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    return console
