"""The contract of every loader: what comes when is a function of (seed, epoch, step), and nothing else."""

import functools

import pytest
import torch
from helpers.feeding import evaluation_of, training_of
from helpers.image_folders import LOADERS, needs_dali, write_folder
from helpers.real_data import REAL, needs_real_data
from PIL import Image

from fastkd.data import (
    FOUR_ROTATIONS,
    ONE_VIEW,
    Augmentation,
    Views,
    open_dataset,
)

SIZE = 16
KINDS = ("resident", *LOADERS)
STREAMED = LOADERS
ZERO = torch.tensor(0)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """26 training and 14 test images of all shapes."""
    return write_folder(tmp_path_factory.mktemp("data"), size=None, per_class=13, tests=7, ending="jpg")


@functools.cache
def opened(root, resident):
    return open_dataset(f"imagefolder:{root}", image_size=SIZE, resident=resident, limit_train=None, threads=2)


def train(root, kind, **options):
    crop = "pad" if kind == "resident" else "resized"
    settings = {"image_size": SIZE, "batch_size": 4, "seed": 3, "augmentation": Augmentation(crop=crop)}
    loader = {} if kind == "resident" else {"loader": kind}
    return training_of(opened(root, kind == "resident"), **(settings | loader | options))


def evaluation(root, kind, **options):
    loader = {} if kind == "resident" else {"loader": kind}
    settings = {"image_size": SIZE, "batch_size": 4, "crop": "pad" if kind == "resident" else "resized"}
    return evaluation_of(opened(root, kind == "resident"), **(settings | loader | options))


def batches(source, epoch=0, start=0):
    """[(index, bytes or floats)]: what the step would train on."""
    found = []
    for raw in source.loader.epoch(epoch, start):
        batch = source.prepare(raw, ZERO, torch.tensor(epoch))
        assert len(raw.index) and torch.equal(batch.labels, source.loader.labels[raw.index])
        found.append((raw.index, batch.images))
    return found


def same(left, right):
    return len(left) == len(right) and all(
        torch.equal(a, b) for pair in zip(left, right, strict=True) for a, b in zip(*pair, strict=True)
    )


@pytest.mark.parametrize("kind", KINDS)
class TestTraining:
    def test_same_seed_and_epoch_same_batches(self, root, kind):
        source = train(root, kind)
        first = batches(source)
        assert len(first) == source.loader.steps == 6
        assert same(first, batches(source)) and same(first, batches(train(root, kind)))
        assert not same(first, batches(source, epoch=1))
        assert not same(first, batches(train(root, kind, seed=4)))

    def test_epochs_and_crops_differ_of_the_same_image(self, root, kind):
        source = train(root, kind, batch_size=26)
        (first, images), *_ = batches(source, 0)
        (second, others), *_ = batches(source, 1)
        assert not torch.equal(first, second)
        pairs = [(images[0, i], others[0, (second == place).nonzero().item()]) for i, place in enumerate(first)]
        assert sum(torch.equal(a, b) for a, b in pairs) < 3

    @pytest.mark.parametrize("start", (1, 4, 5))
    def test_any_step_can_be_started_from(self, root, kind, start):
        assert same(batches(train(root, kind), 2)[start:], batches(train(root, kind), 2, start))

    def test_an_abandoned_epoch_leaves_nothing_behind(self, root, kind):
        source = train(root, kind)
        begun = source.loader.epoch(1)
        next(begun)
        begun.close()
        assert same(batches(source, 2, 3), batches(train(root, kind), 2)[3:])

    @pytest.mark.parametrize("ranks", (1, 2, 4))
    def test_ranks_share_out_the_global_batch(self, root, kind, ranks):
        whole = batches(train(root, kind, batch_size=8), 1)
        parts = [batches(train(root, kind, batch_size=8, rank=rank, world_size=ranks), 1) for rank in range(ranks)]
        joined = [
            (torch.cat([index for index, _ in step]), torch.cat([images for _, images in step], dim=1))
            for step in zip(*parts, strict=True)
        ]
        assert same(whole, joined)

    def test_the_shorter_last_batch_may_be_kept(self, root, kind):
        found = batches(train(root, kind, drop_last=False))
        assert [len(index) for index, _ in found] == [4] * 6 + [2]
        assert torch.cat([index for index, _ in found]).sort().values.tolist() == list(range(26))

    @pytest.mark.parametrize("views", (Views(2), FOUR_ROTATIONS), ids=("independent", "rotations"))
    def test_view_0_is_the_plain_one(self, root, kind, views):
        plain, more = batches(train(root, kind)), batches(train(root, kind, views=views))
        assert more[0][1].shape == (views.count, 4, 3, SIZE, SIZE)
        assert same(plain, [(index, images[:1]) for index, images in more])
        different = [not torch.equal(images[0, i], images[1, i]) for _, images in more for i in range(4)]
        assert sum(different) > 20

    def test_what_a_loader_says_of_itself(self, root, kind):
        loader = train(root, kind).loader
        assert (loader.samples, loader.classes) == (26, ("ant", "bee"))
        assert loader.labels.tolist() == [0] * 13 + [1] * 13


