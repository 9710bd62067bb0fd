"""The recipes of the methods of 2022 to 2025: what their authors' codes have otherwise, and what is not published."""

import pytest

from fastkd.recipes import RECIPES, cifar100_modern, imagenet_modern, imagenet_vanillakd
from fastkd.recipes.tables import modern


@pytest.mark.parametrize("method", ("nkd", "rld", "mlld", "crld", "dist", "ctkd", "kd+srd", "dkd", "wttm", "kd+catkd"))
def test_every_method_has_the_cifar_pair(method):
    teacher, student = cifar100_modern(method=method).stages
    assert (teacher.network, student.network) == ("resnet32x4", "resnet8x4")
    assert (student.training.epochs, student.training.milestones) == (240, (150, 180, 210))
    assert student.training.lr == (0.025 if method == "mlld" else 0.05)


def test_kd_beside_srd_and_vkd_is_at_temperature_1():
    for recipe in (cifar100_modern, imagenet_modern):
        for method in ("srd", "vkd"):
            student = recipe(method=method).stage("student")
            assert student.method == f"kd+{method}"
            assert vars(student.settings["kd"]) | {"standardise": False} == {
                "kl_weight": 1.0,
                "ce_weight": 1.0,
                "temperature": 1.0,
                "standardise": False,
            }


def test_nkd_has_the_authors_cifar_settings_on_cifar():
    recipe = cifar100_modern(method="nkd")
    settings = recipe.stage("student").settings["nkd"]
    assert (settings.gamma, settings.temperature) == (3.5, 3.0) and recipe.deviations
    assert (imagenet_modern(method="nkd").stage("student").settings["nkd"].gamma) == 1.5


def test_imagenet_has_its_own_settings():
    settings = {m: imagenet_modern(method=m).stage("student").settings[m] for m in ("dist", "rld", "mlld", "crld")}
    assert settings["dist"].temperature == 1 and settings["rld"].beta == 0.5
    assert (settings["mlld"].ce_weight, settings["mlld"].kd_weight, settings["crld"].ce_weight) == (0.5, 0.5, 2.0)


@pytest.mark.parametrize("entry", modern.ENTRIES, ids=lambda entry: f"{entry.recipe} {entry.method}")
def test_what_is_not_published_is_said(entry):
    unknown = {"ttm", "wttm", "ctkd"} if entry.recipe == "imagenet-modern" else {"ttm", "wttm"}
    assert bool(RECIPES[entry.recipe](method=entry.method).deviations) == (entry.method in unknown)


def test_vanillakd_says_what_it_lacks():
    recipe = imagenet_vanillakd()
    student = recipe.stage("student")
    assert (student.training.optimizer, student.training.batch_size, student.training.epochs) == ("lamb", 2048, 300)
    assert (recipe.augmentation.randaugment, recipe.augmentation.mixup, recipe.augmentation.cutmix) == (2, 0.1, 1.0)
    assert any("BEiTv2-B" in one for one in recipe.deviations)
