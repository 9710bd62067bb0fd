"""A kernel in the form that the engines execute: registers, constants and special registers as numbered slots."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from .forms import Form, Machine
from .syntax import Instruction, Kernel

NONE = -1
"""In place of a slot: an operand that is not there."""

SPECIAL = (
    *(f"%{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"),
    *("%laneid", "%warpid", "%lanemask_eq", "%lanemask_lt", "%lanemask_le", "%lanemask_gt", "%lanemask_ge"),
)
"""Special registers, 32 bits each."""

SPACES = {"global": 0, "shared": 1, "param": 2}


class Slot(NamedTuple):
    name: str
    bits: int
    """Of its container: 1 (a predicate), 16, 32 or 64."""
    value: int | None = None
    """Of a constant."""


class Coded(NamedTuple):
    form: Form
    slots: tuple[int, ...]
    numbers: tuple[int, ...]
    guard: int
    unless: bool
    instruction: Instruction

    @property
    def action(self) -> str:
        return self.form.action if isinstance(self.form, Machine) else "lane"

    @property
    def written_range(self) -> tuple[int, int]:
        """Which of its slots it writes: from, to."""
        first, last = _WRITTEN.get(self.action, (0, 0))
        if isinstance(self.form, Machine) and self.action == "multiply_async":
            last = int(self.form["n"]) // 2
        return first, self.numbers[0] if self.action == "pack" else len(self.slots) if last is None else last

    @property
    def written(self) -> tuple[int, ...]:
        """The slots that it writes."""
        return self.slots[slice(*self.written_range)]


_WRITTEN = {
    "lane": (0, 1),
    "load": (1, None),
    "load_matrix": (1, None),
    "atomic": (0, 1),
    "barrier": (2, 3),
    "shuffle": (0, 2),
    "vote": (0, 1),
    "reduce": (0, 1),
    "elect": (0, 2),
    "active": (0, 1),
    "pack": (0, 0),
    "multiply": (0, 4),
    "multiply_async": (0, 0),
}
"""Where in `slots` an action's destinations stand."""


@dataclass(eq=False)
class Program:
    kernel: Kernel
    slots: list[Slot] = field(default_factory=list)
    code: list[Coded] = field(default_factory=list)
    shared_bytes: int = 0
    """Of the variables of a fixed size; what the launch adds begins there."""
    parameter_places: list[int] = field(default_factory=list)
    parameter_bytes: int = 0

    @property
    def name(self) -> str:
        return self.kernel.name

    @cached_property
    def cell(self) -> dict[str, int]:
        """Bytes of the smallest access of each space: memory is watched in pieces of this size."""
        sizes: dict[str, list[int]] = {"global": [16], "shared": [16]}
        for coded in self.code:
            for space, size in _accesses(coded):
                sizes[space].append(size)
        return {space: min(found) for space, found in sizes.items()}

    @cached_property
    def actions(self) -> set[str]:
        return {coded.action for coded in self.code}

    def text_of(self, place: int) -> str:
        return " ".join(self.kernel.text[self.code[place].instruction.line - 1].split())


def _accesses(coded: Coded) -> list[tuple[str, int]]:
    if coded.action in ("load", "store", "atomic") and coded.form["space"] != "param":
        space = "shared" if coded.form["space"].startswith("shared") else "global"
        return [(space, coded.numbers[1] * max(int(coded.form.details.get("vector", "")[1:] or 1), 1))]
    if coded.action == "copy":
        return [("global", coded.numbers[2]), ("shared", coded.numbers[2])]
    return []
