"""The contract of every loader, which the test module of each inherits: what comes when is a function of (seed, epoch,
step), and nothing else."""

import functools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from PIL import Image

from fastkd.data import FOUR_ROTATIONS, ONE_VIEW, Augmentation, Views, open_dataset
from fastkd.data.order import Order
from fastkd.support.errors import UserError
from helpers.corrupt_folders import evaluated, opened, trained
from helpers.feeding import evaluation_of, training_of
from helpers.image_folders import picture, write_folder
from helpers.odd_images import ODD, Odd

SIZE = 16
ZERO = torch.tensor(0)


@functools.cache
def opened_once(root, resident):
    return open_dataset(f"imagefolder:{root}", image_size=SIZE, resident=resident, limit_train=None, threads=2)


def train(root, kind, **options):
    crop = "pad" if kind == "resident" else "resized"
    settings = {"image_size": SIZE, "batch_size": 4, "seed": 3, "augmentation": Augmentation(crop=crop)}
    loader = {} if kind == "resident" else {"loader": kind}
    return training_of(opened_once(root, kind == "resident"), **(settings | loader | options))


def evaluation(root, kind, **options):
    loader = {} if kind == "resident" else {"loader": kind}
    settings = {"image_size": SIZE, "batch_size": 4, "crop": "pad" if kind == "resident" else "resized"}
    return evaluation_of(opened_once(root, kind == "resident"), **(settings | loader | options))


def batches(source, epoch=0, start=0):
    """[(index, bytes or floats)]: what the step would train on."""
    found = []
    for raw in source.loader.epoch(epoch, start):
        batch = source.prepare(raw, ZERO, torch.tensor(epoch))
        assert len(raw.index) and torch.equal(batch.labels, source.loader.labels[raw.index])
        found.append((raw.index, batch.images))
    return found


def mixed(root, kind, rank=0, world_size=1):
    """[(images, labels, labels of the partners, shares)] of the second epoch of a training whose images are mixed."""
    crop = "pad" if kind == "resident" else "resized"
    augmentation = Augmentation(crop=crop, mixup=0.2, cutmix=1.0)
    source = train(root, kind, augmentation=augmentation, rank=rank, world_size=world_size)
    found = []
    for step, raw in enumerate(source.loader.epoch(1), start=source.loader.steps):
        batch = source.prepare(raw, torch.tensor(step), torch.tensor(1))
        assert raw.size == len(batch.labels) == len(batch.index) == 4 // world_size
        assert torch.equal(batch.index, raw.index[: raw.size])
        found.append((batch.images.movedim(1, 0), batch.labels, *batch.mixed))
    return found


def same(left, right):
    """Whether two lists of batches are equal, bit for bit."""
    return len(left) == len(right) and all(
        torch.equal(a, b) for pair in zip(left, right, strict=True) for a, b in zip(*pair, strict=True)
    )


