"""How the tests of damaged and odd files open a folder and go through it."""

from fastkd.data import Augmentation, Reading, open_dataset
from helpers.feeding import evaluation_of, training_of

SIZE = 16


def opened(root, allowed=0, resident=False):
    reading = Reading(max_bad_images=allowed)
    return open_dataset(
        f"imagefolder:{root}", image_size=SIZE, resident=resident, limit_train=None, threads=2, reading=reading
    )


def trained(data, loader, epoch=0, start=0, **options):
    settings = {"image_size": SIZE, "batch_size": 4, "seed": 1, "augmentation": Augmentation(crop="resized")}
    source = training_of(data, loader=loader, **(settings | options))
    return list(source.loader.epoch(epoch, start))


def evaluated(data, loader, batch_size=3):
    return list(evaluation_of(data, image_size=SIZE, batch_size=batch_size, loader=loader).loader.epoch(0))
