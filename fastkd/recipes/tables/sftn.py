"""The tables of "Learning Student-Friendly Teacher Networks for Knowledge Distillation" (Park et al. 2021).

A cell has two figures: the first belongs to a teacher trained in the standard way, the second to a student-friendly
one. Tables 1 to 9 are the paper's, 13 to 18 its supplement's.
"""

from dataclasses import replace
from typing import Any, Literal, cast

from fastkd.recipes.recipe import Published
from fastkd.recipes.tables.entry import Entry, Omitted
from fastkd.recipes.tables.grid import Grid, figure
from fastkd.recipes.tables.layout import Chart, Place, Printed, Summary, Table, key_of, of_entries
from fastkd.recipes.tables.sftn_grids import (
    COLLABORATIVE,
    METHODS,
    OF_SFTN_4,
    SIMILARITY,
    SWEEPS,
    TABLE_1,
    TABLE_3,
    TABLE_3_TOP5,
    TABLE_4,
    TABLE_8,
    TABLE_9,
    TABLE_13,
    TABLE_17,
    TABLE_18,
)

OMITTED = (
    Omitted(
        paper="SFTN",
        table="Figures 3, 4",
        what="teachers' accuracies of Figure 4",
        why="the paper draws them without numbers; they are measured",
    ),
    Omitted(
        paper="SFTN",
        table="Tables 10 to 12, 20 to 22, Figures 1, 2, 6 to 8",
        what="diagrams and the architectures of VGG13 and VGG8",
        why="nothing is trained for them: the networks and their branches are built so",
    ),
)

_Kind = Literal["standard", "sftn"]


def _entry(table: str, pair: str, method: str, kind: _Kind, **more: Any) -> Entry:
    teacher, _, student = pair.partition("/")
    recipe = "imagenet-sftn" if table == "Table 3" else "cifar100-sftn"
    return Entry(
        paper="SFTN",
        table=table,
        recipe=recipe,
        teacher=teacher,
        student=student,
        method=method,
        teacher_training=kind,
        **more,
    )


def _main(table: str, grid: Grid) -> list[Entry]:
    """The entries of a table that compares both teachers for all methods."""
    source, found = f"SFTN, {table}", []
    for number, pair in enumerate(grid.columns):
        for row, method in METHODS.items():
            if row not in grid.rows:
                continue
            for place, kind in enumerate(("standard", "sftn")):
                figures = {
                    "teacher": figure(grid.rows["teacher"][number].split()[place], source),
                    "student": figure(grid.rows[row][number].split()[place], source),
                    "control": figure(grid.rows["student"][number], source),
                }
                found.append(_entry(table, pair, method, kind, row=row, figures=figures))
    return found


_SWEPT = {
    "sftn.temperature": "τ = ",
    "sftn.kl-weight": "λ_KL = ",
    "sftn.ce-weight": "λ_CE = ",
    "sftn.teacher-weight": "λ_T = ",
    "branch-blocks": "branch ",
}


def _swept() -> list[Entry]:
    found = []
    for table, (options, grid) in SWEEPS.items():
        for row, cells in grid.rows.items():
            for pair, cell in zip(grid.columns[:-1], cells[:-1], strict=True):
                teacher, student = (figure(part, f"SFTN, {table}") for part in cell.split())
                figures = {"teacher": teacher, "student": student}
                name = row if row == "standard" else f"{_SWEPT[options[-1]]}{row}"
                in_table = {"row": name, "column": pair, "teacher_row": f"{name}: teacher"}
                kind, given = ("standard", {}) if row == "standard" else ("sftn", _swept_options(options, row))
                found.append(_entry(table, pair, "kd", kind, options=given, **in_table, figures=figures))
    return found


def _swept_options(options: tuple[Any, ...], row: str) -> dict[str, Any]:
    """options: (name of what is swept), or (name, value of what is fixed, name of what is swept)."""
    *fixed, swept = options
    if swept == "branch-blocks":
        return {} if row == "1+2" else {"branch-blocks": (int(row),)}
    return dict([fixed] if fixed else []) | {swept: float(row)}


def _averages() -> dict[str, tuple[Summary, ...]]:
    """The printed AVG of every row of the sweeps, and of every row of their teachers."""
    found = {}
    for table, (options, grid) in SWEEPS.items():
        printed: dict[str, float] = {}
        for row, cells in grid.rows.items():
            name = row if row == "standard" else f"{_SWEPT[options[-1]]}{row}"
            printed[f"{name}: teacher"], printed[name] = map(float, cells[-1].split())
        found[table] = (Summary("AVG", "row", printed=printed),)
    return found


def _collaborative() -> list[Entry]:
    found, source = [], "SFTN, Table 4"
    for row, (method, options) in COLLABORATIVE.items():
        cells = zip(TABLE_4.columns, TABLE_4.rows[row], TABLE_4.rows["student"], strict=True)
        for pair, student, control in cells:
            figures = {"student": figure(student, source), "control": figure(control, source)}
            kind, choices = ("sftn" if row.startswith("SFTN") else "standard"), OF_SFTN_4 * (row == "SFTN-4")
            of_row = {"options": options, "row": row, "column": pair, "choices": choices}
            found.append(_entry("Table 4", pair, method, kind, **of_row, figures=figures))
    return found


