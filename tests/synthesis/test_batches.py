"""The batches of a student that learns from images that are made."""

import torch
from helpers.synthesised import OF_KIND

from fastkd.data import Augmentation, RawBatch, Split
from fastkd.data.augment import Normalise
from fastkd.synthesis.batches import FreshOrder, PoolImages, PoolOrder

PLAIN = Normalise((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_an_epoch_passes_over_all_images_that_its_pool_has():
    order = PoolOrder(OF_KIND["cmi"], batch_size=5, epochs=3, seed=0)
    for epoch in range(3):
        rows = torch.stack(list(order.epoch(epoch)))
        assert rows.shape == (3, 5) and torch.equal(rows, order.whole(epoch))
        counts = torch.bincount(rows.flatten(), minlength=4 * (epoch + 1))
        assert len(counts) == 4 * (epoch + 1) and counts.max() - counts.min() <= 1
    assert torch.equal(torch.stack(list(order.epoch(1, start=2))), order.whole(1)[2:])
    assert not torch.equal(order.whole(1), PoolOrder(OF_KIND["cmi"], batch_size=5, epochs=3, seed=1).whole(1))


def test_images_that_are_seen_once_are_numbered():
    order = FreshOrder(OF_KIND["zskt"], batch_size=5)
    assert torch.equal(torch.cat(list(order.epoch(7))), torch.arange(15)) and order.steps == 3


def test_an_image_that_comes_again_is_cropped_anew():
    images = torch.randint(256, (2, 8, 8, 3), dtype=torch.uint8)
    prepare = PoolImages(Split(images, torch.zeros(2, dtype=torch.int64)), PLAIN, Augmentation(crop_padding=4))
    raw, epoch = RawBatch(torch.tensor([0, 1, 0, 0])), torch.tensor(0)
    found = [prepare(raw, torch.tensor(step), epoch).images[0] for step in (0, 1)]
    crops = torch.cat([one[[0, 2, 3]] for one in found]).flatten(1)
    assert len(crops.unique(dim=0)) >= 5, "six crops, of 162 that there are"
    assert torch.equal(found[0], prepare(raw, torch.tensor(0), epoch).images[0])
