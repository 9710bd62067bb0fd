"""The command line of `fastkd.train`, and the recipe it means."""

import json
import re
from pathlib import Path

import pytest
from helpers.commands import command, mistake, resolved

from fastkd import options
from fastkd.options import parse, refuse_other_recipe
from fastkd.recipes.recipe import recipe_to_plain
from fastkd.support.command_line import option_names
from fastkd.support.errors import UserError
from fastkd.support.plain import differences


def test_help_lists_what_there_is():
    done = command("fastkd.train", "--help")
    assert done.returncode == 0 and not done.stderr
    words = ("cifar100-sftn", "imagenet-sftn", "digits", "imagefolder", "wrn_40_2", "kd", "--teacher-net", "--branch")
    for word in (*words, "--kd.temperature", "--sftn.kl-weight", "--dry-run", "--resume", "--limit-train"):
        assert word in done.stdout, word


def test_options_are_a_tested_contract():
    """A new option is a deliberate change of this list."""
    names = set(option_names(options.Options))
    assert names == {
        *("recipe", "data", "teacher-net", "student", "branch", "branch-blocks", "branch-starts", "teacher-training"),
        "teacher",
        *("method", "control", "epochs", "teacher-epochs", "batch-size", "optimizer", "lr", "momentum"),
        *("nesterov", "weight-decay", "schedule", "milestones", "factor", "warmup-epochs", "warmup-by", "drop-last"),
        *(
            "image-size",
            "limit-train",
            "crop",
            "crop-padding",
            "flip",
            "rotation",
            "squeeze",
            "teacher-lr",
            "randaugment",
            "magnitude",
        ),
        *("mixup", "cutmix", "run", "resume", "seed", "seeds"),
        *("eval-every", "keep-epochs", "threads", "device", "logger", "heartbeat", "dry-run", "pair", "list"),
        *("unlocked", "trust", "teacher-prefix", "any-images", "teacher-features", "student-features", "as-printed"),
        *("init", "teacher-init", "teacher-classes", "own-images", "teacher-size", "teacher-mean", "teacher-std"),
        *("freeze-epochs", "body-lr-factor", "mean", "std"),
        *("accumulate", "shards", "clip-norm", "ema", "sync-batchnorm", "scale-lr-from"),
        *("loader", "resident", "max-bad-images", "class-list", "split", "label-column", "workers", "index-cache"),
        *(
            "validation",
            "data-seed",
            "students",
            "teacher-outputs",
            "store-type",
            "store-top",
            "store-epochs",
            "store-exact",
        ),
        *("compile", "capture", "precision", "channels-last", "fold", "deterministic", "write-aside"),
        "shard-checkpoints",
        *("sftn.temperature", "sftn.teacher-weight", "sftn.kl-weight", "sftn.ce-weight", "sftn.kl"),
        *("sftn.detach-teacher", "sftn.ce-temperature", "sftn.tau-squared", "sftn.frozen-epochs"),
        *("gtn.paths", "gtn.baseline-decay", "gtn.shared-path", "gtn.masks", "gtn.identity", "gtn.zeros"),
        *("gtn.shared-depths", "gtn.tested"),
        *("synthesis.images", "synthesis.steps-per-epoch", "synthesis.every", "synthesis.generator-steps"),
        *("synthesis.generator", "synthesis.latent", "synthesis.channels", "synthesis.lr", "synthesis.adversarial"),
        *("synthesis.one-hot", "synthesis.balance", "synthesis.activation", "synthesis.statistics"),
        *("synthesis.label", "synthesis.contrast", "synthesis.contrast-temperature", "synthesis.bank"),
        "synthesis.drawn",
    }