@pytest.mark.parametrize("rank", (0, 1))
def test_the_order_of_a_resident_set_is_one_tensor(root, rank):
    loader = train(root, "resident", batch_size=6, drop_last=False, rank=rank, world_size=2).loader
    indices = [raw.index for raw in loader.epoch(3)]
    order = loader.order(3)
    assert order.shape == (4, 3) and order.dtype == torch.int64
    assert torch.equal(order, torch.stack(indices[:4]))
    (last,) = loader.epoch(3, start=len(order))
    assert torch.equal(last.index, indices[4]) and len(last.index) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ranks", (1, 2, 3, 4))
@pytest.mark.parametrize("batch_size", (3, 4, 14))
def test_evaluation_counts_every_image_once(root, kind, ranks, batch_size):
    indices = []
    for rank in range(ranks):
        source = evaluation(root, kind, batch_size=batch_size, rank=rank, world_size=ranks)
        found = batches(source)
        assert len(found) == source.loader.steps and source.samples == 14
        indices += [place for index, _ in found for place in index.tolist()]
    assert indices == list(range(14))


@pytest.mark.parametrize("workers", (1, 2, 3))
@pytest.mark.parametrize("kind", STREAMED)
def test_workers_and_threads_change_nothing(root, kind, workers):
    alone = train(root, kind, workers=0 if kind == "torchvision" else 1, views=Views(2))
    some = train(root, kind, workers=workers, views=Views(2))
    for epoch in (0, 1):
        assert same(batches(alone, epoch), batches(some, epoch))


def test_workers_leave_the_global_generator_alone(root):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batches(train(root, "torchvision", workers=2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", STREAMED)
def test_padded_crops_of_images_that_stay_in_their_files(root, kind):
    """--resident off gives what --resident on gives."""
    how = Augmentation(crop="pad", crop_padding=2)
    for views in (ONE_VIEW, FOUR_ROTATIONS):
        held = batches(train(root, "resident", augmentation=how, views=views))
        streamed = batches(train(root, kind, augmentation=how, views=views))
        for (index, images), (other, pixels) in zip(held, streamed, strict=True):
            assert torch.equal(index, other)
            # DALI resizes a little differently.
            assert (images - pixels).abs().mean() < (1e-6 if kind == "torchvision" else 0.02)


@pytest.mark.parametrize("kind", STREAMED)
def test_evaluation_is_what_torchvision_makes_of_the_image(tmp_path, kind):
    import torchvision.transforms.v2.functional as F

    root = write_folder(tmp_path, size=None, per_class=1, tests=20, ending="jpg")
    data = open_dataset(f"imagefolder:{root}", image_size=28, resident=False, limit_train=None, threads=2)
    source = evaluation_of(data, image_size=28, batch_size=40, loader=kind)
    (raw,) = source.loader.epoch(0)
    total = 0.0
    for place, path in enumerate(data.test.paths):
        with Image.open(path) as image:
            expected = F.pil_to_tensor(F.center_crop(F.resize(image, [32]), [28])).permute(1, 2, 0)
        total += (raw.images[0, place].float() - expected.float()).abs().mean().item()
    assert total / len(data.test.paths) < (0.05 if kind == "torchvision" else 0.2)


@needs_dali
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
