"""From a float32 store a student ends with the bytes that the live teacher gives it.

Digits and real CIFAR-100, plain and student-friendly teachers, methods that read logits and one that reads embeddings,
and every way in which a store comes to be filled.
"""

import json
import multiprocessing
import os
import signal
from dataclasses import replace
from functools import cache

import pytest
import torch
from helpers.places import TESTS
from helpers.processes import finish, start
from helpers.real_data import REAL
from helpers.stored import SETTINGS, cifar_recipe, recipe_of, some_of_cifar100, student_of, trained_teacher
from helpers.tiny import tiny_recipe, train

from fastkd import store
from fastkd import train as fastkd_train
from fastkd.recipes.recipe import Recipe
from fastkd.support.interrupt import Interrupt, Stopped
from fastkd.training.step import Step

IMAGES = {"digits": 128, "cifar100": 256, "little of cifar100": 64}
"""How many images there are to train on, in batches of 32."""
KINDS, METHODS = ("plain", "sftn"), ("kd", "dkd", "crd")
CELLS = [(data, kind, method) for data in ("digits", "cifar100") for kind in KINDS for method in METHODS]


def cells(*quick):
    """Every cell, all of them slow, and those that are quick enough for every day."""
    slow = [pytest.param(*cell, marks=pytest.mark.slow) for cell in CELLS if cell not in quick]
    return [*slow, *(pytest.param(*cell) for cell in quick)]


class Cell:
    """A teacher of some data, and students who learn from it by a method."""

    def __init__(self, base: Recipe, teacher, method: str, folder, images: int):
        self.base, self.teacher, self.method, self.folder, self.images = base, teacher, method, folder, images
        self.known: dict[str, bytes] = {}

    def recipe(self, store=None, network="resnet8", **options) -> Recipe:
        made = recipe_of(self.teacher, self.method, store, SETTINGS, base=self.base, **options)
        return replace(made, stages=(made.stages[0], replace(made.stages[1], network=network)))

    def live(self, network="resnet8") -> bytes:
        """The student that the teacher itself taught."""
        if network not in self.known:
            train(self.recipe(network=network), self.folder / network)
            self.known[network] = student_of(self.folder / network)
        return self.known[network]


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    """cell(data, kind of teacher, method)"""

    @cache
    def base_of(data):
        if data == "digits":
            return tiny_recipe()
        if not REAL.is_dir():
            pytest.skip(f"no real images: there is no folder {REAL}")
        return cifar_recipe(some_of_cifar100(tmp_path_factory.mktemp("images"), train=IMAGES[data]))

    @cache
    def teacher_of(data, kind):
        return trained_teacher(base_of(data), kind, tmp_path_factory.mktemp(kind) / "run")

    @cache
    def find(data, kind, method):
        folder = tmp_path_factory.mktemp(method)
        return Cell(base_of(data), teacher_of(data, kind), method, folder, IMAGES[data])

    return find


@pytest.mark.parametrize("data, kind, method", cells(("little of cifar100", "sftn", "crd")))
def test_two_students_of_one_store(data, kind, method, cell, tmp_path, silent_teacher):
    """The second is another network, and the teacher is not run for it."""
    here = cell(data, kind, method)
    first, second = here.live(), here.live("resnet14")
    train(here.recipe(tmp_path / "store"), tmp_path / "first")
    silent_teacher()
    train(here.recipe(tmp_path / "store", "resnet14"), tmp_path / "second")
    train(here.recipe(tmp_path / "store"), tmp_path / "third")
    assert student_of(tmp_path / "first") == student_of(tmp_path / "third") == first
    assert student_of(tmp_path / "second") == second != first


