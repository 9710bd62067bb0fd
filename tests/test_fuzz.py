"""Command lines at random: whatever is typed ends with a code, or with one line that says what is wrong.

Nothing is trained: a command that would begin to has been understood. The cases follow from their number alone, so that
one that fails can be tried by itself: `-k 'test_a_line[17]'`.
"""

import dataclasses
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from helpers.image_folders import write_folder

from fastkd import api, env, evaluate, options, predict, probe, report, reproduce, status, sweep, train
from fastkd.data import DATASETS
from fastkd.data import __main__ as inspect
from fastkd.methods import METHODS, find_method
from fastkd.networks import NETWORKS
from fastkd.plan.worker import Worker
from fastkd.recipes import RECIPES
from fastkd.recipes.tables import TABLES
from fastkd.run import create_folder
from fastkd.support.command_line import _without_none, option_names
from fastkd.support.errors import UserError
from fastkd.support.fields import group_prefix, is_fixed
from fastkd.support.ranges import bare

SECONDS = 60
FEW, MANY = 24, 400
LINES = 12
"""Command lines of a case."""

NUMBERS = (
    "nan",
    "inf",
    "-inf",
    "1e39",
    "1e999",
    "9" * 21,
    "-1",
    "0",
    "1",
    "2",
    "3.5",
    "1e-320",
    "7",
    "0x10",
    "1_0",
    "٣",
)
OVER = ("kd.temperature=1,4", "lr=.1,x", "epochs=1,2", "pair=resnet8/resnet8,a/b", "method=kd,crd", "=", "x=", "lr")
ODD = (" ", "x", "é", "a" * 5000, "\udcff", "--", "-", "-h", "on", "off", "None", "{}", "[]", "\n", "%s", "🙂")
PATHS = (
    "",
    ".",
    "..",
    "/",
    "~",
    "~nobody-of-that-name/x",
    "/dev/null",
    "/dev/zero",
    "/proc/self/mem",
    "/root",
    "a/b/c",
)
NAMES = (
    ":",
    "a:",
    ":b",
    "os:path",
    "kd+",
    "+",
    "kd+kd",
    "kd+at",
    "none",
    "kd@",
    "kd/at",
    "/",
    "a/b",
    "wrn_16_2/resnet8",
)
DATA = ("imagefolder:", "imagefolder:/no/such", "cifar100:.", "cifar10:", "stl10:/dev/null", "cifar100c:.", "digits:x")


class Understood(Exception):
    """A command got as far as its training."""


