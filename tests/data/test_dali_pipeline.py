"""A loader builds its DALI pipeline once. A stand-in for DALI counts."""

import sys

import pytest
import torch
from helpers import fake_dali
from helpers.feeding import training_of
from helpers.image_folders import write_folder

from fastkd.data import Augmentation, open_dataset

RESIZED = Augmentation(crop="resized")


@pytest.fixture
def loader(tmp_path, monkeypatch):
    fake_dali.put_in_place(monkeypatch)
    root = write_folder(tmp_path, per_class=8)
    data = open_dataset(f"imagefolder:{root}", image_size=8, resident=False, limit_train=None, threads=1)
    yield training_of(data, image_size=8, batch_size=3, seed=1, augmentation=RESIZED, loader="dali").loader
    sys.modules.pop("fastkd.data.dali", None)


def indices(batches):
    return torch.cat([raw.index for raw in batches]).tolist()


@pytest.mark.parametrize("taken", (0, 1, 2, 3, 5))
def test_an_epoch_that_is_left_in_its_middle_costs_no_other_pipeline(loader, taken):
    """As warming up leaves one."""
    begun = loader.epoch(0)
    for _ in range(taken):
        next(begun)
    del begun
    whole = indices(loader.epoch(1))
    assert indices(loader.epoch(1)) == whole and sorted(whole) == sorted(set(whole)) and len(whole) >= 15
    assert indices(loader.epoch(0, 2)) == indices(loader.epoch(0))[6:]
    assert fake_dali.FakePipeline.built == 1
