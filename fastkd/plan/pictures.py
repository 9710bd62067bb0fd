"""The pictures of the papers' figures, drawn of a filled table and of what its nodes left."""

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fastkd.analysis.features import chosen_classes, drawn, embeddings_of, require_scikit_learn
from fastkd.analysis.opened import Opened
from fastkd.plan.cells import Cell, Plan
from fastkd.plan.filled import Filled, FilledTable
from fastkd.plan.findings import nodes_of_stage
from fastkd.plan.measures import MEASURES
from fastkd.recipes.tables.layout import Place
from fastkd.run.charts import DASHED, Dot, Line, colour, dot_chart, line_chart
from fastkd.run.curves import Record, Value, error_of, over_seeds, term
from fastkd.run.page import Html, join
from fastkd.support.log import read_metrics
from fastkd.support.paths import is_file

TEN_CLASSES = ("road", "bee", "lawn_mower", "bottle", "shrew", "bridge", "man", "mouse", "sweet_pepper", "cattle")
"""Those of SimKD's Figure 3."""


@dataclass(frozen=True)
class Drawing:
    """What pictures are made of."""

    found: FilledTable
    plan: Plan
    cell_of: Callable[[Place], Cell]
    data: Mapping[str, str]
    device: torch.device


def pictures(drawing: Drawing) -> Html:
    """Every picture of the table; raises UserError where a library is missing."""
    return join(PICTURES[name](drawing) for name in drawing.found.table.pictures)


def _dots(drawing: Drawing) -> Html:
    """A chart for each measure, with a line for each row, and the printed figure beside ours."""
    charts = []
    for measure, cells in _by_measure(drawing.found.cells).items():
        charts.append(dot_chart(MEASURES[measure].title, [dot for cell in cells for dot in _dots_of(cell, cell.row)]))
    return join(charts)


def _lines(drawing: Drawing) -> Html:
    """A line for each column over the numbers that its rows have: α = 0.2, r = 4."""
    lines = []
    for number, column in enumerate(drawing.found.columns):
        cells = [cell for cell in drawing.found.cells if cell.column == column and _number_in(cell.row) is not None]
        ours = sorted((_number_in(cell.row) or 0.0, cell.ours.mean) for cell in cells if cell.ours)
        printed = sorted((_number_in(cell.row) or 0.0, cell.printed.value) for cell in cells if cell.printed)
        lines.append(Line(column, ours, colour(number)))
        lines.append(Line(f"{column}, printed", printed, colour(number), DASHED))
    first = drawing.found.rows[0].partition(" =")[0]
    return line_chart("test accuracy, %", first, lines)


def _trade_off(drawing: Drawing) -> Html:
    """Accuracy over the pruning ratio, a line for each pair; ratios need no training."""
    at = {(cell.row, cell.column, cell.measure): cell for cell in drawing.found.cells}
    lines = []
    for place, column in enumerate(column for column in drawing.found.columns if ":" not in column):
        ours, printed = [], []
        for row in drawing.found.rows:
            accuracy, ratio = at.get((row, column, "best")), at.get((row, f"{column}: pruning ratio", "pruning ratio"))
            if accuracy is None or ratio is None or ratio.ours is None:
                continue
            ours += [(ratio.ours.mean, accuracy.ours.mean)] if accuracy.ours else []
            printed += [(ratio.ours.mean, accuracy.printed.value)] if accuracy.printed else []
        lines.append(Line(column, sorted(ours), colour(place)))
        lines.append(Line(f"{column}, printed", sorted(printed), colour(place), DASHED))
    return line_chart("test accuracy, %", "pruning ratio, %", lines)


EDGES = (-5.0, 0.0, 1.0, 2.0, 3.0, 5.0, 12.0)


def least_costs(cells: Iterable[Filled], value: Callable[[Filled], float | None]) -> dict[str, float | None]:
    """The least cost of the pruning ratio at which SimKD is the best of all methods, by pair; None where it is best
    with no factor, or something is not there. value: what is taken of a cell, ours or the printed figure."""
    rivals: dict[str, list[float | None]] = {}
    own: dict[str, dict[str, dict[str, float | None]]] = {}
    for cell in cells:
        pair, _, rest = cell.column.partition(":")
        if cell.row.startswith("r ="):
            own.setdefault(pair, {}).setdefault(cell.row, {})["cost" if rest else "accuracy"] = value(cell)
        elif cell.row != "SimKD":
            rivals.setdefault(pair, []).append(value(cell))
    found: dict[str, float | None] = {}
    for pair, factors in own.items():
        others = rivals.get(pair, [])
        best = max((one for one in others if one is not None), default=None)
        known = [one for one in factors.values() if one.get("accuracy") is not None and one.get("cost") is not None]
        complete = best is not None and None not in others
        costs = [one["cost"] for one in known if complete and (one["accuracy"] or 0.0) > (best or 0.0)]
        found[pair] = min((cost for cost in costs if cost is not None), default=None)
    return found


