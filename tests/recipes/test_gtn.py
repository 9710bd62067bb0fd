"""GTN's recipes against what its supplement prints, and its tables as runs."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from helpers.courses import general_recipe
from helpers.image_folders import write_folder
from helpers.tiny import Quiet, built_stages, outcome, tiny_recipe, train
from safetensors.torch import load_file

from fastkd import networks, recipes
from fastkd.networks import SUPERNETS
from fastkd.networks.supernet import LAYERS, Supernet
from fastkd.options import parse, recipe_of
from fastkd.recipes.course import course
from fastkd.recipes.published import run_of
from fastkd.recipes.tables import TABLES
from fastkd.recipes.tables.gtn import ENTRIES
from fastkd.support.errors import UserError
from fastkd.training.optimisation import learning_rates


@pytest.mark.parametrize("teacher", ["resnet32", "resnet32x4", "wrn_40_2"])
@pytest.mark.parametrize("kind", ["standard", "sftn", "gtn"])
def test_cifar_teachers_are_trained_as_printed(teacher, kind):
    """240 epochs, SGD .05, divided by ten at the 150th, 180th and 210th; τ 1 and α 3, the same for SFTN and GTN."""
    recipe = recipes.cifar100_gtn(teacher_net=teacher, teacher_training=kind)
    stage = recipe.stage("teacher")
    assert (stage.training.epochs, stage.training.optimizer, stage.training.lr) == (240, "sgd", 0.05)
    assert (stage.training.milestones, stage.training.factor) == ((150, 180, 210), 0.1)
    assert (stage.sftn is None, stage.gtn is None) == (kind == "standard", kind != "gtn")
    if stage.sftn is not None:
        assert (stage.sftn.temperature, stage.sftn.kl_weight, stage.sftn.frozen_epochs) == (1.0, 3.0, 0)
        assert stage.sftn.network == ("gtn_supernet" if kind == "gtn" else "gtn_nas_s")


@pytest.mark.parametrize("method", ["kd", "dkd", "sckd"])
@pytest.mark.parametrize("name, rate", [("cifar100-gtn", 0.05), ("imagenet200-gtn", 0.1)])
def test_students_are_trained_as_printed(name, rate, method):
    """240 epochs, T 4, a cosine of 240 epochs down to nothing, also for the student without a teacher."""
    recipe = recipes.RECIPES[name](method=method, control=True)
    student, control = recipe.stage("student"), recipe.stage("control")
    assert student.training == control.training
    assert (student.training.epochs, student.training.lr, student.training.schedule) == (240, rate, "cosine")
    assert student.settings[method].temperature == 4.0
    rates = learning_rates(student.training, 10)
    assert rates[0].item() == pytest.approx(rate) and rates[-1].item() < 1e-5
    assert rates[1200].item() == pytest.approx(rate / 2)


def test_efficientnet_is_adapted_then_frozen_then_trained_jointly():
    recipe = recipes.imagenet200_gtn()
    base, teacher, student = course(recipe)
    assert [stage.name for stage in (base, teacher, student)] == ["base", "teacher", "student"]
    assert base.network == teacher.network == "torchvision_efficientnet_b0"
    assert (base.training.epochs, base.kind, teacher.begins) == (15, "supervised", "base")
    assert (teacher.training.epochs, teacher.training.lr, teacher.training.milestones) == (240, 0.05, (60, 90, 120))
    assert (teacher.sftn.frozen_epochs, teacher.sftn.kl_weight, teacher.sftn.temperature) == (60, 1.0, 1.0)
    assert teacher.sftn.network in SUPERNETS
    plain = recipes.imagenet200_gtn(teacher_training="standard").stage("teacher")
    assert (plain.training.epochs, plain.training.lr, plain.training.milestones) == (35, 0.05, ())
    assert plain.begins == "base"
    assert recipe.published_classes == 200


def test_branches_of_sftn_end_with_the_teacher_where_the_student_has_more_blocks():
    for student, places in (("gtn_nas_s", (None, None)), ("gtn_nas_m", ((0, 1, 2), (1, 2, 3)))):
        sftn = recipes.cifar100_gtn(student=student, teacher_training="sftn").stage("teacher").sftn
        assert (sftn.blocks, sftn.starts) == places
    sftn = recipes.imagenet200_gtn(student="gtn_nas_s_imagenet", teacher_training="sftn").stage("teacher").sftn
    assert (sftn.blocks, sftn.starts) == ((2, 3), (1, 2))


def test_every_cell_names_its_choices_and_its_command_is_its_run():
    assert {entry.method for entry in ENTRIES} == {"kd", "dkd", "sckd"}
    for entry in ENTRIES[::5]:  # every teacher, kind, student and method is among them
        resolved = recipe_of(parse(entry.arguments()))
        expected = run_of(entry)
        given = [replace(stage, published=None) for stage in resolved.stages]
        assert given == list(expected.stages)
        differs = [word for word in resolved.deviations if not word.startswith("the paper does not print")]
        assert differs == ["the base begins with random weights instead of ImageNet's"] * ("imagenet" in entry.recipe)


def test_the_tables_are_those_of_the_supplement():
    assert list(TABLES["gtn"]) == ["1", "2", "3", "imagenet-200", "fig1"]
    for key, student in (("1", "gtn_nas_s"), ("2", "gtn_nas_m"), ("3", "gtn_nas_l")):
        assert {place.entry.student for place in TABLES["gtn"][key].places} == {student}
    assert TABLES["gtn"]["fig1"].rows == ["teacher", "stu_branch_1", "stu_branch_2", "stu_branch_3"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A network that knows seven classes, as torchvision's know a thousand."""
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("weights") / "resnet8.pt"
    torch.save(networks.public_state_dict(networks.build("resnet8", num_classes=7)), file)
    return file


