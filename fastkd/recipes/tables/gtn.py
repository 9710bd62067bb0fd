"""GTN's supplement: its students as tables of runs, and its figure. It prints no results: every place is empty.

The paper's own tables could not be read. Tables 1-3 print the students' layers; here they hold the trainings that the
supplement describes for each student: teachers of three kinds, and three methods.
"""

from collections.abc import Iterator
from itertools import product

from fastkd.recipes.tables.entry import Entry, Omitted
from fastkd.recipes.tables.layout import Place, Table

_PAPER = "GTN (2024), supplement"
_KINDS = ("standard", "sftn", "gtn")
_METHODS = ("kd", "dkd", "sckd")
_CIFAR_TEACHERS = ("resnet32", "resnet32x4", "wrn_40_2")
_STUDENTS = {"Table 1": "gtn_nas_s", "Table 2": "gtn_nas_m", "Table 3": "gtn_nas_l"}
_BRANCHES = {"0": "stu_branch_1", "1": "stu_branch_2", "2": "stu_branch_3"}
"""What Figure 1 calls the branches on the stem and on the first two blocks of a CIFAR teacher."""

OMITTED = (
    Omitted(
        paper="GTN (2024)",
        table="the paper's own tables",
        what="all results",
        why="its text could not be obtained; the supplement prints no figure to set beside a run",
    ),
    Omitted(
        paper=_PAPER,
        table="Section 4",
        what="the time cost of SFTN and GTN",
        why="no number is printed; images a second of every training are in its metrics.jsonl",
    ),
)


def _entries(table: str, recipe: str, teachers: tuple[str, ...], students: tuple[str, ...]) -> Iterator[Entry]:
    for teacher, kind, student, method in product(teachers, _KINDS, students, _METHODS):
        yield Entry(
            paper=_PAPER,
            table=table,
            recipe=recipe,
            teacher=teacher,
            student=student,
            method=method,
            teacher_training=kind,
            figures={},
        )


def _places(entry: Entry) -> Iterator[Place]:
    column = f"{entry.teacher}/{entry.student}, {entry.teacher_training}"
    yield Place("teacher", column, entry, "teacher")
    yield Place("student without a teacher", column, entry, "control")
    yield Place(entry.method, column, entry, "student")
    yield Place("student's parameters", column, entry, "student", "parameters")


def _table(name: str, entries: list[Entry]) -> Table:
    first: dict[tuple[str, str], Place] = {}
    for place in (place for entry in entries for place in _places(entry)):
        first.setdefault((place.row, place.column), place)
    return Table(_PAPER, name, tuple(first.values()))


def _figure(entry: Entry) -> Table:
    """The accuracies that the curves end with; the report of the run draws each branch beside the teacher."""
    column = f"{entry.teacher} on CIFAR-100"
    branches = [Place(name, column, entry, "teacher", f"branch {block}") for block, name in _BRANCHES.items()]
    return Table(_PAPER, "Figure 1", (Place("teacher", column, entry, "teacher"), *branches))


_BY_TABLE = {
    name: list(_entries(name, "cifar100-gtn", _CIFAR_TEACHERS, (student,))) for name, student in _STUDENTS.items()
}
_BY_TABLE["ImageNet-200"] = list(
    _entries(
        "ImageNet-200",
        "imagenet200-gtn",
        ("torchvision_efficientnet_b0",),
        tuple(f"{student}_imagenet" for student in _STUDENTS.values()),
    )
)
ENTRIES = tuple(entry for entries in _BY_TABLE.values() for entry in entries)
_OF_FIGURE = next(e for e in ENTRIES if (e.teacher, e.teacher_training) == ("resnet32", "gtn"))
_TABLES = (*(_table(name, entries) for name, entries in _BY_TABLE.items()), _figure(_OF_FIGURE))
TABLES = {table.key: table for table in _TABLES}
