"""The papers' tables as text: columns stand two or more spaces apart, `-` is an empty cell."""

import re
from typing import NamedTuple

from fastkd.recipes.recipe import Published


class Grid(NamedTuple):
    columns: tuple[str, ...]
    rows: dict[str, tuple[str, ...]]
    """The cells of each row, one for each column, by the row's name."""


def read_grid(text: str) -> Grid:
    """The first line names the columns, each later one is a row's name and its cells."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.strip().splitlines() if line.strip()]
    columns = tuple(lines[0])
    for line in lines[1:]:
        assert len(line) == len(columns) + 1, f"{len(columns)} cells were expected in {line}"
    assert len({line[0] for line in lines[1:]}) == len(lines) - 1, f"a row stands twice: {[line[0] for line in lines]}"
    return Grid(columns, {line[0]: tuple(line[1:]) for line in lines[1:]})


def figure(cell: str, source: str) -> Published:
    """Reads a cell: `75.46` or `75.46±0.23`."""
    mean, _, spread = cell.partition("±")
    return Published(top1=float(mean), std=float(spread) if spread else None, source=source)
