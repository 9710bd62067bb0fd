"""Runs whose student learns from images that are made for it: interrupted anywhere they end as if they had not been."""

import json
import multiprocessing
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.interrupts import stopped_and_resumed
from helpers.made_images import made_recipe
from helpers.recorders import record_everything
from helpers.tiny import Quiet, assert_same, job_of, outcome, train

from fastkd.run import Run, check
from fastkd.run.header import header
from fastkd.support.errors import UserError
from fastkd.support.interrupt import Interrupt, Stopped
from fastkd.support.session import Session
from fastkd.support.states import read_state, write_state
from fastkd.synthesis.pooled import PooledSynthesis
from fastkd.training.own_step import OwnStep

TEACHER_STEPS = 4


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The outcome of each recipe, trained in one go."""
    found = {}

    def of(kind, method="kd"):
        if (kind, method) not in found:
            folder = tmp_path_factory.mktemp(f"{kind}-{method}")
            train(made_recipe(kind, method=method), folder)
            found[kind, method] = folder
        return found[kind, method]

    return of


@pytest.mark.parametrize(("kind", "step"), [("cmi", 6), ("dafl", 7), pytest.param("zskt", 8, marks=pytest.mark.slow)])
def test_a_student_that_is_stopped_within_an_epoch_ends_the_same(kind, step, whole, tmp_path):
    found = stopped_and_resumed(made_recipe(kind), tmp_path / "run", TEACHER_STEPS + step)
    assert_same(found, outcome(whole(kind)))


def test_simkd_learns_from_images_of_cmi(whole):
    folder = whole("cmi", "simkd")
    results = json.loads((folder / "results.json").read_text())
    assert results["stages"]["student"]["test"]["student"]["samples"] == 899


def test_the_pool_grows_and_its_files_have_the_rows_that_are_counted(whole):
    folder = whole("cmi")
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    made = [record["synthesis"] for record in log if record["stage"] == "student"]
    assert [one["images"] for one in made] == [8, 16, 24] and [one["rounds"] for one in made] == [1, 2, 3]
    images = np.fromfile(folder / "checkpoints" / "student.images", np.uint8)
    assert images.size == 24 * 8 * 8 * 3 and images.std() > 0
    assert not (folder / "checkpoints" / "student.features").exists(), "a finished stage needs no bank"


class AfterRounds(Interrupt):
    """A Ctrl-C that comes within a round."""

    def __init__(self, patch, round_):
        super().__init__()
        original = PooledSynthesis._draws

        def draws(synthesis, steps):
            if synthesis.rounds == round_:
                self.requested = "SIGINT"
            yield from original(synthesis, steps)

        patch.setattr(PooledSynthesis, "_draws", draws)


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        train(made_recipe(), folder, AfterRounds(patch, 2))
    return folder


@pytest.fixture
def stopped(stopped_once, tmp_path):
    """A run that was stopped within its third round: its checkpoint stands behind the second epoch."""
    return Path(shutil.copytree(stopped_once, tmp_path / "run"))


def go_on(folder):
    train(made_recipe(), folder)
    return outcome(folder)


def test_what_lies_behind_the_checkpoints_end_is_cut_off(stopped, whole):
    """A process that is killed behind a round leaves rows that no checkpoint counts."""
    for name in ("images", "features"):
        with (stopped / "checkpoints" / f"student.{name}").open("ab") as file:
            file.write(b"\x07" * 1000)
    assert_same(go_on(stopped), outcome(whole("cmi")))
    pools = [(folder / "checkpoints" / "student.images").read_bytes() for folder in (stopped, whole("cmi"))]
    assert pools[0] == pools[1]


def test_files_without_a_checkpoint_count_for_nothing(whole, tmp_path):
    folder = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        train(made_recipe(), folder, AfterRounds(patch, 0))
    assert not (folder / "checkpoints" / "student.pt").exists()
    for name in ("images", "features"):
        (folder / "checkpoints" / f"student.{name}").write_bytes(b"\x07" * 1000)
    assert_same(go_on(folder), outcome(whole("cmi")))


def damaged(path, how):
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "link":
        path.rename(path.with_suffix(".elsewhere"))
        path.symlink_to(path.with_suffix(".elsewhere"))
    else:
        path.write_bytes({"cut off": content[:-1], "changed": content[:-1] + bytes([content[-1] ^ 1])}[how])


@pytest.mark.parametrize(
    ("name", "how", "why"),
    [
        ("images", "cut off", "is cut off"),
        ("features", "changed", "is damaged"),
        ("features", "gone", "is gone"),
        ("images", "link", "it is a link"),
    ],
)
def test_files_that_are_not_what_was_written_are_refused(name, how, why, stopped):
    damaged(stopped / "checkpoints" / f"student.{name}", how)
    with pytest.raises(UserError, match=why):
        go_on(stopped)


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda state: state.pop("synthesis"), "it has no synthesis"),
        (lambda state: state["synthesis"].update(rounds=7), "counts 7 rounds"),
        (lambda state: state["synthesis"].update(rounds=1), "counts 16 images after 1 round"),
        (lambda state: state["synthesis"]["files"].pop("features"), "or another one"),
        (lambda state: state["synthesis"]["files"]["images"].update(rows=-1), "expected a whole number from 0"),
        (lambda state: state["synthesis"]["files"]["images"].update(sha256="0" * 64), "is damaged"),
        (lambda state: state["synthesis"]["networks"].pop("head.0.weight"), "does not fit this stage"),
        (lambda state: state["synthesis"]["optimizers"]["head"].clear(), "nothing of the optimiser's"),
        (lambda state: state["synthesis"].update(loss=torch.zeros(3)), "or no loss"),
    ],
)
def test_a_checkpoint_that_counts_something_else_is_refused(edit, why, stopped):
    path = stopped / "checkpoints" / "student.pt"
    state, _ = read_state(path)
    edit(state)
    write_state(path, state)
    with pytest.raises(UserError, match=why):
        go_on(stopped)


def train_it(folder):
    """In the process that is to be killed."""
    torch.set_num_threads(1)
    train(made_recipe(), folder)


@pytest.mark.slow
def test_killed_many_times(whole, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["helpers.made_images"])
    started = time.monotonic()
    warm = context.Process(target=train_it, args=(tmp_path / "warm",))
    warm.start()
    warm.join()
    length, chance, kills, runs = time.monotonic() - started, random.Random(0), 0, 0
    while kills < 20:
        folder, exit_code = tmp_path / f"run {runs}", None
        runs += 1
        while exit_code != 0:
            child = context.Process(target=train_it, args=(folder,))
            child.start()
            child.join(chance.uniform(0.0, 0.8 * length) if kills < 20 else None)
            if child.is_alive():
                child.kill()
                child.join()
                kills += 1
            exit_code = child.exitcode
            assert exit_code in (0, -9), f"the run failed by itself with exit code {exit_code}"
        assert_same(outcome(folder), outcome(whole("cmi")))


@pytest.mark.parametrize("kind, recordings", [("cmi", 1), ("dafl", 1), pytest.param("zskt", 1, marks=pytest.mark.slow)])
def test_recorded_steps_of_both_end_the_same(kind, recordings, whole, tmp_path, monkeypatch):
    """The student's steps are replayed, and the generator's between them: a pool's, or one that learns all along."""
    record_everything(monkeypatch)
    own, plain = [], OwnStep._record

    def counted(step):
        plain(step)
        own.append(step.replay)

    monkeypatch.setattr(OwnStep, "_record", counted)
    display = Quiet()
    train(made_recipe(kind), tmp_path / "run", display=display)
    assert len(own) == recordings and None not in own
    steps = "10 steps" if kind == "cmi" else "1 step"
    assert any(note.startswith("student  captured in") and f", {steps} a replay" in note for note in display.notes)
    assert_same(outcome(tmp_path / "run"), outcome(whole(kind)))


