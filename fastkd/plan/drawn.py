"""A table drawn as the paper draws it: charts, and the numbers behind their lines."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from fastkd.plan.cells import Cell, Plan
from fastkd.plan.filled import Filled, FilledTable, nodes_of_place
from fastkd.plan.measures import MEASURES
from fastkd.recipes.tables.layout import Place
from fastkd.run.charts import DASHED, Dot, Line, dot_chart, line_chart
from fastkd.run.curves import Value, error_of, over_seeds, term
from fastkd.run.page import Html
from fastkd.support.log import read_metrics


class Drawing(NamedTuple):
    charts: list[Html]
    heads: tuple[str, ...] = ()
    rows: Sequence[tuple[Any, ...]] = ()
    """What a table of the figures does not say: every point of every line."""


def drawn(found: FilledTable, plan: Plan, cells: Iterable[tuple[Place, Cell]]) -> Drawing:
    """The charts of a table; none where the paper draws none. cells: each place with its cell."""
    chart = found.table.chart
    if chart is None:
        return Drawing([])
    if chart.kind == "dots":
        return Drawing([_dots(found, measure) for measure in dict.fromkeys(cell.measure for cell in found.cells)])
    if chart.kind == "against":
        return Drawing([_against(found)])
    lines, rows = [], []
    for place, cell in cells:
        name = f"{place.column}, {place.row}"
        points, band = _along_the_epochs(plan, cell, place, chart.term)
        lines.append(Line(name, points, band=band))
        rows += [(place.row, place.column, f"{epoch:g}", repr(value)) for epoch, value in points]
    what = chart.term or "accuracy"
    title = f"{found.table.title}: {f'{what}, a term of the loss' if chart.term else 'accuracy on the test images, %'}"
    return Drawing([line_chart(title, "epoch", lines)], ("row", "column", "epoch", what), rows)


def _dots(found: FilledTable, measure: str) -> Html:
    cells = [cell for cell in found.cells if cell.measure == measure]
    return dot_chart(f"{found.table.title}: {MEASURES[measure].title}", list(_as_dots(cells)))


def _as_dots(cells: Sequence[Filled]) -> Iterator[Dot]:
    for cell in cells:
        if cell.ours is not None:
            yield Dot(cell.column, cell.row, cell.ours.mean, cell.ours.std or 0.0)
        if cell.printed is not None:
            yield Dot(cell.column, f"{cell.row}, printed", cell.printed.value, cell.printed.std or 0.0, hollow=True)


def _against(found: FilledTable) -> Html:
    """A line for each student's row over the accuracy of its teacher, which stands in the row `TEACHER: teacher`."""
    teachers = {(cell.row, cell.column): cell.ours for cell in found.cells if cell.stage == "teacher"}
    lines, ends = [], []
    for row in dict.fromkeys(cell.row for cell in found.cells if cell.stage == "student"):
        points = []
        for cell in (cell for cell in found.cells if cell.row == row):
            teacher = teachers.get((f"{row}: teacher", cell.column))
            if teacher is not None and cell.ours is not None:
                points.append((teacher.mean, cell.ours.mean))
        lines.append(Line(row, sorted(points)))
        ends += [x for x, _ in points]
    alone = next((cell.ours for cell in found.cells if cell.stage == "control"), None)
    if alone is not None and ends:
        lines.append(Line("without a teacher", [(min(ends), alone.mean), (max(ends), alone.mean)], dash=DASHED))
    return line_chart(f"{found.table.title}: the student's accuracy, %", "accuracy of the teacher, %", lines)


def _along_the_epochs(plan: Plan, cell: Cell, place: Place, name: str) -> tuple[Any, Any]:
    """The points and the band of a place's line, over the seeds that are finished."""
    logs = []
    for node, stage in nodes_of_place(cell, place):
        if plan.finished(node):
            records = read_metrics(plan.folder(node) / "metrics.jsonl")
            logs.append([record for record in records if record.get("stage") == stage])
    value = term(place.stage, name) if name else _accuracy_of(place.stage)
    return over_seeds(logs, value)


def _accuracy_of(network: str) -> Value:
    error = error_of(network)
    return lambda record: None if (found := error(record)) is None else 100 - found
