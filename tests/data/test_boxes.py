"""Random-resized crops against torchvision's, and centres against torchvision's sizes."""

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2.functional import resize

from fastkd.data import FOUR_ROTATIONS, Augmentation, Views
from fastkd.data.boxes import centres, crop_boxes, evaluation_size, view_boxes

AUGMENTATION = Augmentation(crop="resized")


def boxes(width, height, count=4000, **options):
    sizes = np.tile(np.array([[width, height]], np.int32), (count, 1))
    return crop_boxes(sizes, torch.arange(count), options.get("epoch", 0), 1, AUGMENTATION)


@pytest.mark.parametrize("width, height", ((500, 400), (400, 500), (224, 224), (300, 90), (31, 33)))
def test_distributed_as_torchvisions(width, height):
    ours = boxes(width, height).astype(float)
    assert (ours[:, :2] >= 0).all() and (ours[:, 2:] > 0).all()
    assert (ours[:, 0] + ours[:, 2] <= width).all() and (ours[:, 1] + ours[:, 3] <= height).all()
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)])
    theirs = theirs[:, [1, 0, 3, 2]].astype(float)
    for column in range(4):
        spread = max(theirs[:, column].std(), 1)
        assert abs(ours[:, column].mean() - theirs[:, column].mean()) < 0.1 * spread
        assert abs(ours[:, column].std() - theirs[:, column].std()) < 0.1 * spread
    free = (ours[:, 2] < width) & (ours[:, 3] < height)  # both corners have room to move
    if free.sum() > 100:
        places = ours[free, :2] / ([width, height] - ours[free, 2:])
        assert abs(np.corrcoef(places.T)[0, 1]) < 0.15
    area = (ours[:, 2] * ours[:, 3]).mean() / (theirs[:, 2] * theirs[:, 3]).mean()
    assert abs(area - 1) < 0.03


@pytest.mark.parametrize("width, height", ((1, 1), (1, 40), (400, 10), (2, 3)))
def test_where_nothing_fits_the_middle_is_taken(width, height):
    found = boxes(width, height, 50)
    assert (found[:, 2:] >= 1).all()
    assert (found[:, 0] + found[:, 2] <= width).all() and (found[:, 1] + found[:, 3] <= height).all()
    if (width, height) == (400, 10):
        assert (found[:, 2:] <= (math.ceil(10 * 4 / 3), 10)).all()
        assert found[:, 0].min() >= 0


def test_a_box_depends_on_seed_epoch_index_and_view_alone():
    sizes = np.random.default_rng(0).integers(20, 300, (50, 2)).astype(np.int32)
    index = torch.arange(50)
    whole = crop_boxes(sizes, index, 3, 7, AUGMENTATION)
    some = torch.tensor([30, 4, 11])
    np.testing.assert_array_equal(crop_boxes(sizes[some.numpy()], some, 3, 7, AUGMENTATION), whole[some.numpy()])
    for other in (
        crop_boxes(sizes, index, 4, 7, AUGMENTATION),
        crop_boxes(sizes, index, 3, 8, AUGMENTATION),
        crop_boxes(sizes, index, 3, 7, AUGMENTATION, view=1),
    ):
        assert (other != whole).any(1).mean() > 0.9


@pytest.mark.parametrize("views", (Views(2), FOUR_ROTATIONS), ids=("independent", "rotations"))
def test_every_view_has_a_box_of_its_own(views):
    sizes = np.full((50, 2), 100, np.int32)
    found = view_boxes(sizes, torch.arange(50), 0, 0, AUGMENTATION, views)
    assert found.shape == (views.count, 50, 4)
    for view in range(1, views.count):
        assert (found[view] != found[0]).any(1).mean() > 0.9


def test_centres_are_torchvisions():
    sizes = np.random.default_rng(1).integers(1, 700, (300, 2)).astype(np.int32)
    resized, corners = centres(sizes, 256, 224)
    for (width, height), (new_width, new_height), (left, top) in zip(sizes, resized, corners, strict=True):
        if max(width, height) / min(width, height) > 8:
            continue
        expected = resize(torch.empty(1, height, width, dtype=torch.uint8), [256], antialias=True).shape
        assert (new_height, new_width) == tuple(expected[1:])
        assert (left, top) == (round((new_width - 224) / 2.0), round((new_height - 224) / 2.0))


def test_a_squeezed_image_is_a_square_whose_centre_is_taken():
    resized, corners = centres(np.array([[500, 375], [256, 1024]], np.int32), 256, 224, squeeze=True)
    assert resized.tolist() == [[256, 256]] * 2 and corners.tolist() == [[16, 16]] * 2


def test_what_evaluation_resizes_to():
    assert evaluation_size("squeezed", 224) == 256
    assert (evaluation_size("resized", 224), evaluation_size("pad", 32)) == (256, 32)
