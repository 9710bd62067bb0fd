"""The recipes of the SFTN paper."""

import pytest

from fastkd import networks
from fastkd.recipes import cifar100_sftn, imagenet_sftn
from fastkd.recipes.published import beside_the_paper
from fastkd.recipes.tables import sftn_grids

GRIDS = (sftn_grids.TABLE_17, sftn_grids.TABLE_18, sftn_grids.TABLE_1)
PAIRS = [pair.split("/") for grid in GRIDS for pair in grid.columns]


@pytest.mark.parametrize("teacher, student", PAIRS)
def test_every_pair_of_sftns_tables(teacher, student):
    recipe = cifar100_sftn(teacher_net=teacher, student=student, control=True)
    by_name = {stage.name: stage for stage in recipe.stages}
    assert {teacher, student} <= networks.NETWORKS.keys()
    assert by_name["teacher"].training.lr == 0.05
    small = student.startswith(("Shuffle", "MobileNet"))
    assert by_name["student"].training.lr == by_name["control"].training.lr == (0.01 if small else 0.05)
    for stage in recipe.stages:
        training = stage.training
        assert (training.epochs, training.batch_size, training.milestones) == (240, 64, (150, 180, 210))
        assert (training.weight_decay, training.momentum, training.nesterov) == (5e-4, 0.9, False)
    branches = by_name["teacher"].sftn
    weights = (branches.teacher_weight, branches.kl_weight, branches.ce_weight, branches.temperature)
    assert weights == (1.0, 3.0, 1.0, 1.0)
    assert not recipe.deviations


def test_imagenet_follows_table_3():
    recipe = beside_the_paper(imagenet_sftn(control=True))
    assert [stage.published.top1 for stage in recipe.stages] == [77.43, 74.14, 73.79]
    training, branches = recipe.stages[0].training, recipe.stages[0].sftn
    assert (training.epochs, training.batch_size, training.lr, training.weight_decay) == (100, 256, 0.1, 1e-4)
    assert branches.kl_weight == 1.0
    assert recipe.augmentation.crop == "resized" and recipe.image_size == 224
