"""Checkpoints that are written aside: of one instant, one at a time, and whole or not there, whatever goes wrong."""

import contextlib
import errno
import multiprocessing
import os
import signal
import threading
import time

import pytest
import torch
from helpers.tiny import assert_same, outcome, tiny_recipe, train
from helpers.trainers import STEPS, logged, trainer_in

from fastkd.support import files, states
from fastkd.support.callbacks import Callback
from fastkd.support.errors import UserError
from fastkd.support.interrupt import Interrupt, Stopped, interruptible
from fastkd.support.states import read_state
from fastkd.training import writer
from fastkd.training.execution import EVERYTHING_OFF
from fastkd.training.saving import Standing
from fastkd.training.stages import Numbers
from fastkd.training.trainer import Trainer

ASIDE = EVERYTHING_OFF._replace(write_aside=True)
WAIT = 60.0


def trainer_of(folder, **options):
    """A trainer that writes aside, and whose checkpoints tell no time."""
    training = {"epochs": 3, "ema": 0.5} | options.pop("training", {})
    return trainer_in(folder, **{"execution": ASIDE, "training": training} | options)


class Held:
    """Holds the thread that writes, until it is let go; counts what was begun."""

    def __init__(self, monkeypatch):
        self.begun, self.free = threading.Semaphore(0), threading.Event()
        plain = writer.write_state

        def held(path, state, look):
            self.begun.release()
            while not self.free.wait(0.001):
                look()
            return plain(path, state, look)

        monkeypatch.setattr(writer, "write_state", held)

    def wait_for_one(self):
        assert self.begun.acquire(timeout=WAIT), "nothing was written"


@pytest.fixture
def held(monkeypatch):
    return Held(monkeypatch)


def test_its_bytes_are_those_of_one_that_is_written_at_once(tmp_path):
    trainer, found = trainer_of(tmp_path), []
    trainer.epoch()
    standing = Standing(trainer.progress, trainer.records.logged, 1.5)
    for aside in (False, True, True):
        trainer.saving.save(standing, aside=aside)
        trainer.saving.settle()
        found.append(trainer.checkpoint.read_bytes())
    assert found[1] == found[0] == found[2]


def test_it_is_of_the_instant_at_which_it_was_copied(tmp_path, held):
    """Weights, average, momentum, meter, random numbers and the log, while all of them go on."""
    folders = [tmp_path / name for name in ("once", "aside")]
    for folder in folders:
        folder.mkdir()
    contents = []
    for folder, execution in zip(folders, (EVERYTHING_OFF, ASIDE), strict=True):
        trainer = trainer_of(folder, execution=execution)
        if not execution.write_aside:
            held.free.set()
        else:
            held.free.clear()
        torch.manual_seed(7)
        trainer.epoch()
        trainer.progress.seconds = 1.0
        next(trainer.step.epoch_of(trainer.train_source.loader, 1))
        trainer.progress.step = 1
        trainer.saving.save(Standing(trainer.progress, trainer.records.logged, 1.5), aside=True)
        if execution.write_aside:
            trainer.epoch()
            torch.rand(3)
            assert not trainer.checkpoint.exists() and len(logged(folder)) == 2
            held.free.set()
            trainer.saving.settle()
        contents.append(read_state(trainer.checkpoint)[0])
    assert_equal(*map(without_times, contents))


def without_times(state):
    state.pop("metrics_bytes")  # times have as many digits as they have
    for of_meter in (*state["meters"], state["logged"]):
        for name in ("seconds", "waited"):
            of_meter.pop(name, None)
    return state


def assert_equal(found, expected):
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_equal(found[name], value)
    elif isinstance(expected, list):
        for mine, theirs in zip(found, expected, strict=True):
            assert_equal(mine, theirs)
    else:
        assert found == expected


def test_the_log_that_it_counts_is_the_one_of_then(tmp_path, held):
    trainer = trainer_of(tmp_path)
    trainer.epoch()
    size = (tmp_path / "metrics.jsonl").stat().st_size
    trainer.save()
    trainer.epoch()
    held.free.set()
    trainer.saving.settle()
    assert read_state(trainer.checkpoint)[0]["metrics_bytes"] == size < (tmp_path / "metrics.jsonl").stat().st_size


