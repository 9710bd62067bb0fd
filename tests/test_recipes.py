"""The papers' settings, as recipes and through the command line."""

import json
from pathlib import Path

import pytest

from fastkd import networks
from fastkd.options import parse, recipe_of, refuse_other_recipe
from fastkd.recipes import RECIPES, cifar100_sftn, imagenet_sftn
from fastkd.recipes.published import beside_the_paper
from fastkd.recipes.recipe import plain_to_recipe, recipe_to_plain
from fastkd.recipes.tables import sftn
from fastkd.support.errors import UserError
from fastkd.support.plain import differences


def resolved(*arguments):
    return recipe_of(parse(list(arguments)))


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("teacher_training", ("standard", "sftn"))
def test_recipes_survive_json(name, teacher_training):
    recipe = RECIPES[name](teacher_training=teacher_training, control=True)
    again = plain_to_recipe(json.loads(json.dumps(recipe_to_plain(recipe))), "here")
    assert again == recipe
    assert (RECIPES[name].__doc__ or "").strip()


PAIRS = [pair.split("/") for grid in (sftn._TABLE_17, sftn._TABLE_18, sftn._TABLE_1) for pair in grid.columns]


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
    branches = by_name["teacher"].branches
    weights = (branches.teacher_weight, branches.kl_weight, branches.ce_weight, branches.temperature)
    assert weights == (1.0, 3.0, 1.0, 1.0)
    assert not recipe.deviations


@pytest.mark.parametrize(
    "pair, teacher_training, expected",
    [
        (("wrn_40_2", "wrn_16_2"), "standard", (76.30, 75.46)),
        (("wrn_40_2", "wrn_16_2"), "sftn", (78.20, 76.25)),
        (("vgg13", "vgg8"), "sftn", (76.76, 74.52)),
        (("ResNet50", "vgg8"), "standard", (78.70, 73.82)),
        (("resnet32x4", "ShuffleV2"), "sftn", (79.58, 78.07)),
    ],
)
def test_published_figures(pair, teacher_training, expected):
    recipe = beside_the_paper(cifar100_sftn(teacher_net=pair[0], student=pair[1], teacher_training=teacher_training))
    assert tuple(stage.published.top1 for stage in recipe.stages) == expected


def test_imagenet_follows_table_3():
    recipe = beside_the_paper(imagenet_sftn(control=True))
    assert [stage.published.top1 for stage in recipe.stages] == [77.43, 74.14, 73.79]
    training, branches = recipe.stages[0].training, recipe.stages[0].branches
    assert (training.epochs, training.batch_size, training.lr, training.weight_decay) == (100, 256, 0.1, 1e-4)
    assert branches.kl_weight == 1.0
    assert recipe.augmentation.crop == "resized" and recipe.image_size == 224


def test_other_branches_are_a_deviation():
    recipe = beside_the_paper(cifar100_sftn(branch="wrn_16_1"))
    assert recipe.deviations == ("teacher branches.network wrn_16_1 instead of wrn_16_2",)