class LoaderContract:
    """For a module of tests: `class TestXLoader(LoaderContract)` with the kind of its loader."""

    kind: str
    """resident, torchvision or dali."""

    def test_same_seed_and_epoch_same_batches(self, photographs):
        source = train(photographs, self.kind)
        first = batches(source)
        assert len(first) == source.loader.steps == 6
        assert same(first, batches(source)) and same(first, batches(train(photographs, self.kind)))
        assert not same(first, batches(source, epoch=1))
        assert not same(first, batches(train(photographs, self.kind, seed=4)))

    def test_epochs_and_crops_differ_of_the_same_image(self, photographs):
        source = train(photographs, self.kind, batch_size=26)
        (first, images), *_ = batches(source, 0)
        (second, others), *_ = batches(source, 1)
        assert not torch.equal(first, second)
        pairs = [(images[0, i], others[0, (second == place).nonzero().item()]) for i, place in enumerate(first)]
        assert sum(torch.equal(a, b) for a, b in pairs) < 3

    @pytest.mark.parametrize("start", (1, 4, 5))
    def test_any_step_can_be_started_from(self, photographs, start):
        assert same(batches(train(photographs, self.kind), 2)[start:], batches(train(photographs, self.kind), 2, start))

    def test_mixed_images_are_the_same_on_one_rank_and_on_two(self, photographs):
        """A partner may be another rank's image, which then loads both."""
        whole = mixed(photographs, self.kind)
        parts = [mixed(photographs, self.kind, rank, 2) for rank in range(2)]
        assert len(whole) == 6
        for one, *shares in zip(whole, *parts, strict=True):
            for value, *of_ranks in zip(one, *shares, strict=True):
                assert torch.equal(value, torch.cat(of_ranks))

    def test_an_abandoned_epoch_leaves_nothing_behind(self, photographs):
        source = train(photographs, self.kind)
        begun = source.loader.epoch(1)
        next(begun)
        begun.close()
        assert same(batches(source, 2, 3), batches(train(photographs, self.kind), 2)[3:])

    @pytest.mark.parametrize("ranks", (1, 2, 4))
    def test_ranks_share_out_the_global_batch(self, photographs, ranks):
        whole = batches(train(photographs, self.kind, batch_size=8), 1)
        parts = [
            batches(train(photographs, self.kind, batch_size=8, rank=rank, world_size=ranks), 1)
            for rank in range(ranks)
        ]
        joined = [
            (torch.cat([index for index, _ in step]), torch.cat([images for _, images in step], dim=1))
            for step in zip(*parts, strict=True)
        ]
        assert same(whole, joined)

    def test_the_shorter_last_batch_may_be_kept(self, photographs):
        found = batches(train(photographs, self.kind, drop_last=False))
        assert [len(index) for index, _ in found] == [4] * 6 + [2]
        assert torch.cat([index for index, _ in found]).sort().values.tolist() == list(range(26))

    @pytest.mark.parametrize("views", (Views(2), FOUR_ROTATIONS), ids=("independent", "rotations"))
    def test_view_0_is_the_plain_one(self, photographs, views):
        plain, more = batches(train(photographs, self.kind)), batches(train(photographs, self.kind, views=views))
        assert more[0][1].shape == (views.count, 4, 3, SIZE, SIZE)
        assert same(plain, [(index, images[:1]) for index, images in more])
        different = [not torch.equal(images[0, i], images[1, i]) for _, images in more for i in range(4)]
        assert sum(different) > 20

    def test_what_a_loader_says_of_itself(self, photographs):
        loader = train(photographs, self.kind).loader
        assert (loader.samples, loader.classes) == (26, ("ant", "bee"))
        assert loader.labels.tolist() == [0] * 13 + [1] * 13

    @pytest.mark.parametrize("ranks", (1, 2, 3, 4))
    @pytest.mark.parametrize("batch_size", (3, 4, 14))
    def test_evaluation_counts_every_image_once(self, photographs, ranks, batch_size):
        indices = []
        for rank in range(ranks):
            source = evaluation(photographs, self.kind, batch_size=batch_size, rank=rank, world_size=ranks)
            found = batches(source)
            assert len(found) == source.loader.steps and source.samples == 14
            indices += [place for index, _ in found for place in index.tolist()]
        assert indices == list(range(14))


def spoil(data, *places, content=None):
    """Overwrites training images after the scan; by default they are cut off."""
    for place in places:
        file = data.train.records[place]
        Path(file).write_bytes(Path(file).read_bytes()[:300] if content is None else content)


def trained_indices(data, epoch=0, start=0, batch_size=4):
    return torch.cat(list(Order(len(data.train), batch_size, 1).epoch(epoch, start))).tolist()


