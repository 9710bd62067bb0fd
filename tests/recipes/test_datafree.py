"""The recipes without data: what DataFree's scripts and code say, and Table 7 of SimKD."""

from dataclasses import replace

import pytest

from fastkd.methods.kd import KDSettings
from fastkd.methods.simkd import SimKDSettings
from fastkd.plan.nodes import nodes_of
from fastkd.recipes import RECIPES, cifar100_cmi, cifar100_simkd
from fastkd.recipes.course import course
from fastkd.recipes.published import beside_the_paper
from fastkd.recipes.recipe import plain_to_recipe, recipe_to_plain
from fastkd.stored import Storing
from fastkd.support.errors import UserError

NAMES = ("cifar100-zskt", "cifar100-dafl", "cifar100-cmi")


@pytest.mark.parametrize(
    ("name", "batch", "temperature"),
    [("cifar100-zskt", 256, 1.0), ("cifar100-dafl", 256, 1.0), ("cifar100-cmi", 128, 20.0)],
)
def test_the_student_is_trained_as_datafree_does(name, batch, temperature):
    training = (student := RECIPES[name]().stage("student")).training
    assert (training.epochs, training.batch_size, training.lr, training.momentum) == (200, batch, 0.1, 0.9)
    assert (training.weight_decay, training.nesterov, training.schedule) == (1e-4, False, "cosine_by_epoch")
    assert student.settings == {"kd": KDSettings(ce_weight=0.0, kl_weight=1.0, temperature=temperature)}


def test_the_numbers_of_each_synthesis():
    zskt, dafl, cmi = (RECIPES[name]().stage("student").synthesis for name in NAMES)
    for one in (zskt, dafl, cmi):
        assert (one.images, one.steps_per_epoch, one.lr, one.channels) == (256, 400, 1e-3, 64)
    assert (zskt.every, zskt.generator, zskt.latent, zskt.adversarial) == (5, "large", 256, 1.0)
    assert (dafl.every, dafl.generator, dafl.latent) == (5, "large", 512)
    assert (dafl.one_hot, dafl.balance, dafl.activation) == (1.0, 20.0, 0.001)
    assert (cmi.generator_steps, cmi.generator, cmi.latent, cmi.bank, cmi.drawn) == (200, "small", 256, 40_960, 4_096)
    assert (cmi.statistics, cmi.label, cmi.adversarial, cmi.contrast, cmi.contrast_temperature) == (1, 1, 0.5, 0.8, 0.1)
    assert cmi.images_at(199) == 51_200 and cmi.has_pool and not dafl.has_pool


def test_simkd_learns_from_images_of_cmi_as_it_does_from_data():
    student = cifar100_cmi(method="simkd").stage("student")
    assert student.settings == {"simkd": SimKDSettings()}
    assert student.training == cifar100_cmi().stage("student").training


def test_the_teacher_is_the_one_of_table_1():
    """So that a plan trains it once."""
    found = [
        nodes_of(recipe(teacher_net="resnet38x2", student="resnet38"), student_seed=0, teacher_seed=0)["teacher"]
        for recipe in (cifar100_cmi, cifar100_simkd)
    ]
    assert found[0].digest == found[1].digest


@pytest.mark.parametrize("name", NAMES)
def test_they_stand_in_a_file_and_beside_the_paper(name):
    recipe = RECIPES[name](control=True)
    assert plain_to_recipe(recipe_to_plain(recipe), "a.json") == recipe
    published = beside_the_paper(recipe)
    figures = {"cifar100-zskt": 33.60, "cifar100-dafl": 45.32, "cifar100-cmi": 64.80}
    assert published.stage("student").published.top1 == figures[name]
    assert published.stage("teacher").published.top1 == 76.31 and published.stage("control").published.top1 == 71.92
    assert len(published.deviations) == 2 and all(
        words.startswith("the paper does not ") for words in published.deviations
    )


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("crd", "--method crd has a memory of every training image"),
        ("ft", "--method ft has a training before the student's"),
        ("rco", "--method rco has several points of the teacher's training"),
        ("dml", "--method dml: its teacher learns"),
    ],
)
def test_methods_that_need_data_are_refused(method, why):
    with pytest.raises(UserError, match=why):
        course(cifar100_cmi(method=method))


def test_what_does_not_go_with_made_images_is_refused():
    recipe = cifar100_cmi()
    with pytest.raises(UserError, match="learns from one teacher, the student has 2 teachers"):
        cifar100_cmi(teacher_net="resnet8+resnet8", method="aveg")
    with pytest.raises(UserError, match="learns from one teacher, the student has 0 teachers"):
        cifar100_cmi(method="ls")
    with pytest.raises(UserError, match="--teacher-outputs: the images of the student are made"):
        replace(recipe, storing=Storing(teacher_outputs="x"))
    with pytest.raises(UserError, match="--mixup mixes images of a data set"):
        replace(recipe, augmentation=replace(recipe.augmentation, mixup=0.2))