def _branch_sizes() -> list[Entry]:
    found, source = [], "SFTN, Table 9"
    for pair, grid in TABLE_9.items():
        for number, branch in enumerate(grid.columns):
            for row, method in METHODS.items():
                if row in grid.rows:
                    figures = {
                        name: figure(grid.rows[line][number], source)
                        for name, line in (("teacher", "teacher"), ("student", row))
                    }
                    of_column = {"options": {"branch": branch}, "column": f"{pair}, branches {branch}", "row": row}
                    found.append(_entry("Table 9", pair, method, "sftn", **of_column, figures=figures))
    return found


def _mobile() -> list[Entry]:
    found: list[Entry] = []
    for teacher, cell in zip(TABLE_13.columns, TABLE_13.rows["KD"], strict=True):
        for kind, part in zip(("standard", "sftn"), cell.split(), strict=True):
            figures: dict[str, Published] = {
                "student": figure(part, "SFTN, Table 13"),
                "control": figure(TABLE_13.rows["student"][0], "SFTN, Table 13"),
            }
            found.append(_entry("Table 13", f"{teacher}/MobileNetV2", "kd", kind, figures=figures))
    return found


ENTRIES = (
    *_main("Table 17", TABLE_17),
    *_main("Table 18", TABLE_18),
    *_main("Table 1", TABLE_1),
    *_main("Table 3", TABLE_3),
    *_collaborative(),
    *_branch_sizes(),
    *_swept(),
    *_mobile(),
)
"""All entries of the paper. For a run that two tables have a figure for, the first entry counts."""


def _best(*grids: Grid) -> tuple[Summary, ...]:
    """The printed best of every column of tables with both kinds of teacher."""
    printed = {}
    for grid in grids:
        for pair, cell in zip(grid.columns, grid.rows["Best"], strict=True):
            for kind, part in zip(("standard", "sftn"), cell.split(), strict=True):
                printed[f"{pair}, {kind}"] = figure(part, "").top1
    return (Summary("Best", "column", "best", printed),)


def _of_branch_sizes(row: str, how: Literal["mean", "best"]) -> Summary:
    printed = {
        f"{pair}, branches {branch}": float(grid.rows[row][number])
        for pair, grid in TABLE_9.items()
        for number, branch in enumerate(grid.columns)
    }
    return Summary(row, "column", how, printed)


def _measured(name: str, measure: str, grid: Grid, title: str) -> Table:
    """A table of the same runs' similarity to their teachers."""
    places, averages = [], {}
    for number, pair in enumerate(grid.columns):
        for row, cells in grid.rows.items():
            for kind, part in zip(("standard", "sftn"), cells[number].split(), strict=True):
                column = f"{pair}, {kind}{title}"
                if row == "AVG":
                    averages[column] = float(part)
                else:
                    entry = _entry(name, pair, METHODS[row], cast(_Kind, kind), row=row, figures={})
                    places.append(Place(row, column, entry, "student", measure, Printed(float(part))))
    return Table("SFTN", name, tuple(places), (Summary("AVG", "column", printed=averages),))


def _with_top5(table: Table) -> Table:
    """Table 3, whose other half are hits among the first five."""
    printed = {}
    for row, cells in TABLE_3_TOP5.rows.items():
        parts = cells[0].split()
        printed[row] = parts if len(parts) > 1 else parts * 2
    places, best = [], {}
    for place in table.places:
        row = {"teacher": "teacher", "control": "student"}.get(place.stage, place.row)
        value = float(printed[row][place.entry.teacher_training == "sftn"])
        own = replace(place, column=f"{place.column}: top-5", measure="top5", printed=Printed(value))
        places.append(own)
        best[own.column] = float(printed["Best"][place.entry.teacher_training == "sftn"])
    (first,) = table.summaries
    summaries = (replace(first, printed={**first.printed, **best}),)
    return replace(table, places=(*table.places, *places), summaries=summaries)


_BOTH = {**_best(TABLE_17, TABLE_1)[0].printed, **_best(TABLE_18)[0].printed}
_ALL_BEST = (Summary("Best", "column", "best", _BOTH),)
TABLES = of_entries(
    "SFTN",
    ENTRIES,
    charts=dict.fromkeys(("Figure 3", "Figure 4"), Chart("dots")),
    also={
        "Table 1": ("Table 17",),
        "Table 2": ("Table 18",),
        "Figure 3": ("Table 17", "Table 1", "Table 18"),
        "Figure 4": ("Table 13",),
    },
    summaries={
        **dict.fromkeys(("Table 1", "Table 2", "Table 17", "Table 18", "Figure 3"), _ALL_BEST),
        "Table 3": _best(TABLE_3),
        **_averages(),
        "Table 9": (_of_branch_sizes("Average", "mean"), _of_branch_sizes("Best", "best")),
    },
)
"""Every table, as it is printed."""
TABLES["3"] = _with_top5(TABLES["3"])
for _name, (_measure, _grid) in SIMILARITY.items():
    TABLES[key_of(_name)] = _measured(_name, _measure, _grid, "")
_EIGHT = [_measured("Table 8", measure, grid, f": {measure.upper()}") for measure, grid in TABLE_8.items()]
TABLES["8"] = Table(
    "SFTN",
    "Table 8",
    tuple(place for table in _EIGHT for place in table.places),
    (Summary("AVG", "column", printed={**_EIGHT[0].summaries[0].printed, **_EIGHT[1].summaries[0].printed}),),
)
