"""The networks of a run, with data for them."""

import numpy as np
import torch
from helpers.tiny import CPU

from fastkd.analysis.opened import Opened, open_resized
from fastkd.run import open_run
from fastkd.training.likelihood import Likelihood


def test_training_images_are_those_that_the_run_learned_from(finished):
    tested = Opened.of(finished, CPU, names=("teacher",), split="train")
    labels = torch.cat([batch.labels for batch in tested.batches()])
    assert list(tested.networks) == ["teacher"] and len(labels) == 128
    assert torch.equal(labels, tested.data.train.labels)
    measured = Likelihood()
    for batch in tested.batches():
        measured.add(tested.networks["teacher"](batch.images[0]).logits, batch.labels)
    assert 0 < measured.read()["entropy"] < np.log(10)


def test_other_data_are_resized_to_the_networks_pixels(finished, tmp_path):
    """Eight pixels here; torchvision's antialiased resizing of bytes, as image files are resized."""
    from torchvision.transforms.v2.functional import resize

    images = np.random.default_rng(0).integers(0, 256, (3, 3, 96, 96), dtype=np.uint8)
    for part in ("train", "test"):
        images.swapaxes(2, 3).tofile(tmp_path / f"{part}_X.bin")
        np.array([1, 10, 3], np.uint8).tofile(tmp_path / f"{part}_y.bin")
    recipe = open_run(finished)
    found = open_resized(recipe, f"stl10:{tmp_path}")
    assert found.test.images.shape == (3, 8, 8, 3)
    assert torch.equal(found.test.images.movedim(-1, 1), resize(torch.from_numpy(images), [8, 8], antialias=True))
