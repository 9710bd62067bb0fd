"""What a training's batches and images are too small for is said before it begins."""

from dataclasses import replace

import pytest
import torch
from helpers.courses import taught_recipe
from helpers.tiny import job_of, tiny_recipe

from fastkd.data.order import Order
from fastkd.methods import METHODS
from fastkd.run import check
from fastkd.run.trial import smallest_pass
from fastkd.support.errors import UserError
from fastkd.training.optimisation import Training


@pytest.mark.parametrize("processes", (1, 2))
@pytest.mark.parametrize("drop_last", (False, True))
@pytest.mark.parametrize("batch, accumulate", ((8, 1), (8, 4), (8, 8), (2, 1), (2, 2)))
def test_the_smallest_pass_is_the_smallest_that_an_epoch_takes(batch, accumulate, drop_last, processes):
    training = Training(epochs=1, batch_size=batch, accumulate=accumulate, drop_last=drop_last)
    for samples in range(batch, 3 * batch + 1):
        if not drop_last and 0 < samples % batch < processes:  # refused
            continue
        order = Order(samples, batch, 0, drop_last=drop_last, world_size=processes)
        taken = [len(part) for index in order.epoch(0) for part in torch.tensor_split(index, accumulate)]
        assert smallest_pass(samples, training, processes).images == min(filter(None, taken)), samples


def changed(recipe, samples, **training):
    stages = tuple(replace(stage, training=replace(stage.training, **training)) for stage in recipe.stages)
    return replace(recipe, stages=stages, limit_train=samples)


def of_network(name):
    recipe = tiny_recipe()
    return replace(recipe, stages=(replace(recipe.stages[0], sftn=None, network=name),))


@pytest.mark.parametrize(
    "samples, training, words",
    [
        (
            97,
            {"drop_last": False},
            r"teacher: the last batch of an epoch \(97 images in batches of 32\) has 1 image, too few for vgg8 "
            r"\(Expected more than 1 value per channel .*\): give --drop-last on, or another --batch-size$",
        ),
        (128, {"batch_size": 1}, "a batch of 1 has 1 image, too few for vgg8 .*: raise --batch-size$"),
        (
            128,
            {"accumulate": 32},
            "a part of a batch of 32 has 1 image, too few .*: raise --batch-size, or lower --accumulate$",
        ),
    ],
)
def test_one_image_before_a_norm_over_vectors(samples, training, words):
    with pytest.raises(UserError, match=words):
        check(job_of(changed(of_network("vgg8"), samples, **training)))
    check(job_of(changed(of_network("resnet8"), samples, **training)))


def test_a_last_batch_that_is_left_out_is_no_matter():
    check(job_of(changed(of_network("vgg8"), 97, drop_last=True)))


FEW = {"crd": {"negatives": 8}, "sskd": {"epochs": 2, "milestones": (1,)}, "rco": {"anchors": 2}}


@pytest.mark.parametrize("method", METHODS)
def test_a_single_sample_is_trained_on_or_refused(method):
    """What has no relations to learn from says so at the start; what goes on has a finite loss and gradient."""
    joined = "aekd+aekd_f" if method == "aekd_f" else "none+fitnet" if method == "none" else method
    least = max(METHODS[name].teachers_needed[0] for name in joined.split("+"))
    settings = FEW.get(method, {})
    recipe = changed(taught_recipe(joined, teachers=least, **settings), 33, drop_last=False)
    try:
        check(job_of(recipe))
    except UserError as error:
        assert "--drop-last on" in str(error)


def test_images_of_which_a_network_leaves_nothing():
    words = "tf_densenet121 is not for images of 4 pixels: Given input size: "
    recipe = replace(of_network("tf_densenet121"), image_size=4, augmentation=replace(tiny_recipe().augmentation))
    job = job_of(tiny_recipe())
    with pytest.raises(UserError, match=words):
        check(replace(job, recipe=recipe, course=job_of(of_network("tf_densenet121")).course))
