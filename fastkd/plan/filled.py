"""A printed table with ours beside it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from fastkd.plan.cells import Cell, Plan
from fastkd.plan.findings import with_finding
from fastkd.plan.measures import MEASURES
from fastkd.plan.nodes import Node
from fastkd.recipes.tables.layout import Place, Printed, Summary, Table, rows_in_order
from fastkd.run.figures import Figure, mean_and_std

CHOICE, DIFFERENT = "choice", "differs"
_UNPRINTED = "the paper does not"


@dataclass(frozen=True)
class Filled:
    """A cell of the table: what the paper prints, and what was measured here."""

    row: str
    column: str
    stage: str
    measure: str
    printed: Printed | None
    ours: Figure | None
    """None: nothing is finished yet."""
    marks: tuple[int, ...] = ()
    """Numbers, from 1, of the notes that hold for it."""
    last: Figure | None = None
    """After the last epoch, where the paper prints the best one: the result, if there were no paper."""


@dataclass
class FilledTable:
    table: Table
    cells: list[Filled] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """`choice: the paper does not print …`, `differs: student epochs 2 instead of 240`: what stands behind a mark."""

    @property
    def common(self) -> set[int]:
        """The notes that hold for every figure, and need no mark."""
        marks = [set(cell.marks) for cell in self.cells]
        return set.intersection(*marks) if marks else set()

    def at(self, row: str, column: str) -> list[Filled]:
        return [cell for cell in self.cells if (cell.row, cell.column) == (row, column)]

    @property
    def rows(self) -> list[str]:
        return rows_in_order(self.cells)

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(cell.column for cell in self.cells))


def filled(table: Table, plan: Plan, cells: Iterable[tuple[Place, Cell]]) -> FilledTable:
    """The table with the results that the plan has so far; cells: each place with the plan's cell that is of it."""
    found = FilledTable(table)
    for place, cell in cells:
        told = (words for words in cell.recipe.deviations if _concerns(words, place.stage))
        if place.finding is not None and place.finding.choice:
            told = (*told, f"{_UNPRINTED} print {place.finding.choice}")
        marks = tuple(sorted(_noted(found.notes, _word(words)) for words in told))
        marks = (*marks, *(_noted(found.notes, words) for words in table.notes))
        own = (place.row, place.column, place.stage, place.measure, place.printed)
        last = _measured(plan, cell, place, "top1") if place.measure == "best" else None
        found.cells.append(Filled(*own, _measured(plan, cell, place, place.measure), marks, last))
    for summary in table.summaries:
        found.cells += _summed_up(found, summary)
    return found


def _word(deviation: str) -> str:
    return f"{CHOICE if deviation.startswith(_UNPRINTED) else DIFFERENT}: {deviation}"


def _concerns(deviation: str, stage: str) -> bool:
    """Whether a deviation of the cell's recipe touches the figure of that stage: a student is what its teacher made."""
    others = {"teacher": ("student ", "control "), "control": ("student ", "teacher "), "student": ("control ",)}
    return not deviation.startswith(others.get(stage.partition("-")[0], ()))


def _noted(notes: list[str], words: str) -> int:
    if words not in notes:
        notes.append(words)
    return notes.index(words) + 1


def nodes_of_place(cell: Cell, place: Place) -> list[tuple[Node, str]]:
    """Whose results hold a place's figure, and by which stage, for each seed; a teacher of several counts once."""
    nodes = {}
    for seed in cell.nodes:
        if place.stage == "teacher" and place.entry.teacher_share < 1:
            node = seed["student"]  # which has tested what it loaded
            stage = node.taught[0].stage
        else:
            node, stage = seed.get(place.stage) or seed["student"], place.stage  # a peer's are in its student's
        nodes[node.digest] = (node, stage)
    return list(nodes.values())


def _measured(plan: Plan, cell: Cell, place: Place, measure: str) -> Figure | None:
    """The mean over the seeds that are finished; a teacher of several students counts once."""
    values = []
    for node, stage in nodes_of_place(cell, place):
        result = with_finding(plan, cell, place, node)
        value = None if result is None else MEASURES[measure].read(result, stage)
        if value is not None:
            values.append(value)
    return mean_and_std(values) if values else None


def _summed_up(found: FilledTable, summary: Summary) -> Iterator[Filled]:
    along_rows = summary.along == "row"
    names = found.rows if along_rows else found.columns
    for name in names:
        line = [cell for cell in found.cells if (cell.row if along_rows else cell.column) == name]
        if not along_rows:
            line = [cell for cell in line if cell.stage == "student"]
        if not line or (summary.printed and name not in summary.printed):
            continue
        printed = summary.printed.get(name)
        where = (name, summary.name) if along_rows else (summary.name, name)
        ours = _sum(summary, [cell.ours for cell in line])
        marks = tuple(sorted({mark for cell in line for mark in cell.marks}))
        yield Filled(*where, line[0].stage, line[0].measure, None if printed is None else Printed(printed), ours, marks)


def _sum(summary: Summary, figures: Sequence[Figure | None]) -> Figure | None:
    """The mean, or the best of figures; None unless all are there."""
    there = [figure for figure in figures if figure is not None]
    if not there or len(there) < len(figures):
        return None
    if summary.how == "best":
        return max(there, key=lambda figure: figure.mean)
    return Figure(sum(figure.mean for figure in there) / len(there), None)
