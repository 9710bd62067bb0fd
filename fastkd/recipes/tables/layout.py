"""The papers' tables as they are printed: which figure stands where, and whose run it is."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, Protocol

from fastkd.recipes.findings import Finding
from fastkd.recipes.recipe import Published
from fastkd.recipes.tables.entry import Entry, compares_teachers
from fastkd.support.errors import UserError, nearest


class Printed(NamedTuple):
    """A figure of a table, in the unit of its measure."""

    value: float
    std: float | None = None


@dataclass(frozen=True)
class Place:
    """A cell of a table: where it stands, what is printed there, and which run measures it."""

    row: str
    column: str
    entry: Entry
    stage: str
    """teacher, student or control."""
    measure: str = "top1"
    """A row of `fastkd.plan.measures.MEASURES`."""
    printed: Printed | None = None
    """None: the paper prints nothing there."""
    finding: Finding | None = None
    """What has to be measured for it once the training is finished; None: its own results say it."""


@dataclass(frozen=True)
class Summary:
    """A row or column that is computed of the others: AVG, Average, Best."""

    name: str
    along: Literal["row", "column"]
    """row: one figure for each row, of its columns; column: one for each column, of its students."""
    how: Literal["mean", "best"] = "mean"
    printed: dict[str, float] = field(default_factory=dict)
    """What the paper prints there, by the name of the row or column; others are not summed up if anything is."""


class Chart(NamedTuple):
    """How a paper's figure is drawn of the cells."""

    kind: Literal["dots", "curves", "against"]
    """dots: each figure; curves: along the epochs; against: students over their teachers' accuracy."""
    term: str = ""
    """What curves show: a term of the training's loss; empty: accuracy on the test images."""


@dataclass(frozen=True)
class Table:
    """A printed table, or a figure that is drawn of such."""

    paper: str
    name: str
    """`Table 17`"""
    places: tuple[Place, ...]
    summaries: tuple[Summary, ...] = ()
    caption: str = ""
    notes: tuple[str, ...] = ()
    """What holds for all of its figures, in words."""
    pictures: tuple[str, ...] = ()
    """What is drawn beside it: rows of `fastkd.plan.pictures.PICTURES`."""
    chart: Chart | None = None
    compared: bool = False
    """Whether the differences between its cells are shown, too."""
    computed: str = ""
    """A row of `fastkd.plan.computed.COMPUTED`: what is shown beside, or instead of, figures of trainings."""

    @property
    def title(self) -> str:
        return self.name if self.name == self.paper else f"{self.paper}, {self.name}"

    @property
    def key(self) -> str:
        """How --table names it: 17, S.8, fig2."""
        return key_of(self.name)

    @property
    def rows(self) -> list[str]:
        return rows_in_order(self.places)

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(place.column for place in self.places))


def key_of(name: str) -> str:
    kind, _, number = name.partition(" ")
    number = number.replace("(", "").replace(")", "")
    return {"Table": number, "Figure": f"fig{number}"}.get(kind, name.lower())


def laid_out(paper: str, name: str, entries: Iterable[Entry], *, transposed: bool = False, **more: object) -> Table:
    """The table of some entries: a column for each pair and kind of teacher, a row for each method.

    transposed: a row for each pair, a column for each method, as Tf-KD prints them.
    """
    places: dict[tuple[str, str], Place] = {}
    for entry in entries:
        for place in _places(entry):
            where = (place.column, place.row) if transposed else (place.row, place.column)
            places.setdefault(where, replace(place, row=where[0], column=where[1]))
    return Table(paper, name, tuple(places.values()), **more)  # pyright: ignore[reportArgumentType]


class InTable(Protocol):
    """What stands in a row of a table and is of a stage."""

    @property
    def row(self) -> str: ...

    @property
    def stage(self) -> str: ...


def rows_in_order(cells: Iterable[InTable]) -> list[str]:
    """The rows as papers have them: those of teachers, of students without one, of methods."""
    stages: dict[str, str] = {}
    for cell in cells:
        stages.setdefault(cell.row, cell.stage.partition("-")[0])
    return sorted(stages, key=lambda row: _RANK[stages[row]])


_RANK = {"teacher": 0, "control": 1, "student": 2}
_NAMES = {"teacher": "teacher", "control": "student without a teacher"}


def _places(entry: Entry) -> Iterator[Place]:
    pair = f"{entry.teacher}/{entry.student}" if entry.teacher else entry.student
    column = entry.column or (f"{pair}, {entry.teacher_training}" if compares_teachers(entry.recipe) else pair)
    for stage, figure in {**entry.figures, "student": entry.figures.get("student")}.items():
        own = _NAMES.get(stage, stage) if stage != "student" else entry.row or _method(entry)
        if stage == "teacher":
            own = entry.teacher_row
        of_best = figure is not None and "best epoch" in figure.source
        yield Place(own, column, entry, stage, "best" if of_best else "top1", _printed(figure))


def _method(entry: Entry) -> str:
    return " ".join([entry.method, *(f"{name} {value}" for name, value in entry.options.items() if name != "branch")])


def _printed(figure: Published | None) -> Printed | None:
    return None if figure is None else Printed(figure.top1, figure.std)


def of_entries(
    paper: str,
    entries: Sequence[Entry],
    *,
    also: dict[str, tuple[str, ...]] | None = None,
    summaries: dict[str, tuple[Summary, ...]] | None = None,
    charts: dict[str, Chart] | None = None,
    transposed: bool = False,
) -> dict[str, Table]:
    """Every table of a paper, by its key.

    also: the tables whose entries are printed in another one, too, by its name. summaries: those of a table, by its
    name. charts: how those are drawn that are figures.
    """
    also, summaries, charts = also or {}, summaries or {}, charts or {}
    found = {}
    for name in dict.fromkeys((*(entry.table for entry in entries), *also)):
        own = [entry for one in (*also.get(name, ()), name) for entry in entries if entry.table == one]
        how = {"summaries": summaries.get(name, ()), "chart": charts.get(name)}
        table = laid_out(paper, name, own, transposed=transposed, **how)
        found[table.key] = table
    return found


def pick(tables: dict[str, Table], paper: str, key: str | None) -> Table:
    """The table of that key; raises UserError, which names those there are."""
    if key is None and len(tables) == 1:
        return next(iter(tables.values()))
    if key is None:
        raise UserError(f"name one of the tables of {paper} by --table: {', '.join(tables)}")
    key = key.lower().removeprefix("table").strip() if key.lower() not in tables else key.lower()
    by_lower = {name.lower(): table for name, table in tables.items()}
    if key not in by_lower:
        raise UserError(f"{paper} has no table {key!r} that fastkd runs{nearest(key, by_lower)}")
    return by_lower[key]
