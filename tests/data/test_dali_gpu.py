"""DALI's mixed decoding on a GPU: the same order and indices as on a CPU, nearly the same pixels."""

import pytest
import torch
from helpers.feeding import evaluation_of, training_of
from helpers.image_folders import needs_dali, write_folder
from helpers.real_data import REAL, needs_real_data

from fastkd.data import Augmentation, Views, open_dataset

pytestmark = [pytest.mark.gpu, needs_dali, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
GPU = torch.device("cuda")


def opened(root):
    return open_dataset(f"imagefolder:{root}", image_size=64, resident=False, limit_train=None, threads=2)


def train(data, device, **options):
    settings = {"image_size": 64, "batch_size": 8, "seed": 1, "augmentation": Augmentation(crop="resized")}
    return training_of(data, loader="dali", device=device, **(settings | options)).loader


@pytest.fixture
def data(tmp_path):
    return opened(write_folder(tmp_path, size=None, per_class=20, tests=9, ending="jpg"))


def test_the_same_indices_and_nearly_the_same_pixels(data):
    for options in ({}, {"views": Views(2)}, {"augmentation": Augmentation(crop="pad")}):
        on_gpu, on_cpu = (list(train(data, device, **options).epoch(0)) for device in (GPU, None))
        for ours, theirs in zip(on_gpu, on_cpu, strict=True):
            assert ours.images.is_cuda and torch.equal(ours.index, theirs.index)
            assert (ours.images.cpu().float() - theirs.images.float()).abs().mean() < 2


def test_resuming_and_later_epochs(data):
    loader = train(data, GPU)
    whole = list(loader.epoch(3))
    for again in (train(data, GPU).epoch(3, 2), list(loader.epoch(3))[2:]):
        for ours, theirs in zip(again, whole[2:], strict=True):
            assert torch.equal(ours.index, theirs.index) and torch.equal(ours.images, theirs.images)


def test_batches_outlive_those_that_follow(data):
    """DALI fills its buffers again: what was handed out is a copy."""
    kept = []
    for raw in train(data, GPU).epoch(0):
        kept.append((raw.images, raw.images.clone()))
        torch.cuda._sleep(1_000_000)
    assert all(torch.equal(images, copy) for images, copy in kept)


def test_memory_of_the_gpu_stays_flat(data):
    loader = train(data, GPU)
    for epoch in range(30):
        for _ in loader.epoch(epoch):
            pass
        torch.cuda.synchronize()
        free, _ = torch.cuda.mem_get_info()
        if epoch == 4:
            first = free
    assert first - free < 32 << 20


@needs_real_data
def test_evaluation_equals_torchvision_on_photographs(tmp_path):
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
        for folder in sorted(path for path in (REAL / "imagenet-sample").iterdir() if path.is_dir())[:64]:
            (tmp_path / part / folder.name).symlink_to(folder)
    data = opened(tmp_path)
    ours, theirs = (
        evaluation_of(data, image_size=224, batch_size=16, loader=kind, device=device).loader.epoch(0)
        for kind, device in (("dali", GPU), ("torchvision", None))
    )
    apart = [
        (left.images.cpu().float() - right.images.float()).abs().mean().item()
        for left, right in zip(ours, theirs, strict=True)
    ]
    assert sum(apart) / len(apart) < 0.2
