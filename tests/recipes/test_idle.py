"""Options that would change nothing in a recipe."""

from dataclasses import replace

import pytest

from fastkd.recipes import cifar100_cmi, cifar100_zskt, digits
from fastkd.recipes.idle import idle_reading, idle_storing, idle_with_made_images
from fastkd.stored import Storing

NOTHING = {"synthesis": (), "common": (), "augmentation": ()}


def with_loaded_teacher(recipe):
    teacher, *others = recipe.stages
    return replace(recipe, stages=(replace(teacher, training=None, file="x.safetensors"), *others))


@pytest.mark.parametrize(
    ("recipe", "given", "found"),
    [
        (digits(), {"synthesis": ("lr",)}, ("synthesis.lr", "the recipe digits has images to train on")),
        (cifar100_cmi(), {"synthesis": ("lr",), "common": ("limit_train",)}, None),
        (with_loaded_teacher(cifar100_cmi()), {"common": ("limit_train",)}, ("limit_train", "no stage trains on")),
        (with_loaded_teacher(cifar100_cmi()), {"augmentation": ("flip",)}, None),
        (
            with_loaded_teacher(cifar100_zskt()),
            {"augmentation": ("flip",)},
            ("flip", "images of zskt are made for one"),
        ),
        (with_loaded_teacher(cifar100_cmi(control=True)), {"common": ("limit_train",)}, None),
    ],
)
def test_beside_images_that_are_made(recipe, given, found):
    idle = idle_with_made_images(recipe, **NOTHING | given)
    assert idle is None if found is None else (idle.option == found[0] and idle.why.startswith(found[1]))


def test_reading_and_storing():
    assert idle_reading(digits(), {"workers": 1}) == ("workers", "digits has no image files")
    assert idle_storing(digits(), {"store_top": 1}) == ("store_top", "it goes with --teacher-outputs")
    stored = replace(digits(), storing=Storing(teacher_outputs="x"))
    assert idle_reading(digits(), {}) is None and idle_storing(stored, {"teacher_outputs": "x"}) is None