class TestCommandLine:
    def test_the_published_figure_needs_the_published_settings(self):
        said = resolved("cifar100-sftn", "--seeds", "3", "--eval-every", "5").deviations
        assert [words.partition(" where")[0] for words in said] == ["teacher sftn.kl forward"]
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
        assert "teacher sftn.blocks [1] instead of None" in said

    def test_a_normalisation_that_is_given_counts_and_is_a_deviation(self):
        recipe = resolved("cifar100-sftn", "--mean", ".5", ".4", ".3", "--std", ".2", ".2", ".2")
        assert (recipe.mean, recipe.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
        assert any(words.startswith("mean") for words in recipe.deviations)
        with pytest.raises(UserError, match="^--mean and --std go together$"):
            resolved("cifar100-sftn", "--std", ".2", ".2", ".2")

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
        recipe = resolved("digits", *options, "--kd.temperature", "2", "--optimizer", "adam", "--eval-every", "2")
        assert recipe.augmentation.flip and recipe.augmentation.rotation == 15.0
        assert [stage.name for stage in recipe.stages] == ["teacher", "student"]
        assert (recipe.stages[0].sftn.kl, recipe.stages[0].sftn.kl_weight) == ("reverse", 1.0)
        assert recipe.stages[1].settings["kd"].temperature == 2.0
        assert recipe.stages[1].settings["kd"].kl_weight == 0.9
        assert {stage.training.optimizer for stage in recipe.stages} == {"adam"}
        assert recipe.eval_every == 2

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
        assert recipe.stages[0].sftn is None


IDLE = [
    (["--factor", "0.2"], "--factor changes nothing: it goes with --schedule multistep"),
    (["--schedule", "multistep", "--factor", "0.2"], "--factor changes nothing: it goes with --milestones above 0"),
    (["--milestones", "3"], "--milestones changes nothing: it goes with --schedule multistep"),
    (["--optimizer", "adam", "--momentum", "0.8"], "--momentum changes nothing: it goes with --optimizer"),
    (
        ["--warmup-epochs", "0", "--warmup-by", "epoch"],
        "--warmup-by changes nothing: it goes with --warmup-epochs",
    ),
    (
        ["--schedule", "multistep", "--epochs", "3", "--milestones", "1", "3"],
        "--milestones 3 changes nothing: the longest stage has 3 epochs",
    ),
    (["--sftn.kl-weight", "0", "--sftn.temperature", "2"], "it goes with --sftn.kl-weight above 0"),
    (["--sftn.tau-squared", "off"], "it goes with a --sftn.temperature other than 1"),
    (["--method", "ls", "--fold", "on"], "--fold changes nothing: no teacher is frozen"),
    (
        ["--epochs", "2", "--teacher-outputs", "x", "--store-epochs", "2"],
        "--store-epochs changes nothing: the student learns for 2 epochs",
    ),
    (["--workers", "2"], "--workers changes nothing: digits has no image files"),
    (["--max-bad-images", "2"], "--max-bad-images changes nothing: digits has no image files"),
    (["--class-list", "x"], "--class-list changes nothing: digits has no image files"),
    (["--index-cache", "x"], "--index-cache changes nothing: digits has no image files"),
    (["--loader", "auto"], "--loader changes nothing: digits has no image files"),
    (["--resident", "on"], "--resident changes nothing: digits has no image files"),
    (["--method", "cc", "--cc.gamma", "2"], "--cc.gamma changes nothing: it goes with --cc.form kernel"),
    (
        ["--method", "cc", "--cc.form", "kernel", "--cc.embed-dim", "2"],
        "--cc.embed-dim changes nothing: it goes with --cc.form neighbours",
    ),
    (
        ["--method", "ft", "--ft.epochs", "0", "--ft.paraphraser-lr", "1"],
        "--ft.paraphraser-lr changes nothing: it goes with --ft.epochs above 0",
    ),
    (["--method", "kd", "--kd.kl-weight", "0", "--kd.temperature", "2"], "it goes with --kd.kl-weight above 0"),
    (["--method", "aekd", "--aekd.unit-length", "on"], "--aekd.unit-length changes nothing: it goes with 2 teachers"),
    (
        ["--teacher-net", "resnet8+resnet14", "--method", "aekd", "--aekd.unit-length", "on", "--aekd.cap", "0.5"],
        "--aekd.cap changes nothing: it goes with 3 teachers or more, or --aekd.unit-length off",
    ),
    (
        ["--method", "abkd", "--abkd.arithmetic", "paper"],
        "it goes with alpha, beta or alpha \\+ beta at 0, where code and",
    ),
    (["--method", "dkd", "--dkd.alpha", "0", "--dkd.beta", "0", "--dkd.temperature", "2"], "--dkd.alpha or --dkd.beta"),
    (["--method", "kdcl", "--sftn.kl-weight", "1"], "changes nothing: the teacher learns together with the student"),
    (["--method", "simkd", "--simkd.temperature", "2"], "it goes with --simkd.kl-weight above 0"),
    (
        ["imagenet-sftn", "--data", "imagefolder:x", "--crop-padding", "2"],
        "--crop-padding changes nothing: it goes with --crop pad",
    ),
    (
        ["cifar100-sftn", "--data", "imagefolder:x", "--loader", "torchvision"],
        "--loader changes nothing: the images are decoded once, to stay on the device; it goes with --resident off",
    ),
]


@pytest.mark.parametrize("arguments, words", IDLE, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_an_option_that_changes_nothing_is_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        resolved(*arguments)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--list", "--lr", "1"], "--lr changes nothing: --list shows the papers' tables; nothing is trained"),
        (["--list", "--method", "kd"], "--method changes nothing: --list shows the papers' tables; name a recipe"),
        (["cifar100-sftn", "--list", "--control", "on"], "--control changes nothing"),
        (["--list", "--run", "x"], "--run changes nothing"),
        (["--dry-run", "--run", "x"], "--run changes nothing: --dry-run writes nothing"),
        (["--dry-run", "--heartbeat", "0"], "--heartbeat changes nothing: --dry-run writes nothing"),
        (["--dry-run", "--logger", "csv"], "--logger changes nothing: --dry-run writes nothing"),
    ],
)
def test_what_is_not_trained_takes_no_option_of_a_training(arguments, words):
    assert re.search(words, mistake(*arguments))


@pytest.mark.parametrize("option", sorted(option_names(options.Options)))
def test_an_empty_value_is_refused(option):
    for arguments in ([f"--{option}="], [f"--{option}", ""], [f"--{option}", " "]) if option != "recipe" else ([""],):
        with pytest.raises(UserError, match=" is empty: give it a value, or leave it out$"):
            parse(arguments)


def test_an_option_may_be_spelled_with_either_line():
    for option in ("--tfkd_reg.alpha", "--tfkd-reg.alpha"):
        recipe = resolved("digits", "--method", "tfkd_reg", option, "0.5")
        assert recipe.stage("student").settings["tfkd_reg"].alpha == 0.5