class FileLoaderContract(LoaderContract):
    """What is read as it is needed may be odd, or break after the scan: another takes its place, or the run ends."""

    @pytest.mark.parametrize("workers", (1, 2, 3))
    def test_workers_and_threads_change_nothing(self, photographs, workers):
        alone = train(photographs, self.kind, workers=0 if self.kind == "torchvision" else 1, views=Views(2))
        some = train(photographs, self.kind, workers=workers, views=Views(2))
        for epoch in (0, 1):
            assert same(batches(alone, epoch), batches(some, epoch))

    def test_padded_crops_of_images_that_stay_in_their_files(self, photographs):
        """--resident off gives what --resident on gives."""
        how = Augmentation(crop="pad", crop_padding=2)
        for views in (ONE_VIEW, FOUR_ROTATIONS):
            held = batches(train(photographs, "resident", augmentation=how, views=views))
            streamed = batches(train(photographs, self.kind, augmentation=how, views=views))
            for (index, images), (other, pixels) in zip(held, streamed, strict=True):
                assert torch.equal(index, other)
                # DALI resizes a little differently.
                assert (images - pixels).abs().mean() < (1e-6 if self.kind == "torchvision" else 0.02)

    def test_evaluation_is_what_torchvision_makes_of_the_image(self, tmp_path):
        root = write_folder(tmp_path, size=None, per_class=1, tests=20, ending="jpg")
        data = open_dataset(f"imagefolder:{root}", image_size=28, resident=False, limit_train=None, threads=2)
        source = evaluation_of(data, image_size=28, batch_size=40, loader=self.kind)
        (raw,) = source.loader.epoch(0)
        total = 0.0
        for place, path in enumerate(data.test.records):
            with Image.open(path) as image:
                expected = F.pil_to_tensor(F.center_crop(F.resize(image, [32]), [28])).permute(1, 2, 0)
            total += (raw.images[0, place].float() - expected.float()).abs().mean().item()
        assert total / len(data.test.records) < (0.05 if self.kind == "torchvision" else 0.2)

    def test_what_is_odd_is_trained_and_tested_on(self, root):
        """All of it in one folder, seen by each loader as by the other."""
        for number, kind in enumerate(ODD):
            getattr(Odd, kind)(root / "train" / "ant" / f"{number + 20}.jpg")
            getattr(Odd, kind)(root / "val" / "bee" / f"{number + 20}.jpg")
        data = opened(root)
        batches = trained(data, self.kind, drop_last=False)
        assert sorted(place for raw in batches for place in raw.index.tolist()) == list(range(16 + len(ODD)))
        reference = trained(data, "torchvision", drop_last=False)
        for ours, theirs in zip(batches, reference, strict=True):
            apart = (ours.images.float() - theirs.images.float()).abs().mean((0, 2, 3, 4))
            assert (apart < 1.0).all(), [data.train.records[place] for place in ours.index[apart >= 1.0].tolist()]
        for ours, theirs in zip(evaluated(data, self.kind), evaluated(data, "torchvision"), strict=True):
            assert (ours.images.float() - theirs.images.float()).abs().mean((0, 2, 3, 4)).max() < 1.0

    def test_names_in_every_script(self, tmp_path):
        classes = ("Ärger und Öl", "日本語", "with 'quotes' and \"more\"", "emoji 🐜")
        root = write_folder(tmp_path / "données", size=None, ending="jpg", classes=classes)
        (root / "train" / classes[0] / "0.jpg").rename(root / "train" / classes[0] / "ß ü 图.JPEG")
        os.rename(root / "train" / classes[1] / "0.jpg", os.fsencode(root / "train" / classes[1]) + b"/\xff\xfe.jpg")
        data = opened(root)
        assert data.classes == tuple(sorted(classes))
        batches = trained(data, self.kind, drop_last=False)
        assert sum(len(raw.index) for raw in batches) == 20

    @pytest.mark.parametrize("content", (None, b"", b"text"), ids=("truncated", "empty", "text"))
    def test_without_allowance_it_is_an_error_that_names_the_file(self, root, content):
        data = opened(root)
        spoil(data, 5, content=content)
        with pytest.raises(UserError, match=rf"1 image cannot be used .*{data.train.records[5]}"):
            trained(data, self.kind, batch_size=16)

    @pytest.mark.parametrize("content", (None, b"", b"text"), ids=("truncated", "empty", "text"))
    def test_another_sample_takes_its_place(self, root, content):
        data = opened(root, allowed=2)
        whole = trained(data, self.kind)
        told = []
        data.failures.report = told.append
        spoil(data, 5, 9, content=content)
        found = trained(data, self.kind)
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
            again = trained(data, self.kind, **options)
            before = trained_indices(data, **options)
            for place, other in zip(before, torch.cat([raw.index for raw in again]).tolist(), strict=True):
                assert other == stand_ins.get(place, place) or place in (5, 9)
        assert data.failures.reasons.keys() <= {data.train.records[5], data.train.records[9]}

    def test_one_more_than_allowed(self, root):
        data = opened(root, allowed=1)
        spoil(data, 5, 9)
        with pytest.raises(UserError, match=r"2 images cannot be used \(--max-bad-images allows 1\)"):
            trained(data, self.kind, batch_size=16)

    def test_evaluation_leaves_it_out(self, root):
        data = opened(root, allowed=3)
        for place in (1, 3, 4):  # with batches of two: halves of two batches, and one half
            Path(data.test.records[place]).write_bytes(b"text")
        data.failures.report = lambda line: None
        found = evaluated(data, self.kind, batch_size=2)
        assert [raw.index.tolist() for raw in found] == [[0], [2], [5], [6, 7]]

    def test_no_empty_batch(self, root):
        data = opened(root, allowed=3)
        for place in (2, 3, 7):
            Path(data.test.records[place]).write_bytes(b"")
        assert [raw.index.tolist() for raw in evaluated(data, self.kind, batch_size=2)] == [[0, 1], [4, 5], [6]]

    def test_an_image_of_another_size(self, root):
        """Its crop was chosen for the size that the scan saw."""
        data = opened(root, allowed=1)
        picture(np.random.default_rng(0), 5, 5).save(data.train.records[5])
        try:
            found = trained(data, self.kind, batch_size=16)
        except UserError as error:
            pytest.fail(str(error))
        assert sum(len(raw.index) for raw in found) == 16
