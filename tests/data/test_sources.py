"""A loader and the module that prepares its batches, chosen for a data set and a device."""

import pytest
import torch
from helpers.corrupt_folders import SIZE, opened
from helpers.feeding import evaluation_of, training_of

from fastkd.data import (
    Augmentation,
    DataSet,
    Format,
    ResidentLoader,
    Split,
    divided,
    resolved_loader,
    sources,
)
from fastkd.data.streaming import StreamingLoader
from fastkd.support.errors import UserError

ZERO = torch.tensor(0)
PLAIN, RESIZED = Augmentation(crop_padding=0, flip=False), Augmentation(crop="resized")


def made(train=8, test=5, mean=(0.0,) * 3, std=(1.0,) * 3):
    """Images of one grey each, which is their place; their planes follow each other."""
    parts = []
    for count in (train, test):
        planes = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(count, 3, 4, 4).contiguous()
        parts.append(Split(planes.movedim(1, -1), torch.arange(count) % 2))
    return DataSet(name="made", train=parts[0], test=parts[1], classes=("a", "b"), mean=mean, std=std)


def train(data, **options):
    return training_of(data, **({"image_size": 4, "batch_size": 4, "augmentation": PLAIN, "seed": 0} | options))


def evaluation(data, **options):
    return evaluation_of(data, **({"image_size": 4, "batch_size": 4} | options))


def first_batch(source):
    return source.prepare(next(iter(source.loader.epoch(0))), ZERO, ZERO)


class TestWhatASourceSays:
    @pytest.mark.parametrize("ranks, own", ((1, 4), (2, 2), (4, 1)))
    def test_the_batch_of_a_training_is_over_all_ranks(self, ranks, own):
        for rank in range(ranks):
            source = train(made(), rank=rank, world_size=ranks)
            assert (source.samples, source.batch_size, source.loader.steps) == (8, own, 2)
            assert [len(raw.index) for raw in source.loader.epoch(0)] == [own, own]

    @pytest.mark.parametrize("ranks", (1, 2, 5))
    def test_the_batch_of_an_evaluation_is_of_each_rank(self, ranks):
        parts = [evaluation(made(), batch_size=2, rank=rank, world_size=ranks) for rank in range(ranks)]
        assert {(source.samples, source.batch_size) for source in parts} == {(5, 2)}
        assert [place for source in parts for raw in source.loader.epoch(0) for place in raw.index] == list(range(5))

    def test_a_batch_has_the_labels_of_its_images(self):
        for source in (train(made()), evaluation(made())):
            batch = first_batch(source)
            assert batch.labels.tolist() == [place % 2 for place in batch.index.tolist()]
            assert (batch.images[0, :, 0, 0, 0] * 255).round().tolist() == batch.index.tolist()


class TestNormalisation:
    def test_it_is_the_data_sets_own_unless_another_is_asked_for(self):
        data = made(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125))
        for make in (train, evaluation):
            plain, own = first_batch(make(made())).images, first_batch(make(data)).images
            mean, std = (torch.tensor(value)[:, None, None] for value in (data.mean, data.std))
            torch.testing.assert_close(own, (plain - mean) / std)
            other = first_batch(make(data, mean=(0.0,) * 3, std=(1.0,) * 3)).images
            torch.testing.assert_close(other, plain)

    def test_one_of_the_two_may_be_given_alone(self):
        data = made(mean=(0.5,) * 3, std=(0.5,) * 3)
        plain, found = first_batch(evaluation(made())).images, first_batch(evaluation(data, std=(2.0,) * 3)).images
        torch.testing.assert_close(found, (plain - 0.5) / 2)


def test_evaluation_augments_nothing():
    source = evaluation(made())
    batches = [
        [source.prepare(raw, ZERO, torch.tensor(epoch)).images for raw in source.loader.epoch(epoch)]
        for epoch in (0, 7)
    ]
    assert all(torch.equal(one, other) for one, other in zip(*batches, strict=True))


def test_the_format_is_that_of_the_feeding():
    how = Format(dtype=torch.bfloat16, channels_last=True)
    for make in (train, evaluation):
        images = first_batch(make(made(), format=how)).images
        assert images.dtype == torch.bfloat16 and images[0].is_contiguous(memory_format=torch.channels_last)


def test_planes_stay_on_a_cpu_and_pixels_go_to_a_gpu():
    """How a split lies in memory; nothing is moved here."""
    data = made()
    for device in (None, torch.device("cpu")):
        assert train(data, device=device).prepare.images.data_ptr() == data.train.images.data_ptr()
    for make in (train, evaluation):
        found = make(data, device=torch.device("cuda"))
        assert found.prepare.images.is_contiguous() and not data.train.images.is_contiguous()


class TestLoaders:
    def test_bytes_are_held_and_files_are_read(self, root):
        assert isinstance(train(made()).loader, ResidentLoader)
        files = training_of(opened(root), image_size=SIZE, batch_size=4, augmentation=RESIZED, seed=0)
        assert isinstance(files.loader, StreamingLoader)

    @pytest.mark.parametrize("installed", (True, False))
    def test_auto_is_dali_where_it_is_installed(self, installed, monkeypatch):
        monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: object() if installed else None)
        assert resolved_loader("auto") == ("dali" if installed else "torchvision")
        assert resolved_loader("torchvision") == "torchvision"

    def test_nvidias_other_packages_are_no_dali(self, monkeypatch):
        monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: object() if name == "nvidia" else None)
        assert resolved_loader("auto") == "torchvision"
        with pytest.raises(UserError, match="--loader dali: DALI is not installed: pip install nvidia-dali-cuda130"):
            resolved_loader("dali")

    def test_a_set_in_memory_needs_no_loader_of_files(self, monkeypatch):
        monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
        assert isinstance(train(made(), loader="dali").loader, ResidentLoader)


class TestMistakes:
    def test_a_set_without_training_images_is_for_evaluation(self):
        data = made(train=0)
        with pytest.raises(UserError, match="made has no training images: it is for evaluation"):
            train(data)
        assert evaluation(data).samples == 5

    def test_resized_crops_of_bytes(self):
        with pytest.raises(UserError, match="random-resized crops need image files; made is held as bytes"):
            train(made(), augmentation=RESIZED)

    def test_a_batch_larger_than_the_set(self):
        with pytest.raises(UserError, match="a batch of 9 images is larger than the training set of 8"):
            train(made(), batch_size=9)

    def test_more_ranks_than_test_images(self):
        with pytest.raises(UserError, match="a test set of 5 images cannot be shared by 6 processes"):
            evaluation(made(), world_size=6)


@pytest.mark.parametrize("share, count", [(0.25, 2), (0.01, 1), (0.99, 7)])
def test_images_that_are_held_out_are_not_trained_on(share, count):
    train, rest = divided(made(), share)
    assert len(rest.test) == count and train.test is not rest.test
    places = torch.cat([split.images[:, 0, 0, 0] for split in (train.train, rest.test)])
    assert sorted(places.tolist()) == list(range(8))
    again, _ = divided(made(), share)
    assert torch.equal(again.train.images, train.train.images)


def test_a_single_image_cannot_be_held_out():
    with pytest.raises(UserError, match="^made has too few training images to hold some out: at least 2, got 1$"):
        divided(made(train=1), 0.5)
