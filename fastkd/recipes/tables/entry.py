"""What a paper's table says: a run, and the figures printed for it."""

import shlex
from dataclasses import dataclass, field
from typing import Any, Literal

from fastkd.methods import find_method, split_methods
from fastkd.recipes.recipe import Published


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One result of a paper's table."""

    paper: str
    table: str
    recipe: str
    teacher: str = ""
    """The teacher's network; empty where the method has no teacher."""
    student: str
    method: str
    teacher_training: Literal["standard", "sftn", "gtn"] = "standard"
    options: dict[str, Any] = field(default_factory=dict)
    """Settings that are not the recipe's own, by the names of their options."""
    figures: dict[str, Published]
    """A figure for each stage: teacher, student, control (the student without a teacher)."""
    row: str = ""
    """The line of the printed table that the student's figure stands in."""
    column: str = ""
    """The printed column; a SFTN teacher's is the right one of two."""
    teacher_row: str = "teacher"
    """The line of the teacher's figure, where each row of the table has a teacher of its own."""
    teacher_share: float = 1.0
    """The share of its training after which the teacher's weights are taken."""
    choices: tuple[str, ...] = ()
    """What the paper does not print of this run, and what is done, in words."""

    def arguments(self) -> list[str]:
        """What follows `python -m fastkd.train`."""
        pair = ["--pair", f"{self.teacher}/{self.student}"] if self.teacher else ["--student", self.student]
        words = [self.recipe, *pair, "--method", self.method]
        others = compares_teachers(self.recipe) and self.teacher_training != usual_teacher(self.recipe)
        if others and self._has_finished_teacher():
            words += ["--teacher-training", self.teacher_training]
        for name, value in self.options.items():
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{name}", *map(_word, values)]
        return words

    def _has_finished_teacher(self) -> bool:
        return bool(self.teacher) and not any(find_method(name).among_peers for name in split_methods(self.method))

    def command(self) -> str:
        return shlex.join(self.arguments())


def compares_teachers(recipe: str) -> bool:
    """Whether a recipe's teachers are student-friendly ones, unless it is said otherwise."""
    return usual_teacher(recipe) != "standard"


def usual_teacher(recipe: str) -> str:
    """How a recipe's teachers are trained, unless it is said otherwise."""
    if recipe.endswith("-gtn"):
        return "gtn"
    return "sftn" if recipe.endswith("-sftn") or recipe == "digits" else "standard"


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, kw_only=True)
class Omitted:
    """A table, or rows of one, that fastkd does not run."""

    paper: str
    table: str
    what: str
    why: str