def _least_costs(drawing: Drawing) -> Html:
    """How many pairs have a least cost between two edges: in print, and of ours that are whole."""
    ways = {
        "printed": lambda cell: None if cell.printed is None else cell.printed.value,
        "ours": lambda cell: None if cell.ours is None else cell.ours.mean,
    }
    dots = []
    for series, value in ways.items():
        costs = [cost for cost in least_costs(drawing.found.cells, value).values() if cost is not None]
        for low, high in itertools.pairwise(EDGES):
            count = sum(low <= cost < high for cost in costs)
            if costs:
                dots.append(Dot(f"{low:g} to {high:g} %", series, count, 0.0, hollow=series == "printed"))
    return dot_chart("pairs by the least cost of the pruning ratio", dots)


def _curves(drawing: Drawing) -> Html:
    """The student's KL, where it has one, and its test error, over the epochs: a line for each column."""
    logs = {column: _logs(drawing, column) for column in drawing.found.columns}
    charts: dict[str, Value] = {"KL of the loss": term("student", "kl"), "test error, %": error_of("student")}
    return join(_chart(title, logs, value) for title, value in charts.items())


def _chart(title: str, logs: Mapping[str, Sequence[Sequence[Record]]], value: Value) -> Html:
    lines = []
    for column, records in logs.items():
        points, band = over_seeds(records, value)
        lines.append(Line(column, points, band=band))
    return line_chart(title, "epoch", lines)


def _logs(drawing: Drawing, column: str) -> list[list[dict[str, Any]]]:
    place = next(one for one in drawing.found.table.places if one.column == column and one.stage == "student")
    files = [drawing.plan.folder(node) / "metrics.jsonl" for node in nodes_of_stage(drawing.cell_of(place), "student")]
    return [read_metrics(file) for file in files if is_file(file)]


def _tsne(names: tuple[str, ...]) -> Callable[[Drawing], Html]:
    def draw(drawing: Drawing) -> Html:
        place = next(one for one in drawing.found.table.places if one.stage == "student")
        node = nodes_of_stage(drawing.cell_of(place), "student")[0]
        if not drawing.plan.finished(node):
            return Html("")
        require_scikit_learn()
        own = node.beside.data.partition(":")[0]
        data = drawing.data.get(own, own)
        opened = Opened.of(drawing.plan.folder(node), drawing.device, data=data, names=("teacher", "student"))
        features, labels = embeddings_of(opened)
        known = names if set(names) <= set(opened.data.classes) else ()  # other data than CIFAR-100 with its names
        title = f"t-SNE of {len(known) or len(opened.data.classes)} classes"
        return drawn(title, features, labels, opened.data.classes, chosen_classes(known, opened.data.classes))

    return draw


def _dots_of(cell: Filled, row: str, series: str = "ours") -> list[Dot]:
    found = []
    if cell.ours is not None:
        found.append(Dot(row, series, cell.ours.mean, cell.ours.std or 0.0))
    if cell.printed is not None:
        words = f"{series}, printed" if series != "ours" else "printed"
        found.append(Dot(row, words, cell.printed.value, cell.printed.std or 0.0, hollow=True))
    return found


def _by_measure(cells: Iterable[Filled]) -> dict[str, list[Filled]]:
    found: dict[str, list[Filled]] = {}
    for cell in cells:
        key = "top1" if cell.measure == "best" else cell.measure
        found.setdefault(key, []).append(cell)
    return found


def _number_in(row: str) -> float | None:
    match = re.search(r"= (\d+(?:\.\d+)?)", row)
    return float(match[1]) if match else None


PICTURES: dict[str, Callable[[Drawing], Html]] = {
    "dots": _dots,
    "lines": _lines,
    "trade-off": _trade_off,
    "least costs": _least_costs,
    "curves": _curves,
    "t-SNE": _tsne(()),
    "t-SNE of ten classes": _tsne(TEN_CLASSES),
}
"""By the names that a `Table` has for them."""