def test_a_second_one_waits_for_the_first(tmp_path, held, monkeypatch):
    trainer, order = trainer_of(tmp_path), []
    plain = states.write_by
    monkeypatch.setattr(states, "write_by", lambda path, fill: (plain(path, fill), order.append("written"))[0])
    trainer.epoch()
    trainer.save()
    trainer.epoch()
    order.append("second asked for")
    threading.Timer(0.05, held.free.set).start()
    trainer.save()
    order.append("second begun")
    trainer.saving.settle()
    assert order[:2] == ["second asked for", "written"] and sorted(order[2:]) == ["second begun", "written"]
    assert read_state(trainer.checkpoint)[0]["progress"]["epoch"] == 2


def test_a_training_ends_with_its_last_one_on_the_disk(tmp_path):
    trainer_of(tmp_path).fit()
    assert read_state(tmp_path / "student.pt")[0]["progress"]["epoch"] == 3
    assert [thread.name for thread in threading.enumerate() if "aside" in thread.name] == []


def test_no_more_threads_than_the_one_that_writes(tmp_path, held):
    """None of OpenMP's: a second team would take the cores of the first one."""

    def threads():
        return {path.name for path in files.Path("/proc/self/task").iterdir()}

    trainer = trainer_of(tmp_path)
    trainer.epoch()
    before = threads()
    trainer.save()
    held.wait_for_one()
    assert len(threads() - before) == 1
    held.free.set()
    trainer.saving.settle()
    until = time.monotonic() + WAIT
    while threads() - before:  # the system's entry outlives the thread by a moment
        assert time.monotonic() < until


class TestStopping:
    def test_a_signal_waits_for_what_is_being_written(self, tmp_path, held):
        trainer = trainer_of(tmp_path)
        trainer.epoch()
        trainer.save()
        trainer.session.interrupt.requested = "SIGTERM"
        threading.Timer(0.05, held.free.set).start()
        with pytest.raises(Stopped):
            trainer.stop_if_asked()
        assert read_state(trainer.checkpoint)[0]["progress"]["epoch"] == 1

    def test_an_error_of_the_training_waits_for_what_is_being_written(self, tmp_path, held, monkeypatch):
        plain, epochs = Trainer.epoch, [0]

        def fails(trainer):
            if epochs[0] == 1:
                threading.Timer(0.05, held.free.set).start()
                raise ValueError("of the training")
            epochs[0] += 1
            plain(trainer)

        monkeypatch.setattr(Trainer, "epoch", fails)
        with pytest.raises(ValueError, match="of the training"):
            trainer_of(tmp_path).fit()
        assert read_state(tmp_path / "student.pt")[0]["progress"]["epoch"] == 1

    def test_ctrl_c_at_once_gives_it_up_and_the_last_one_stays(self, tmp_path, held, monkeypatch):
        plain, saves = Trainer.save, [0]

        def interrupted(trainer):
            plain(trainer)
            saves[0] += 1
            if saves[0] == 1:
                held.free.set()
                trainer.saving.settle()
                held.free.clear()
            else:
                raise KeyboardInterrupt

        monkeypatch.setattr(Trainer, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trainer_of(tmp_path).fit()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "student.pt"]
        assert read_state(tmp_path / "student.pt")[0]["progress"]["epoch"] == 1

    def test_a_loss_that_is_not_finite_names_the_one_that_is_being_written(self, tmp_path, held):
        trainer = trainer_of(tmp_path)
        trainer.epoch()
        trainer.save()
        one = torch.ones((), dtype=torch.int64)
        trainer.step.first_bad.keep(one, 4 * one, Numbers(("loss",), torch.tensor([torch.inf])))
        threading.Timer(0.05, held.free.set).start()
        with pytest.raises(UserError, match=r"the last good checkpoint is .*student\.pt"):
            trainer.refuse_what_is_not_finite()


