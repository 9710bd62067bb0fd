"""Differences within a table: to the student without a teacher, and between the kinds of teacher.

Those that seeds alone may make are marked as such, as far as that is known.
"""

from collections.abc import Iterator
from typing import NamedTuple

from fastkd.plan.filled import Filled, FilledTable
from fastkd.plan.measures import MEASURES
from fastkd.run.differences import Difference, difference, note

STANDARD, SFTN = ", standard", ", sftn"


class Compared(NamedTuple):
    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]
    """Row, column, what it is the difference to, and the difference."""
    remark: str


def compared(found: FilledTable) -> Compared | None:
    """None where the table is not one of differences, or nothing in it is finished."""
    if not found.table.compared:
        return None
    pairs = list(_differences(found))
    rows = [(cell.row, cell.column, to, each.show(MEASURES[cell.measure].digits)) for cell, to, each in pairs]
    return Compared(("", "", "minus", "difference"), rows, note(each for _, _, each in pairs)) if rows else None


def _differences(found: FilledTable) -> Iterator[tuple[Filled, str, Difference]]:
    measured = [cell for cell in found.cells if cell.ours is not None and cell.ours.values]
    at = {(cell.row, cell.column): cell for cell in measured}
    alone = {cell.column: cell for cell in measured if cell.stage == "control"}
    for cell in measured:
        if cell.stage == "student" and cell.column in alone:
            yield cell, "without a teacher", _between(cell, alone[cell.column])
        other = at.get((cell.row, cell.column.replace(SFTN, STANDARD)))
        if SFTN in cell.column and other is not None and cell.stage != "control":
            yield cell, "from a standard teacher", _between(cell, other)


def _between(one: Filled, other: Filled) -> Difference:
    assert one.ours is not None and other.ours is not None
    return difference(one.ours.values, other.ours.values)
