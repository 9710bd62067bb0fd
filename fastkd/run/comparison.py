"""Students beside their controls, their teachers and each other: a table and a chart of a report."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fastkd.run.charts import Dot, dot_chart
from fastkd.run.differences import Difference, difference, note
from fastkd.run.figures import SIMILARITIES, Row, rows
from fastkd.run.page import NOTHING, Html, element, join, table
from fastkd.run.shown import Shown


class Student(NamedTuple):
    """A student of a run, with what it is compared with."""

    run: Shown
    row: Row
    control: Row | None
    teacher: Row | None

    @property
    def name(self) -> Html:
        return join((self.run.name, "" if self.only else f", {self.row.name}"))

    @property
    def words(self) -> str:
        return self.run.label if self.only else f"{self.run.label}, {self.row.name}"

    @property
    def only(self) -> bool:
        return len(self.run.recipe.of_role("student")) < 2


def students(runs: Sequence[Shown]) -> Iterator[Student]:
    for run in runs:
        found = {row.name: row for row in rows(run.recipe, run.results)}
        control, teacher = (
            next((found[stage.name] for stage in run.recipe.of_role(role) if stage.name in found), None)
            for role in ("control", "teacher")
        )
        for stage in run.recipe.of_role("student"):
            if stage.name in found:
                yield Student(run, found[stage.name], control, teacher)


def comparison(runs: Sequence[Shown]) -> Iterator[Html]:
    """One row for each student, beside its control, its teacher and the first student."""
    shown = list(students(runs))
    if not shown:
        return
    first = shown[0]
    to_control = [_minus(student.row, student.control) for student in shown]
    to_first = [None if student is first else _minus(student.row, first.row) for student in shown]
    columns = {
        "student": [student.row.top1.show() for student in shown],
        "control": [student.control.top1.show() if student.control else "" for student in shown],
        "student − control": [_signed(each) for each in to_control],
        f"student − {first.words if len(first.words) <= 20 else 'first row'}": [_signed(each) for each in to_first],
        "teacher": [student.teacher.top1.show() if student.teacher else "" for student in shown],
        **{title: [alike(student.row, key, digits) for student in shown] for title, key, digits in ALIKE},
        "paper": [paper(student.row) for student in shown],
    }
    columns = {title: cells for title, cells in columns.items() if any(cells)}
    yield element("h2", "Comparison")
    yield table(
        ("run", *columns), zip((student.name for student in shown), *columns.values(), strict=True), kind="numbers"
    )
    known = [each for each in (*to_control, *to_first) if each is not None]
    if known:
        yield element("p", note(known), class_="note")
    if len(shown) > 1:
        chart = dot_chart("top-1 after the last epoch, %", [*_dots(shown)])
        yield element("div", chart, class_="charts")


ALIKE = tuple(zip(("KL to teacher", "CKA", "same top-1"), *zip(*SIMILARITIES, strict=True), strict=True))


def _minus(one: Row, other: Row | None) -> Difference | None:
    return difference(one.top1.values, other.top1.values) if other is not None else None


def _signed(found: Difference | None) -> str:
    return "" if found is None else found.show(2)


def alike(row: Row, key: str, digits: int) -> str:
    return row.similarity[key].show(digits) if key in row.similarity else ""


def _dots(students: Sequence[Student]) -> Iterator[Dot]:
    """Students, and hollow their controls; the bars are standard deviations."""
    for student in students:
        shade = student.run.curves.colour or student.run.curves.of(student.row.name)
        for name, row in (("student", student.row), ("control", student.control)):
            if row is not None:
                yield Dot(student.words, name, row.top1.mean, row.top1.std or 0.0, shade, hollow=name == "control")


def paper(row: Row) -> Html:
    if row.published is None:
        return NOTHING
    spread = "" if row.published.std is None else f" ± {row.published.std:.2f}"
    return join((f"{row.published.top1:.2f}{spread} ", element("small", row.published.source)))
