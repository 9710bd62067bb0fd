"""A table of our own: teachers by students by methods on the handwritten digits, in minutes on two cores."""

from collections.abc import Iterator
from itertools import product
from typing import Any

from fastkd.recipes.tables.entry import Entry
from fastkd.recipes.tables.layout import Chart, Place, Table

_PAIRS = ("wrn_16_2/resnet8", "wrn_16_2/ShuffleV2_0_2")
_METHODS: dict[str, dict[str, Any]] = {
    "kd": {},
    "dkd": {},
    "kd+fitnet": {},
    "kd+at": {"at.weight": 62.5},  # its maps have a sixteenth of the pixels that they have on CIFAR
    "kd+sp": {},
    "simkd": {"simkd.weight": 10.0},  # no other loss sets the length of a step, and there are a hundredth of the steps
    "crd": {"crd.negatives": 256},
}
_MEASURES = {"top1": "top-1 %", "agreement": "same top-1 as the teacher %", "kl": "KL to the teacher"}


def _places() -> Iterator[Place]:
    for pair, kind, (method, options) in product(_PAIRS, ("standard", "sftn"), _METHODS.items()):
        teacher, student = pair.split("/")
        entry = Entry(
            paper="Digits",
            table="Digits",
            recipe="digits",
            teacher=teacher,
            student=student,
            method=method,
            teacher_training=kind,
            options=options,
            figures={},
        )
        column = f"{pair}, {kind}"
        yield Place("teacher", f"{column}: top-1 %", entry, "teacher")
        yield Place("student without a teacher", f"{column}: top-1 %", entry, "control")
        for measure, title in _MEASURES.items():
            yield Place(method, f"{column}: {title}", entry, "student", measure)


def _table() -> Table:
    first: dict[tuple[str, str], Place] = {}
    for place in _places():
        first.setdefault((place.row, place.column), place)
    return Table("Digits", "Digits", tuple(first.values()), chart=Chart("dots"), compared=True)


TABLES = {"digits": _table()}
"""The one table, which no paper prints."""