@pytest.mark.parametrize("epoch", (0, 1))
@pytest.mark.parametrize("data, kind, method", cells())
def test_stopped_in_the_middle_and_resumed(data, kind, method, epoch, cell, tmp_path, monkeypatch):
    here, plain, interrupt, taken = cell(data, kind, method), Step.__call__, Interrupt(), [0]
    expected, recipe = here.live(), here.recipe(tmp_path / "store")
    steps = epoch * here.images // 32 + 1

    def counting(self, raw):
        plain(self, raw)
        taken[0] += 1
        if taken[0] == steps:
            interrupt.requested = "SIGTERM"

    monkeypatch.setattr(Step, "__call__", counting)
    with pytest.raises(Stopped):
        train(recipe, tmp_path / "run", interrupt)
    train(recipe, tmp_path / "run")
    assert student_of(tmp_path / "run") == expected


def train_until(writes: int, recipe: Recipe, folder) -> None:
    """In a process of its own, which its write of that number to the store kills."""
    torch.set_num_threads(1)
    plain, done = os.pwrite, [0]

    def write(*arguments):
        done[0] += 1
        if done[0] == writes:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(*arguments)

    os.pwrite = write
    train(recipe, folder)


@pytest.mark.parametrize("data, kind, method", cells(("digits", "plain", "kd")))
def test_killed_while_the_store_is_written(data, kind, method, cell, tmp_path):
    """Among the first rows, among their checks, and, as half of the first epoch is there then, among the next rows."""
    here = cell(data, kind, method)
    expected, recipe = here.live(), here.recipe(tmp_path / "store")
    for writes in (here.images // 2, here.images * 3 // 2, here.images * 3 // 2):
        child = multiprocessing.get_context("fork").Process(target=train_until, args=(writes, recipe, tmp_path / "run"))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
    train(recipe, tmp_path / "run")
    assert student_of(tmp_path / "run") == expected


@pytest.mark.slow
@pytest.mark.parametrize("data", ("digits", "cifar100"))
def test_one_process_and_two(data, cell, tmp_path):
    """Two processes have 16 rows in a call of the teacher, as one with batches of 16 has: each reads what the other
    filled, and `--store-exact` finds nothing to refuse."""
    of_two, of_one = [], []
    for _, kind, method in (one for one in CELLS if one[0] == data):
        folder = tmp_path / f"{kind}-{method}"
        line = command_of(cell(data, kind, method))
        by_one, by_two = (
            ["--store-exact", "on", "--teacher-outputs", f"{folder}/{name}"] for name in ("by-one", "by-two")
        )
        assert store.main([*line, *by_one, "--batch-size", "16"]) == 0
        of_two += [[*line, "--run", f"{folder}/live"], [*line, *by_one, "--run", f"{folder}/read"]]
        of_two += [[*line, *by_two, "--run", f"{folder}/filling"]]
        alone = [*line, "--batch-size", "16"]
        of_one += [[*alone, "--run", f"{folder}/one-live"], [*alone, *by_two, "--run", f"{folder}/one-read"]]
    (tmp_path / "commands.json").write_text(json.dumps(of_two))
    finish(start(tmp_path / "commands.json", program=(str(TESTS / "helpers/several_commands.py"),)), seconds=1200)
    for arguments in of_one:
        assert fastkd_train.main(arguments) == 0
    for folder in (path for path in tmp_path.iterdir() if path.is_dir()):
        assert student_of(folder / "live") == student_of(folder / "read") == student_of(folder / "filling")
        assert student_of(folder / "one-live") == student_of(folder / "one-read") != student_of(folder / "live")


def command_of(cell: Cell) -> list[str]:
    """What a person would type to train the student of a cell."""
    line = [cell.base.name, "--data", cell.base.data, "--student", "resnet8", "--method", cell.method, "--epochs", "2"]
    line += ["--teacher", str(cell.teacher), "--threads", "1", "--seeds", "1", "--batch-size", "32"]
    line += ["--limit-train", str(cell.images), *(["--control", "off"] if cell.base.name == "digits" else [])]
    return line + (["--crd.negatives", "16"] if cell.method == "crd" else [])
