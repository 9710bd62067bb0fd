"""Images that DALI reads on a CPU: the same as torchvision's, nearly to the bit."""

from pathlib import Path

import pytest
import torch
from helpers.corrupt_folders import evaluated, opened, trained
from helpers.feeding import evaluation_of, training_of
from helpers.image_folders import needs_dali
from helpers.loader_contract import FileLoaderContract, spoil, train
from helpers.odd_images import Odd
from helpers.real_data import REAL, needs_real_data

from fastkd.data import Augmentation, open_dataset
from fastkd.support.errors import UserError

pytestmark = needs_dali


class TestDALILoader(FileLoaderContract):
    kind = "dali"


def test_both_loaders_choose_the_same_stand_in(root):
    data = opened(root, allowed=3)
    spoil(data, 2, 5, 9)
    ours, theirs = (trained(data, loader, drop_last=False) for loader in ("dali", "torchvision"))
    assert [raw.index.tolist() for raw in ours] == [raw.index.tolist() for raw in theirs]


def test_dali_does_not_rewrite_a_whole_data_set(root, monkeypatch):
    monkeypatch.setattr("fastkd.data.dali_source._MOST_REWRITTEN", 3 * 40 * 30 * 2)
    for number, allowed in enumerate((True, True, False)):
        Odd.webp(root / "train" / "ant" / f"{number}.jpg")
        if allowed:
            assert len(trained(opened(root), "dali")) == 4
    with pytest.raises(UserError, match="3 images are neither JPEG nor PNG of 8 bits, .*--loader torchvision"):
        trained(opened(root), "dali")


@needs_real_data
def test_dali_equals_torchvision_on_photographs(tmp_path):
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
        for folder in sorted(path for path in (REAL / "imagenet-sample").iterdir() if path.is_dir())[:40]:
            (tmp_path / part / folder.name).symlink_to(folder)
    data = open_dataset(f"imagefolder:{tmp_path}", image_size=224, resident=False, limit_train=None, threads=2)
    for split in ("test", "train"):
        options = {"image_size": 224, "batch_size": 20}
        if split == "train":
            options |= {"seed": 1, "augmentation": Augmentation(crop="resized")}
        make = evaluation_of if split == "test" else training_of
        ours, theirs = (make(data, loader=kind, **options).loader.epoch(0) for kind in ("dali", "torchvision"))
        means = []
        for left, right in zip(ours, theirs, strict=True):
            assert torch.equal(left.index, right.index)
            means.append((left.images.float() - right.images.float()).abs().mean().item())
        assert sum(means) / len(means) < (0.2 if split == "test" else 0.3), split


def test_batches_outlive_those_that_follow(photographs):
    """DALI fills its buffers again: what was handed out is a copy."""
    kept = [(raw.images, raw.images.clone()) for raw in train(photographs, "dali").loader.epoch(0)]
    assert len(kept) == 6 and all(torch.equal(images, copy) for images, copy in kept)


def test_an_epoch_after_one_that_failed_is_whole_again(root):
    """A pipeline that broke is built anew, once."""
    data = opened(root, allowed=1)
    data.failures.report = lambda line: None
    source = training_of(
        data, image_size=16, batch_size=4, seed=1, augmentation=Augmentation(crop="resized"), loader="dali"
    )
    expected = [raw.images for raw in source.loader.epoch(0)]
    file = Path(data.train.records[5])
    content = file.read_bytes()
    spoil(data, 5)
    assert len(list(source.loader.epoch(0))) == 4
    file.write_bytes(content)
    found = [raw.images for raw in source.loader.epoch(0)]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_where_nothing_can_take_the_place_it_says_so(root):
    data = opened(root, allowed=16)
    data.failures.report = lambda line: None
    spoil(data, *range(16), content=b"")
    with pytest.raises(UserError, match=r"nothing can take the place of .*\.jpg: too many images fail"):
        trained(data, "dali")


def test_no_batch_is_left_of_a_test_set_that_cannot_be_read(root):
    data = opened(root, allowed=8)
    data.failures.report = lambda line: None
    for path in data.test.records:
        Path(path).write_bytes(b"")
    assert evaluated(data, "dali") == []