COMMANDS: dict[str, tuple[Callable[[list[str]], int], type[Any]]] = {
    "train": (train.main, options.Options),
    "evaluate": (evaluate.main, evaluate.Options),
    "report": (report.main, report.Options),
    "inspect": (lambda line: inspect.main(["inspect", *line]), inspect.Options),
    "predict": (predict.main, predict.Options),
    "probe": (probe.main, probe.Options),
    "reproduce": (reproduce.main, reproduce.Options),
    "sweep": (sweep.main, sweep.Options),
    "status": (status.main, status.Options),
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to be in, with an image folder, a run that is not trained, and a file."""
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "images")
    (tmp_path / "file").write_text("{}")
    create_folder(tmp_path / "begun", RECIPES["digits"]())

    def understood(*_arguments, **_options):
        raise Understood

    for module, name in ((api, "in_folder"), (train, "in_folder"), (train, "_dry_run"), (status, "sleep")):
        monkeypatch.setattr(module, name, understood)
    monkeypatch.setattr(Worker, "work", understood)
    for module in (api, train, reproduce):
        monkeypatch.setattr(module, "check", lambda job, **_options: None)  # its own tests build every stage
    return tmp_path


def fields_of(kind: type[Any], prefix: str = "") -> list[tuple[str, Any]]:
    """(option, type) of everything that a command reads."""
    found = []
    for field in dataclasses.fields(kind):
        inner = group_prefix(field)
        if inner is not None:
            found += fields_of(field.type, f"{inner}." if inner else "")
        elif not is_fixed(field):
            found.append((prefix + field.name.replace("_", "-"), field.type))
    return found


def value_for(kind: Any, chance: random.Random) -> str:
    """Something that the option may be, or not quite, or not at all."""
    inner = bare(_without_none(kind) or kind)
    if chance.random() < 0.25:
        return chance.choice([*NUMBERS, *ODD, *PATHS, *NAMES, *DATA, "images", "begun", "file"])
    if get_origin(inner) is Literal:
        return chance.choice(get_args(inner))
    if get_origin(inner) is tuple:
        return value_for(get_args(inner)[0], chance)
    if inner is bool:
        return chance.choice(("on", "off"))
    if inner in (int, float):
        return chance.choice(("1", "2", "3", "8", "0.5", *NUMBERS))
    if inner is Path:
        return chance.choice((*PATHS, "images", "begun", "begun/recipe.json", "file", "new", "new.png", "new/x.html"))
    known = [*DATA, *NAMES, *DATASETS, *METHODS, *NETWORKS, *RECIPES, "begun/recipe.json"]
    return chance.choice([*known, *["imagefolder:images", "digits", "resnet8", "kd"] * 10])


def beginning_of(command: str, chance: random.Random) -> tuple[list[str], list[tuple[str, Any]]]:
    """The words that a command needs, now and then another, and the options that may follow."""
    known = fields_of(COMMANDS[command][1])
    if command != "train":
        usual = {
            "inspect": ("digits", "images", "imagefolder:images", "new"),
            "reproduce": (*TABLES, "digits", "digits"),
            "sweep": ("digits", *RECIPES),
        }
        line = [chance.choice(usual.get(command, ("begun", "images")))]
        line += ["images"] if command == "predict" else []
        line += ["--over", chance.choice(OVER)] if command == "sweep" else []
        return line, known
    method = chance.choice(list(METHODS))
    line = [chance.choice(("digits", "digits", "begun/recipe.json", *RECIPES))] if chance.random() < 0.8 else []
    if chance.random() < 0.6:
        joined = "aekd+aekd_f" if method == "aekd_f" else "none+at" if method == "none" else method
        line += ["--method", joined]
        known += 3 * fields_of(find_method(method).Settings, f"{method}.")
    if chance.random() < 0.3:
        line += ["--data", "imagefolder:images", "--image-size", "8"]
    return line, known


def line_at_random(command: str, chance: random.Random) -> list[str]:
    line, known = beginning_of(command, chance)
    for _ in range(chance.randint(0, 4)):
        name, kind = chance.choice(known)
        if chance.random() < 0.05:
            name = chance.choice((name[:-1], name.upper(), "no-" + name, name + "x", name.replace("-", "_")))
        value = value_for(kind, chance)
        form = chance.random()
        line += [f"--{name}={value}"] if form < 0.6 else [f"--{name}", value] if form < 0.95 else [f"--{name}"]
    return line


def too_long(_number, _frame):
    raise AssertionError(f"it took more than {SECONDS} seconds")


def outcome(main: Callable[[list[str]], int], line: list[str]) -> None:
    """Fails unless the line ends as a command may end."""
    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    try:
        assert main(line) in (0, 1, 2)
    except Understood:
        pass
    except SystemExit as end:
        assert not end.code, "only --help ends the program by itself"
    except UserError as error:
        assert "\n" not in str(error) and str(error).strip()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def half_written(place: Path) -> set[str]:
    """What is hidden there, but for the lock of a run that is begun in the folder itself."""
    return {path.name for path in place.iterdir() if path.name.startswith(".")} - {".lock"}


def run_case(number: int, place: Path) -> None:
    chance = random.Random(number)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # as the commands do
    for _ in range(LINES):
        command = chance.choices(list(COMMANDS), weights=(6, 1, 1, 2, 1, 1, 1, 1, 1))[0]
        line = line_at_random(command, chance)
        there = half_written(place)
        try:
            outcome(COMMANDS[command][0], line)
        except Exception as error:
            raise AssertionError(f"fastkd.{command} {line} in case {number}") from error
        assert half_written(place) == there, "a file was left half-written"


@pytest.mark.parametrize("number", range(FEW))
def test_a_line(number, place, capsys):
    run_case(number, place)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(FEW, FEW + MANY))
def test_many_lines(number, place, capsys):
    run_case(number, place)


@pytest.mark.parametrize("line", (["x"], ["--help"], ["-h"], ["--json"], [""]))
def test_env_takes_nothing(line, capsys):
    outcome(env.main, line)


def test_every_option_is_drawn():
    names = {name for name, _ in fields_of(options.Options)}
    assert names == set(option_names(options.Options))
