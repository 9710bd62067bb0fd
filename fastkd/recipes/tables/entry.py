"""What a paper's table says: a run, and the figures printed for it."""

import shlex
from dataclasses import dataclass, field
from typing import Any, Literal

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
    teacher_training: Literal["standard", "sftn"] = "standard"
    options: dict[str, Any] = field(default_factory=dict)
    """Settings that are not the recipe's own, by the names of their options."""
    figures: dict[str, Published]
    """A figure for each stage: teacher, student, control (the student without a teacher)."""

    def arguments(self) -> list[str]:
        """What follows `python -m fastkd.train`."""
        pair = ["--pair", f"{self.teacher}/{self.student}"] if self.teacher else ["--student", self.student]
        words = [self.recipe, *pair, "--method", self.method]
        if self.teacher and self.teacher_training == "standard" and self.recipe.endswith("-sftn"):
            words += ["--teacher-training", "standard"]  # these recipes' default is the other
        for name, value in self.options.items():
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{name}", *map(_word, values)]
        return words

    def command(self) -> str:
        return shlex.join(self.arguments())


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
