"""python -m fastkd.sweep RECIPE --over OPTION=A,B,C …: every combination of some options' values, as one table."""

import contextlib
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fastkd import reproduce
from fastkd.data import DATASETS, with_absolute_path
from fastkd.recipes import RECIPES
from fastkd.recipes.published import choice_of
from fastkd.recipes.tables import Entry
from fastkd.recipes.tables.layout import Place, Table
from fastkd.support.command_line import command, read_options
from fastkd.support.errors import UserError, nearest
from fastkd.support.ranges import Seed, whole

PROGRAM = "python -m fastkd.sweep"
_MOST = 10_000
"""Combinations of one sweep."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Trains a recipe with every combination of the values of some options, each training once, and shows one table.

    Teachers that several combinations have in common are trained once. Called again it goes on; called several times at
    once on one folder, the calls share the work. Any other option of `python -m fastkd.train` that says how something
    is trained is given to every training.

    Examples:
      python -m fastkd.sweep digits --over sftn.temperature=1,5,10 --seeds 3
      python -m fastkd.sweep cifar100-sftn --data cifar100=PATH --over pair=vgg13/vgg8,vgg13/MobileNetV2 --seeds 3
      python -m fastkd.sweep cifar100-sftn --data imagefolder=PATH --image-size 64 --over method=kd,at
    """

    recipe: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")]
    """The name of a recipe."""
    over: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="OPTION=A,B,C")] = ()
    """An option and its values: one of a training, or pair, method, student, teacher-training; once more for each
    further one. Values that hold commas are joined by +."""
    pair: str | None = None
    """TEACHER/STUDENT of all combinations (default: the recipe's)."""
    method: str | None = None
    """The method of all combinations (default: the recipe's)."""
    data: Annotated[str | None, tyro.conf.arg(metavar="NAME=PATH")] = None
    """Where the recipe's data set lies, or another one that is taken instead: csv=FILE, imagefolder=PATH, or a function
    package.module:function."""
    out: Path | None = None
    """Folder of trainings, cells and tables (default: runs/sweep)."""
    seed: Seed = 0
    """The first seed."""
    seeds: Annotated[int, whole(1, 10_000)] = 1
    """Students of every combination."""
    teachers: Annotated[int, whole(1, 10_000)] = 1
    """Teachers of every combination, which its students share out among them."""
    plan: bool = False
    """Show trainings, hours and bytes, and train nothing."""
    time_steps: bool = False
    """Take a few steps of every kind of training first: the hours are unknown without that, or a finished one."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it is computed; auto: on a GPU where there is one."""
    unlocked: bool = False
    """Go on where the file system has no locks."""


def main(arguments: list[str]) -> int:
    own, others = reproduce.divided(arguments, Options)
    options = read_options(Options, own, program=PROGRAM)
    table = _table(options)
    shared = ("seed", "seeds", "teachers", "plan", "time_steps", "device", "unlocked")
    how: dict[str, Any] = {name: getattr(options, name) for name in shared}
    out = options.out or Path("runs") / "sweep"
    return reproduce.carry_out(table, reproduce.Options(paper="sweep", out=out, **how), others, data=_data(options))


def _data(options: Options) -> dict[str, str]:
    """What is read, by the name of the data set that the recipe reads otherwise."""
    if options.data is None:
        return {}
    name, _, path = options.data.partition("=")
    spec = f"{name}:{path}" if name in DATASETS and path else options.data
    return {RECIPES[options.recipe]().data.partition(":")[0]: with_absolute_path(spec)}


def _table(options: Options) -> Table:
    """A row for each combination, with the accuracies of teacher and student."""
    if options.recipe not in RECIPES:
        raise UserError(f"no recipe {options.recipe!r}{nearest(options.recipe, RECIPES)}")
    if not options.over:
        raise UserError("--over OPTION=A,B,C says what is tried")
    values = [_values(word) for word in options.over]
    names = [name for name, _ in values]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"--over {twice} is given twice")
    combinations = list(itertools.product(*(several for _, several in values)))
    if len(combinations) > _MOST:
        raise UserError(f"--over makes {len(combinations):,} combinations, more than {_MOST:,}")
    rows = [dict(zip(names, one, strict=True)) for one in combinations]
    places = [place for row in rows for place in _places(options, row)]
    return Table("Sweep", options.recipe, tuple(places))


def _values(word: str) -> tuple[str, tuple[str, ...]]:
    name, equals, given = word.partition("=")
    several = tuple(given.split(","))
    if not equals or not name or not all(several):
        raise UserError(f"--over is OPTION=A,B,C, as in kd.temperature=1,4, got {word!r}")
    if len(set(several)) < len(several):
        raise UserError(f"--over {name} has a value twice: {given}")
    return name.removeprefix("--").replace("_", "-"), several


def _places(options: Options, row: dict[str, str]) -> Iterator[Place]:
    chosen = choice_of(RECIPES[options.recipe]())
    pair = row.get("pair") or options.pair or f"{chosen.get('teacher_net', '')}/{chosen['student']}"
    teacher, slash, student = pair.partition("/")
    if not slash:
        raise UserError(f"a pair is TEACHER/STUDENT, as in wrn_40_2/wrn_16_2, got {pair!r}")
    rest = {name: value for name, value in row.items() if name not in ("pair", "method", "student", "teacher-training")}
    entry = Entry(
        paper="Sweep",
        table=options.recipe,
        recipe=options.recipe,
        teacher=teacher,
        student=row.get("student", student),
        method=row.get("method") or options.method or chosen["method"],
        teacher_training=row.get("teacher-training", chosen["teacher_training"]),  # pyright: ignore[reportArgumentType]
        options={name: _as_setting(value) for name, value in rest.items()},
        figures={},
    )
    name = ", ".join(f"{option}={value}" for option, value in row.items())
    if entry.teacher:
        yield Place(name, "teacher", entry, "teacher")
    yield Place(name, "student", entry, "student")


def _as_setting(value: str) -> object:
    """A value as a setting has it: a number, a switch, a word, or several of them."""
    if "+" in value:
        return tuple(_as_setting(one) for one in value.split("+"))
    if value in ("on", "off"):
        return value == "on"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(value)
    return value


if __name__ == "__main__":
    sys.exit(command(main))