class TestFromOtherClasses:
    """A base that begins with the weights of a file of other classes, and a teacher that begins with the base."""

    def recipe(self, file="", sha256="", **changes):
        teacher = general_recipe(frozen_epochs=1).stages[0]
        how = {"training": replace(teacher.training, epochs=1), "file": str(file), "sha256": sha256}
        base = replace(teacher, name="base", role="base", sftn=None, gtn=None, **how)
        return tiny_recipe(stages=(base, replace(teacher, begins="base")), **changes)

    def test_all_but_the_classifier_is_taken(self, weights, tmp_path):
        base = built_stages(self.recipe(weights))[1]["base"]
        given = torch.load(weights, weights_only=True)
        for name, value in base.network.stem.state_dict().items():
            assert torch.equal(value, given[{"0.weight": "conv1.weight"}.get(name, f"bn1.{name.partition('.')[2]}")])
        assert base.network.head.classifier.weight.shape[0] == 10

    def test_the_teacher_begins_with_the_base_and_is_frozen_then(self, weights, tmp_path):
        display = Quiet()
        train(self.recipe(weights), tmp_path, display=display)
        assert any("begins with" in note and "2 of the classifier are new" in note for note in display.notes)
        found = outcome(tmp_path)
        assert list(found["results"]["stages"]) == ["base", "teacher"]
        frozen, base = found["log"][1], load_file(tmp_path / "base.safetensors")
        assert frozen["test"]["teacher"] == found["log"][0]["test"]["base"], "a frozen teacher says what the base says"
        teacher = load_file(tmp_path / "teacher.safetensors")
        assert any(not (base[name] == value).all() for name, value in teacher.items()), "then it learns"

    def test_a_file_that_does_not_fit_is_named(self, tmp_path):
        file = tmp_path / "other.pt"
        torch.save({"conv1.weight": torch.zeros(1)}, file)
        with pytest.raises(UserError, match="does not fit this ResNet"):
            train(self.recipe(file), tmp_path / "run")

    def test_on_the_command_line(self, weights):
        def resolved(*words):
            return recipe_of(parse([*words]))

        recipe = resolved("imagenet200-gtn", "--teacher-init", str(weights))
        assert recipe.stages[0].file == str(weights) and len(recipe.stages[0].sha256) == 64
        assert not [words for words in recipe.deviations if "begins" in words or str(weights) in words]
        recipe = resolved("cifar100-gtn", "--teacher-init", str(weights))
        assert recipe.stage("teacher").file == str(weights)
        with pytest.raises(UserError, match="--teacher-init changes nothing: no teacher is trained"):
            resolved("digits", "--method", "ls", "--teacher-init", str(weights))
        short = resolved("imagenet200-gtn", "--epochs", "24")
        assert short.stage("teacher").sftn.frozen_epochs == 6

    def test_an_unknown_beginning_is_refused(self):
        stages = self.recipe().stages
        with pytest.raises(UserError, match="the teacher begins with 'basis', which is none of the stages before it"):
            tiny_recipe(stages=(replace(stages[1], begins="basis"),))


@pytest.mark.parametrize(
    "words, message",
    [
        (["--gtn.masks", "on"], "--gtn.masks changes nothing: the teacher is not trained with paths of a supernet"),
        (["--teacher-training", "gtn", "--branch", "resnet8"], "no network 'resnet8' for branches"),
        (["--branch", "gtn_supernet", "--teacher-training", "sftn"], "no network 'gtn_supernet' for branches"),
        (["--teacher-training", "gtn", "--gtn.baseline-decay", "0.9"], "it goes with --gtn.paths learned"),
        (["--student", "gtn_supernet"], "no network 'gtn_supernet'"),
    ],
)
def test_what_means_nothing_is_refused(words, message):
    with pytest.raises(UserError, match=message):
        recipe_of(parse(["digits", *words]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["standard", "sftn", "gtn"])
def test_imagenet200_in_a_tiny_form(kind, tmp_path, monkeypatch):
    """EfficientNet-B0 with weights of a thousand classes, on the classes of a list; a student at the end of it."""
    rows = tuple(row._replace(in_channels=16, out_channels=16) for row in LAYERS)
    monkeypatch.setitem(networks.SUPERNETS, "gtn_supernet_imagenet", partial(Supernet, stem="imagenet", rows=rows))
    folder = write_folder(tmp_path / "images", size=(64, 64), per_class=4, classes=("ant", "bee", "cat"))
    classes = sorted(path.name for path in (folder / "train").iterdir())[:2]
    (tmp_path / "classes.txt").write_text("\n".join(classes))
    weights = tmp_path / "efficientnet_b0.pth"
    torch.save(networks.public_state_dict(networks.build("torchvision_efficientnet_b0", num_classes=1000)), weights)
    given = f"--data imagefolder:{folder} --class-list {tmp_path / 'classes.txt'} --teacher-init {weights}"
    tiny = "--image-size 64 --batch-size 4 --epochs 4 --threads 1 --workers 0 --loader torchvision"
    recipe = recipe_of(parse(["imagenet200-gtn", "--teacher-training", kind, *given.split(), *tiny.split()]))
    train(recipe, tmp_path / "run")
    found = outcome(tmp_path / "run")["results"]["stages"]
    assert list(found) == ["base", "teacher", "student"]
    branches = {"standard": [], "sftn": ["branch 2", "branch 3"], "gtn": ["branch 1", "branch 2", "branch 3"]}
    assert list(found["teacher"]["test"]) == ["teacher", *branches[kind]]