@pytest.mark.parametrize("kind", ("cmi", "dafl"))
def test_a_dry_run_times_the_rounds_and_writes_nothing(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    display = Quiet()
    rows = Run(job_of(made_recipe(kind)), 0, Path(), Session(display, Interrupt())).dry_run()
    assert any("an epoch beside its steps" in note for note in display.notes)
    assert rows[1]["stage"] == "student" and rows[1]["seconds_per_epoch"] > 0 and not list(tmp_path.iterdir())


def test_the_header_says_whose_images_they_are(tmp_path):
    words = header(job_of(made_recipe()), tmp_path)
    assert "resnet8 from teacher by kd on images of cmi (8 more before each epoch, 24 in the last)" in words
    assert "images of dafl (a generator that learns by 8 every 3 steps)" in header(
        job_of(made_recipe("dafl")), tmp_path
    )


def test_a_loss_that_is_not_finite_ends_the_run_before_a_checkpoint(tmp_path):
    with pytest.raises(UserError, match="the loss of the synthesis, or what it trains, was not finite"):
        train(made_recipe("dafl", synthesis={"lr": 1e30}), tmp_path / "run")


def test_a_pool_too_large_for_its_bank_is_refused():
    with pytest.raises(UserError, match="--synthesis.bank holds 4 images: a round of 8 does not fit"):
        check(job_of(made_recipe(synthesis={"bank": 4})))


def test_an_epoch_says_how_many_images_there_are(tmp_path):
    display = Quiet()
    train(made_recipe(epochs=1), tmp_path / "run", display=display)
    assert any("pool of 8, synthesis loss" in note for note in display.notes)