class TestWhatCannotBeWritten:
    @pytest.fixture(params=(errno.ENOSPC, errno.EROFS, errno.EACCES), ids=("full", "read-only", "not allowed"))
    def number(self, request):
        return request.param

    def trained(self, folder, number, monkeypatch, **options):
        """A training whose second checkpoint finds such a disk; its words, and how many steps it took."""
        trainer = trainer_of(folder, **options)
        plain, saves, steps = files.os.replace, [0], [0]
        saved, step = Trainer.save, type(trainer.step).__call__

        def fails(source, target):
            if saves[0] > 1:
                raise OSError(number, "words of the system")
            plain(source, target)

        def counted(trainer):
            saves[0] += 1
            saved(trainer)

        def stepped(own, raw):
            trainer.saving.writer.wait_alone()  # else the steps of this tiny training are over before the disk says so
            steps[0] += 1
            return step(own, raw)

        with monkeypatch.context() as patch, pytest.raises(UserError) as raised:
            patch.setattr(files.os, "replace", fails)
            patch.setattr(Trainer, "save", counted)
            patch.setattr(type(trainer.step), "__call__", stepped)
            trainer.fit()
        return str(raised.value), steps[0]

    def test_it_is_one_line_at_the_next_look_and_the_last_one_stays(self, number, tmp_path, monkeypatch):
        words, steps = self.trained(tmp_path, number, monkeypatch)
        assert words.startswith(f"cannot write {tmp_path / 'student.pt'}: ") and "\n" not in words
        assert words.endswith("; what stood there before is intact")
        assert steps == 2 * STEPS + 1, "the first step behind it"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "student.pt"]
        assert read_state(tmp_path / "student.pt")[0]["progress"]["epoch"] == 1

    def test_what_goes_on_from_there_is_the_same(self, tmp_path, monkeypatch):
        folders = [tmp_path / name for name in ("whole", "parts")]
        for folder in folders:
            folder.mkdir()
        trainer_of(folders[0]).fit()
        self.trained(folders[1], errno.ENOSPC, monkeypatch)
        trainer_of(folders[1]).fit()
        contents = [read_state(folder / "student.pt")[0] for folder in folders]
        assert_equal(contents[1]["model"], contents[0]["model"])
        assert logged(folders[1]) == logged(folders[0])


def test_a_program_is_told_when_it_is_there(tmp_path, held):
    told = []

    class Told(Callback):
        def checkpoint(self, stage, file):
            told.append((stage, file.exists()))

    trainer = trainer_of(tmp_path, interrupt=Interrupt())
    object.__setattr__(trainer.session, "callbacks", (Told(),))
    trainer.epoch()
    trainer.save()
    trainer.saving.look()
    assert told == []
    held.free.set()
    trainer.saving.writer.wait_alone()
    trainer.saving.look()
    assert told == [("student", True)]


def write_slowly(folder):
    """In the process that gets the signal: a checkpoint takes long to write, in small pieces."""
    torch.set_num_threads(1)
    states._CHUNK = 1000

    def slowly(digested, data):
        plain(digested, data)
        time.sleep(0.001)

    plain, states._Digested._pass_on = states._Digested._pass_on, slowly
    with contextlib.suppress(Stopped), interruptible() as interrupt:
        train(tiny_recipe(), folder, interrupt)


@pytest.mark.slow
@pytest.mark.parametrize("number", (signal.SIGKILL, signal.SIGINT, signal.SIGTERM))
@pytest.mark.parametrize("after", (0, 1, 2))
def test_a_signal_while_it_is_written_aside(after, number, tmp_path):
    """While the file that is to be renamed grows: whole it is there or the one before, and the run ends the same."""
    train(tiny_recipe(), tmp_path / "whole")
    folder = tmp_path / "run"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["helpers.tiny"])
    child = context.Process(target=write_slowly, args=(folder,))
    child.start()
    seen, until = set(), time.monotonic() + WAIT
    while len(seen) <= after:
        assert child.is_alive() and time.monotonic() < until
        seen |= {path.name for path in (folder / "checkpoints").glob(".*.pt.*")}
    os.kill(child.pid, number)
    child.join(WAIT)
    assert child.exitcode == (-number if number == signal.SIGKILL else 0)
    if number != signal.SIGKILL:
        assert not list(folder.rglob(".*.[0-9]*"))
        (written,) = (folder / "checkpoints").glob("*.pt")
        assert read_state(written)[0]["stage"] == written.stem
    train(tiny_recipe(), folder)
    assert_same(outcome(folder), outcome(tmp_path / "whole"))
    assert not list(folder.rglob(".*.[0-9]*"))
