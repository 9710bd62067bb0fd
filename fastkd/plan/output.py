"""A filled table as text, CSV, LaTeX and HTML: the printed figure beside ours."""

import csv
import io

from fastkd.plan.filled import Filled, FilledTable
from fastkd.plan.measures import MEASURES
from fastkd.run.figures import Figure
from fastkd.run.page import Html, element, join
from fastkd.run.page import table as html_table

Lines = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Heads, and the rows below them."""


def as_lines(found: FilledTable) -> Lines:
    """A row for each printed row: `ours (printed) marks` in each column."""
    heads = ("", *found.columns)
    rows = [
        (row, *("  ".join(_words(cell, found.common) for cell in found.at(row, column)) for column in found.columns))
        for row in found.rows
    ]
    return heads, rows


def as_csv(found: FilledTable, *, students: int, teachers: int) -> str:
    """A line for each figure."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    heads = ("paper", "table", "row", "column", "measure", "printed", "printed_std", "ours", "ours_std")
    writer.writerow((*heads, "last_epoch", "students", "teachers", "notes"))
    for cell in found.cells:
        printed = ("", "") if cell.printed is None else (cell.printed.value, _or_nothing(cell.printed.std))
        ours = ("", "") if cell.ours is None else (repr(cell.ours.mean), _or_nothing(cell.ours.std))
        notes = "; ".join(found.notes[mark - 1] for mark in cell.marks)
        where = (found.table.paper, found.table.name, cell.row, cell.column, cell.measure)
        last = "" if cell.last is None else repr(cell.last.mean)
        writer.writerow((*where, *printed, *ours, last, students, teachers, notes))
    return file.getvalue()


def as_latex(found: FilledTable) -> str:
    """A `tabular` for the package booktabs; the printed figure stands in brackets behind ours."""
    heads, rows = as_lines(found)
    body = [" & ".join(map(_latex, line)) + r" \\" for line in (heads, *rows)]
    body = [r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule"]
    below = [f"% {_latex(note)}" for note in notes(found)]
    begin = rf"\begin{{tabular}}{{l{'r' * len(found.columns)}}}"
    return "\n".join((begin, *body, r"\end{tabular}", *below)) + "\n"


def as_html(found: FilledTable) -> Html:
    heads, rows = as_lines(found)
    below = [element("p", note, class_="note") for note in notes(found)]
    return join((html_table(heads, rows, kind="numbers"), *below))


def notes(found: FilledTable) -> list[str]:
    """What stands below the table: notes of single figures by their marks, and those of all."""
    of_all = [f"all figures  {note}" for number, note in enumerate(found.notes, 1) if number in found.common]
    return of_all + [f"[{number}] {note}" for number, note in enumerate(found.notes, 1) if number not in found.common]


def _words(cell: Filled, common: set[int]) -> str:
    digits = MEASURES[cell.measure].digits
    ours = "-" if cell.ours is None else cell.ours.show(digits)
    printed = "" if cell.printed is None else f" ({Figure(*cell.printed).show(digits)})"
    own = [str(mark) for mark in cell.marks if mark not in common]
    marks = f" [{','.join(own)}]" if own else ""
    last = "" if cell.last is None else f" last {cell.last.show(digits)}"
    return f"{ours}{last}{printed}{marks}"


def _or_nothing(value: float | None) -> str:
    return "" if value is None else repr(value)


_LATEX = str.maketrans({character: f"\\{character}" for character in "&%$#_{}"} | {"±": r"$\pm$", "→": r"$\to$"})


def _latex(text: str) -> str:
    return text.replace("\\", r"\textbackslash ").translate(_LATEX)
