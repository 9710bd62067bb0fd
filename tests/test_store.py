"""python -m fastkd.store: filled by one process or two, killed, shared; what it refuses."""

import multiprocessing
import random

import pytest
import torch
from helpers.commands import TINY
from helpers.processes import finish, start

from fastkd import store, train
from fastkd.support.errors import UserError

ONE = ["--seeds", "1", "--limit-train", "128", "--epochs", "2", "--threads", "1", "--control", "off"]
"""Two epochs of 128 images, in batches of 32."""
BATCH = ["--batch-size", "32"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    assert train.main([*TINY, "--teacher-training", "standard", "--control", "off", "--run", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def filled(teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "store"
    assert store.main(options(teacher, folder)) == 0
    return folder


def options(teacher, folder, *more):
    return [*ONE, *BATCH, "--teacher", str(teacher), "--teacher-outputs", str(folder), *more]


def rows_of(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "teacher").iterdir()) if path.suffix != ".lock"}


def student_of(folder):
    return (folder / "student.safetensors").read_bytes()


def mistake(*arguments):
    with pytest.raises(UserError) as raised:
        store.main([str(argument) for argument in arguments])
    line = str(raised.value)
    assert "\n" not in line
    return line


def test_what_it_fills_a_training_reads(teacher, filled, tmp_path):
    before = rows_of(filled)
    names = [f"epoch-0000{epoch}.{kind}" for epoch in (0, 1) for kind in ("checks", "rows")]
    assert sorted(before) == sorted([".lock", "store.json", *names])
    assert train.main([*ONE, *BATCH, "--teacher", str(teacher), "--run", str(tmp_path / "live")]) == 0
    assert train.main([*options(teacher, filled), "--run", str(tmp_path / "stored")]) == 0
    assert student_of(tmp_path / "live") == student_of(tmp_path / "stored") and rows_of(filled) == before


def test_the_last_shorter_batch_is_stored_too(teacher, tmp_path):
    assert store.main([*options(teacher, tmp_path / "store"), "--batch-size", "48", "--epochs", "1"]) == 0
    assert rows_of(tmp_path / "store")["epoch-00000.checks"].count(b"\0\0\0\0") == 0


@pytest.mark.slow
def test_two_processes_fill_what_one_does(teacher, filled, tmp_path):
    """Each writes the rows of its part of every batch: with 16 of them in a forward pass the bits are the same."""
    finish(start(*options(teacher, tmp_path / "two"), program=("-m", "--", "fastkd.store")))
    found, known = rows_of(tmp_path / "two"), rows_of(filled)
    found.pop("store.json"), known.pop("store.json")  # which says how many rows a forward pass had
    assert found == known


@pytest.mark.slow
def test_two_processes_train_from_it_as_with_the_teacher(teacher, tmp_path):
    for name, more in (("live", ()), ("first", ("store",)), ("second", ("store",))):
        stored = ["--teacher-outputs", str(tmp_path / "store")] if more else []
        finish(start(*ONE, *BATCH, "--teacher", teacher, *stored, "--run", tmp_path / name))
    assert student_of(tmp_path / "live") == student_of(tmp_path / "first") == student_of(tmp_path / "second")


def go_on(arguments):
    """In the process that is to be killed."""
    torch.set_num_threads(1)
    assert train.main(arguments) == 0


@pytest.mark.slow
def test_killed_at_random_while_the_store_is_written(teacher, filled, tmp_path):
    """A training that fills a store is killed at random instants and begun anew, until it ends by itself."""
    arguments = [*options(teacher, tmp_path / "store"), "--run"]
    assert train.main([*ONE, *BATCH, "--teacher", str(teacher), "--run", str(tmp_path / "live")]) == 0
    kills, exit_code, tries = 20, None, 0
    context, chance = multiprocessing.get_context("fork"), random.Random(0)
    while exit_code != 0:
        tries += 1
        run = str(tmp_path / f"run-{tries}")
        child = context.Process(target=go_on, args=([*arguments, run],))
        child.start()
        child.join(chance.uniform(0.1, 1.5) if tries <= kills else None)
        if child.is_alive():
            child.kill()
            child.join()
        exit_code = child.exitcode
        assert exit_code in (0, -9)
        if tries <= kills:
            exit_code = None
    assert student_of(tmp_path / "live") == student_of(tmp_path / f"run-{tries}")
    found, known = rows_of(tmp_path / "store"), rows_of(filled)
    assert found["epoch-00001.rows"] == known["epoch-00001.rows"]


class TestRefused:
    @pytest.mark.parametrize("option", (["--run", "x"], ["--resume", "x"], ["--dry-run"], ["--list"]))
    def test_options_of_a_run(self, option, teacher, tmp_path):
        assert f"{option[0]} changes nothing" in mistake(*options(teacher, tmp_path / "store"), *option)

    def test_no_folder_and_no_teacher(self, teacher, tmp_path):
        assert "give the folder of the store" in mistake(*ONE, "--teacher", teacher)
        assert "give the teacher that is to be stored" in mistake(*ONE, "--teacher-outputs", tmp_path / "store")

    def test_a_store_of_other_data_before_anything_is_made(self, teacher, filled, tmp_path):
        line = mistake(*options(teacher, filled), "--crop-padding", "2")
        assert "was made with crop padding 1, here it is 2: give another --teacher-outputs" in line
        with pytest.raises(UserError, match="was made with data seed 0, here it is 4"):
            train.main([*options(teacher, filled), "--seed", "4", "--run", str(tmp_path / "run")])
        assert not (tmp_path / "run").exists()

    def test_seeds_that_follow_the_training_of_a_teacher(self, tmp_path):
        words = "--teacher-outputs with --seeds 2: rco follows the training of a teacher"
        with pytest.raises(UserError, match=words):
            train.main(["--method", "rco", "--seeds", "2", "--teacher-outputs", str(tmp_path / "store")])


def test_several_students_and_seeds_from_one_pass_of_the_teacher(teacher, filled, tmp_path, silent_teacher, capsys):
    silent_teacher()
    several = [
        *options(teacher, filled, "--students", "resnet8,resnet14"),
        "--seeds",
        "2",
        "--run",
        str(tmp_path / "run"),
    ]
    assert train.main(several) == 0
    for seed in (0, 1):
        found = {path.name for path in (tmp_path / f"run/seed-{seed}").glob("student*.safetensors")}
        assert found == {"student.safetensors", "student-resnet14.safetensors"}
    assert "the spread is that of weights and draws alone" in " ".join(capsys.readouterr().out.split())