class TestCommandLine:
    def test_the_published_figure_needs_the_published_settings(self):
        assert resolved("cifar100-sftn", "--seeds", "3", "--eval-every", "5").deviations == ()
        said = resolved("cifar100-sftn", "--epochs", "2", "--limit-train", "5000").deviations
        assert "teacher epochs 2 instead of 240" in said and "limit_train 5000 instead of None" in said

    def test_given_back_as_a_file_it_deviates_all_the_same(self, tmp_path):
        short = resolved("cifar100-sftn", "--epochs", "2")
        (tmp_path / "recipe.json").write_text(json.dumps(recipe_to_plain(short)))
        assert resolved(str(tmp_path / "recipe.json")).deviations == short.deviations != ()

    @pytest.mark.parametrize(
        "arguments, words",
        [
            (["cifar100-sftn", "--data", "imagefolder:x"], "data imagefolder instead of cifar100"),
            (["imagenet-sftn"], "the paper does not print the weights of the student's losses"),
        ],
    )
    def test_other_data_and_our_own_choices_are_deviations(self, arguments, words):
        assert words in resolved(*arguments).deviations

    def test_imagenet_with_chosen_blocks_deviates(self):
        said = resolved("imagenet-sftn", "--branch-blocks", "1").deviations
        assert "teacher branches.blocks [1] instead of None" in said

    def test_milestones_move_with_the_epochs(self):
        training = resolved("cifar100-sftn", "--epochs", "24").stages[0].training
        assert training.milestones == (15, 18, 21)
        training = resolved("cifar100-sftn", "--epochs", "24", "--milestones", "20", "22").stages[0].training
        assert training.milestones == (20, 22)

    def test_the_teacher_may_train_longer(self):
        stages = resolved("digits", "--epochs", "3", "--teacher-epochs", "5").stages
        assert [stage.training.epochs for stage in stages] == [5, 3, 3]

    def test_switches_and_nested_settings(self):
        options = (
            "--flip",
            "on",
            "--rotation",
            "15",
            "--control",
            "off",
            "--sftn.kl",
            "reverse",
            "--sftn.kl-weight",
            "1",
        )
        recipe = resolved("digits", *options, "--kd.temperature", "2", "--optimizer", "adam", "--factor", "0.2")
        assert recipe.augmentation.flip and recipe.augmentation.rotation == 15.0
        assert [stage.name for stage in recipe.stages] == ["teacher", "student"]
        assert (recipe.stages[0].branches.kl, recipe.stages[0].branches.kl_weight) == ("reverse", 1.0)
        assert recipe.stages[1].settings["kd"].temperature == 2.0
        assert recipe.stages[1].settings["kd"].kl_weight == 0.9
        assert {stage.training.optimizer for stage in recipe.stages} == {"adam"}
        assert {stage.training.factor for stage in recipe.stages} == {0.2}

    def test_paths_become_absolute(self):
        name, _, path = resolved("cifar100-sftn", "--data", "cifar100:somewhere").data.partition(":")
        assert name == "cifar100" and Path(path).is_absolute()

    def test_a_recipe_file_with_options(self, tmp_path):
        recipe = resolved("digits")
        (tmp_path / "recipe.json").write_text(json.dumps(recipe_to_plain(recipe)))
        changed = resolved(str(tmp_path / "recipe.json"), "--seeds", "5")
        assert [place for place, *_ in differences(recipe_to_plain(recipe), recipe_to_plain(changed))] == ["seeds"]

    def test_a_resumed_run_knows_its_method_by_the_short_name(self):
        saved = resolved("cifar100-sftn", "--method", "at")
        assert saved.stages[1].method == "kd+at"
        for method in ("at", "kd+at"):
            refuse_other_recipe(saved, parse(["cifar100-sftn", "--resume", "run", "--method", method]))
        with pytest.raises(UserError, match="begun with method = 'kd.at', the command says 'ce.at'"):
            refuse_other_recipe(saved, parse(["--resume", "run", "--method", "ce+at"]))

    def test_several_teachers_are_trained_one_after_the_other(self):
        several = resolved("cifar100-simkd", "--pair", "resnet32x4+resnet110x2/ShuffleV2", "--method", "aveg")
        assert [stage.name for stage in several.stages] == ["teacher", "teacher-2", "student"]
        assert several.stages[-1].teachers == ("teacher", "teacher-2")
        with pytest.raises(UserError, match="no network 'resnet32x5'"):
            resolved("cifar100-simkd", "--pair", "resnet32x4+resnet32x5/ShuffleV2")

    def test_a_standard_teacher_has_no_branches(self):
        recipe = resolved("digits", "--teacher-training", "standard")
        assert recipe.stages[0].kind == "supervised" and recipe.stages[0].branches is None


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda plain: plain.pop("format"), "has no entry 'format'"),
        (lambda plain: plain.pop("data"), "lacks the entry 'data'"),
        (lambda plain: plain.update(seeds="three"), "seeds is 'three', expected int"),
        (lambda plain: plain.update(seeds=True), "seeds is True, expected int"),
        (lambda plain: plain["stages"][0].update(kind="magic"), "kind is 'magic', expected one of"),
        (lambda plain: plain["stages"][1]["settings"]["kd"].update(tau=1), "kd has an unknown entry 'tau'"),
        (lambda plain: plain.update(mean=[0.5]), "mean has 1 entries, expected 3"),
        (lambda plain: plain.update(stages=5), "stages is 5, expected a list"),
    ],
)
def test_slips_in_a_recipe_file(change, words):
    plain = json.loads(json.dumps(recipe_to_plain(RECIPES["digits"]())))
    change(plain)
    with pytest.raises(UserError, match=words):
        plain_to_recipe(plain, "here")
