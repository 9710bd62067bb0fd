"""Images that torch's DataLoader reads as they are needed."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.corrupt_folders import evaluated, opened, trained
from helpers.image_folders import write_folder
from helpers.loader_contract import SIZE, FileLoaderContract, batches, same, spoil, train
from helpers.subprocesses import with_paths

from fastkd.data import FOUR_ROTATIONS, ONE_VIEW, Augmentation, Views
from fastkd.data.streaming import PixelPlan

PAD, RESIZED = Augmentation(crop="pad"), Augmentation(crop="resized")


class TestStreamingLoader(FileLoaderContract):
    kind = "torchvision"


def test_workers_leave_the_global_generator_alone(photographs):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batches(train(photographs, "torchvision", workers=2))
    assert torch.equal(torch.get_rng_state(), before)


def workers_of(loader):
    """The processes that its first epoch starts, and that epoch, begun."""
    others = {process.pid for process in multiprocessing.active_children()}
    epoch = loader.epoch(0)
    first = next(epoch)
    return {process.pid for process in multiprocessing.active_children()} - others, itertools.chain([first], epoch)


def test_workers_live_on_from_epoch_to_epoch(photographs):
    loader = train(photographs, "torchvision", workers=2).loader
    started, epoch = workers_of(loader)
    list(epoch), list(loader.epoch(1))
    assert len(started) == 2 and started <= {process.pid for process in multiprocessing.active_children()}


def test_a_ctrl_c_that_also_reaches_the_workers_stops_none_of_them(photographs):
    """A terminal sends it to the whole group; the main process finishes its step and writes a checkpoint."""
    loader = train(photographs, "torchvision", workers=1).loader
    (worker,), epoch = workers_of(loader)
    os.kill(worker, signal.SIGINT)
    assert [raw.index.tolist() for raw in epoch] == [raw.index.tolist() for raw in loader.epoch(0)]


@pytest.mark.parametrize("augmentation", (PAD, RESIZED), ids=("pad", "resized"))
@pytest.mark.parametrize("views", (ONE_VIEW, Views(2), FOUR_ROTATIONS), ids=("one", "two", "rotations"))
def test_bytes_come_for_every_view_where_its_box_is_random(photographs, augmentation, views):
    """With padded crops the step makes the views itself."""
    raws = list(train(photographs, "torchvision", augmentation=augmentation, views=views).loader.epoch(0))
    brought = views.count if augmentation is RESIZED else 1
    assert {tuple(raw.images.shape) for raw in raws} == {(brought, 4, SIZE, SIZE, 3)}
    assert all(raw.images.dtype == torch.uint8 for raw in raws)


class TestPixelPlan:
    def plan(self, root, **options):
        return PixelPlan(opened(root).train, SIZE, **({"augmentation": RESIZED, "seed": 1} | options))

    def test_stand_ins_are_a_function_of_seed_and_index(self, root):
        first = list(self.plan(root).replacements(3))
        assert first == list(self.plan(root, views=Views(2)).replacements(3))
        assert len(first) == 64 and set(first) <= set(range(16)) and len(set(first)) > 8
        assert first != list(self.plan(root).replacements(4))
        assert first != list(self.plan(root, seed=2).replacements(3))

    def test_centres_are_those_of_the_training_that_the_evaluation_belongs_to(self, root):
        """--crop resized evaluates the centre of an image of 8/7 of the size, --crop pad all of it."""
        index = torch.arange(16)
        for crop, short in (("resized", round(SIZE * 8 / 7)), ("pad", SIZE)):
            sizes, corners = self.plan(root, augmentation=None, crop=crop).centres(index)
            assert (sizes.min(1) == short).all() and (corners >= 0).all()
            assert (corners + SIZE <= sizes).all()
        padded, _ = self.plan(root, augmentation=PAD).centres(index)
        np.testing.assert_array_equal(padded, sizes)


def test_no_batch_is_left_where_nothing_can_be_read(root):
    data = opened(root, allowed=24)
    data.failures.report = lambda line: None
    spoil(data, *range(16), content=b"")
    for path in data.test.records:
        Path(path).write_bytes(b"")
    assert trained(data, "torchvision") == [] == evaluated(data, "torchvision")
    assert len(data.failures.reasons) == 24


def test_each_failure_is_told_once_and_what_follows_from_it(root):
    data, told = opened(root, allowed=2), []
    data.failures.report = told.append
    spoil(data, 5, content=b"")
    Path(data.test.records[2]).write_bytes(b"")
    for _ in range(2):
        trained(data, "torchvision", batch_size=16)
        evaluated(data, "torchvision")
    lines = [f"{data.train.records[5]} is empty (0 bytes): another takes its place"]
    assert told == [*lines, f"{data.test.records[2]} is empty (0 bytes): left out"]


@pytest.mark.parametrize("workers", (0, 2))
def test_an_epoch_of_one_image(tmp_path, workers):
    root = write_folder(tmp_path, size=(20, 30), per_class=1, tests=1, classes=("only",), ending="jpg")
    first, again = (batches(train(root, "torchvision", batch_size=1, workers=workers)) for _ in range(2))
    assert len(first) == 1 and same(first, again)


def test_workers_end_when_their_process_says_so_and_for_nobody_else(tmp_path):
    """A program that ends in the middle of an epoch ends, its workers with it; a signal to all of them ends none."""
    root = write_folder(tmp_path / "data", per_class=40)
    code = f"""
import os, signal, sys
from helpers.feeding import training_of
from fastkd.data import Augmentation, open_dataset
data = open_dataset("imagefolder:{root}", image_size=8, resident=False, limit_train=None, threads=1)
how = {{"batch_size": 8, "augmentation": Augmentation(crop="resized"), "image_size": 8, "workers": 2, "seed": 0}}
batches = training_of(data, loader="torchvision", **how).loader.epoch(0)
next(batches)
signal.signal(signal.SIGTERM, lambda *_: None)
for worker in open(f"/proc/self/task/{{os.getpid()}}/children").read().split():
    os.system(f"kill -TERM {{worker}}")  # another process sends it
print(1 + sum(1 for _ in zip(range(5), batches)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=with_paths(), timeout=120)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "6", "")
