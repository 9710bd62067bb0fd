"""Files that break after the scan: each is named, and another takes its place, or the run ends."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.corrupt_folders import evaluated, opened, trained
from helpers.image_folders import LOADERS, picture

from fastkd.data.order import Order
from fastkd.support.errors import UserError


def spoil(data, *places, content=None):
    for place in places:
        file = data.train.paths[place]
        Path(file).write_bytes(Path(file).read_bytes()[:300] if content is None else content)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("content", (None, b"", b"text"), ids=("truncated", "empty", "text"))
def test_without_allowance_it_is_an_error_that_names_the_file(root, loader, content):
    data = opened(root)
    spoil(data, 5, content=content)
    with pytest.raises(UserError, match=rf"1 image cannot be used .*{data.train.paths[5]}"):
        trained(data, loader, batch_size=16)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("content", (None, b"", b"text"), ids=("truncated", "empty", "text"))
def test_another_sample_takes_its_place(root, loader, content):
    data = opened(root, allowed=2)
    whole = trained(data, loader)
    told = []
    data.failures.report = told.append
    spoil(data, 5, 9, content=content)
    found = trained(data, loader)
    stand_ins = {}
    for before, after in zip(whole, found, strict=True):
        for row, (place, other) in enumerate(zip(before.index.tolist(), after.index.tolist(), strict=True)):
            if place in (5, 9):
                stand_ins[place] = other
                assert other not in (5, 9)
            else:
                assert place == other
                assert torch.equal(before.images[:, row], after.images[:, row])
    assert len(told) == len(stand_ins) > 0
    assert all("another takes its place" in line for line in told)
    # A function of (seed, index): the same in another epoch, another batch, another order of reading.
    for options in ({"epoch": 3}, {"batch_size": 2}, {"batch_size": 8, "start": 1}):
        again = trained(data, loader, **options)
        before = trained_indices(data, **options)
        for place, other in zip(before, torch.cat([raw.index for raw in again]).tolist(), strict=True):
            assert other == stand_ins.get(place, place) or place in (5, 9)
    assert data.failures.reasons.keys() <= {data.train.paths[5], data.train.paths[9]}


def test_both_loaders_choose_the_same_stand_in(root):
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    data = opened(root, allowed=3)
    spoil(data, 2, 5, 9)
    ours, theirs = (trained(data, loader, drop_last=False) for loader in ("dali", "torchvision"))
    assert [raw.index.tolist() for raw in ours] == [raw.index.tolist() for raw in theirs]


@pytest.mark.parametrize("loader", LOADERS)
def test_one_more_than_allowed(root, loader):
    data = opened(root, allowed=1)
    spoil(data, 5, 9)
    with pytest.raises(UserError, match=r"2 images cannot be used \(--max-bad-images allows 1\)"):
        trained(data, loader, batch_size=16)


def test_the_scan_and_the_training_share_the_allowance(root, image):
    image.write_bytes(b"")
    data = opened(root, allowed=1)
    spoil(data, 5)
    with pytest.raises(UserError, match="2 images cannot be used"):
        trained(data, "torchvision", batch_size=15)


@pytest.mark.parametrize("loader", LOADERS)
def test_evaluation_leaves_it_out(root, loader):
    data = opened(root, allowed=3)
    for place in (1, 3, 4):  # with batches of two: halves of two batches, and one half
        Path(data.test.paths[place]).write_bytes(b"text")
    data.failures.report = lambda line: None
    found = evaluated(data, loader, batch_size=2)
    assert [raw.index.tolist() for raw in found] == [[0], [2], [5], [6, 7]]


@pytest.mark.parametrize("loader", LOADERS)
def test_no_empty_batch(root, loader):
    data = opened(root, allowed=3)
    for place in (2, 3, 7):
        Path(data.test.paths[place]).write_bytes(b"")
    assert [raw.index.tolist() for raw in evaluated(data, loader, batch_size=2)] == [[0, 1], [4, 5], [6]]


@pytest.mark.parametrize("loader", LOADERS)
def test_an_image_of_another_size(root, loader):
    """Its crop was chosen for the size that the scan saw."""
    data = opened(root, allowed=1)
    picture(np.random.default_rng(0), 5, 5).save(data.train.paths[5])
    try:
        found = trained(data, loader, batch_size=16)
    except UserError as error:
        pytest.fail(str(error))
    assert sum(len(raw.index) for raw in found) == 16


def test_resident_sets_leave_it_out_when_they_are_decoded(root, image):
    content = bytearray(image.read_bytes())
    content[-60:-2] = b"\xff\xd9" * 29  # the scan sees an end
    image.write_bytes(content[:200] + content[-60:])
    with pytest.raises(UserError, match=f"1 image cannot be used .*{image}"):
        opened(root, resident=True)
    data = opened(root, allowed=1, resident=True)
    assert len(data.train) == 15


def trained_indices(data, epoch=0, start=0, batch_size=4):
    return torch.cat(list(Order(len(data.train), batch_size, 1).epoch(epoch, start))).tolist()
