"""What papers print and the recipes have otherwise: both count as the paper's, and what is left says so."""

import pytest
from helpers.commands import mistake, resolved

from fastkd.recipes import RECIPES
from fastkd.recipes.printed import ROWS, as_printed, departures
from fastkd.recipes.published import run_of
from fastkd.recipes.tables import ENTRIES


@pytest.mark.parametrize(
    "arguments, left",
    [
        (["cifar100-sftn"], ["teacher sftn.kl"]),
        (["cifar100-sftn", "--sftn.kl", "reverse"], []),
        (["cifar100-sftn", "--teacher-training", "standard"], []),
        (
            ["cifar100-sftn", "--sftn.kl-weight", "1", "--sftn.temperature", "5", "--pair", "wrn_40_2/wrn_16_2"],
            ["teacher sftn.kl", "teacher sftn.ce_temperature", "teacher sftn.tau_squared"],
        ),
        (["cifar100-sftn", "--pair", "resnet32x4/ShuffleV1"], ["teacher sftn.kl", "teacher lr"]),
        (["cifar100-sftn", "--pair", "ResNet18/MobileNetV2"], ["teacher sftn.kl", "student lr"]),
        (["cifar100-sftn", "--pair", "resnet32x4/ShuffleV1", "--method", "dml"], ["teacher lr"]),
        (["cifar100-simkd"], ["teacher nesterov", "student nesterov"]),
        (["cifar100-simkd", "--nesterov", "on"], []),
        (["cifar100-tfkd", "--pair", "ResNet18/tf_mobilenet_v2"], ["student kd.kl_weight"]),
        (
            ["cifar100-tfkd", "--pair", "ResNet50/ResNet18"],
            ["teacher batch_size", "student batch_size", "teacher lr", "student lr", "student kd.kl_weight"],
        ),
    ],
)
def test_what_is_left_is_a_deviation(arguments, left):
    said = resolved(*arguments).deviations
    assert [words.split(" where the paper prints")[0].rsplit(" ", 1)[0] for words in said if " where " in words] == left
    printed = resolved(*arguments, "--as-printed") if left else resolved(*arguments)
    assert all(words.startswith("the paper does not print") for words in printed.deviations), printed.deviations


def test_every_cell_can_be_run_as_printed():
    for entry in ENTRIES:
        assert not departures(as_printed(run_of(entry))), entry


def test_an_option_counts_more_than_the_paper():
    recipe = resolved("cifar100-tfkd", "--pair", "ResNet50/ResNet18", "--as-printed", "--batch-size", "32")
    assert {stage.training.batch_size for stage in recipe.stages} == {32}
    assert "student batch_size 32 instead of 64" in recipe.deviations


def test_what_is_printed_already_is_refused():
    assert "--as-printed changes nothing" in mistake("cifar100-modern", "--as-printed")


def test_every_row_is_of_some_recipe_and_moves_something():
    moved = {(run.name, one.place) for run in map(run_of, ENTRIES) for one in departures(run)}
    for row in ROWS:
        assert set(row.recipes) <= RECIPES.keys()
        assert any((name, row.place) in moved for name in row.recipes), row.place
