"""Trainings that begin with weights, and loaded teachers of other classes and images."""

import json

import pytest
import torch
from helpers.commands import mistake
from safetensors.torch import load_file, save_file

from fastkd import networks, train
from fastkd.networks.checkpoints import public_state_dict
from fastkd.options import parse, recipe_of
from fastkd.recipes.recipe import recipe_to_plain
from fastkd.run import Job, open_data
from fastkd.run.builder import Builder
from fastkd.run.description import Description
from fastkd.run.earlier import Earlier
from fastkd.run.weights import open_network, save_network
from fastkd.training.optimisation import RateTable, Training, build_optimizer, learning_rates
from fastkd.training.stages import Supervised

SHORT = ["--seeds", "1", "--limit-train", "64", "--epochs", "1", "--threads", "1", "--control", "off"]
NETS = ["--teacher-training", "standard", "--teacher-net", "resnet8", "--student", "resnet8"]
DIGITS = tuple(map(str, range(10)))


def weights(path, network="resnet8", classes=10, **about):
    made = networks.build(network, num_classes=classes)
    save_network(path, made, Description(network, classes, 8, **about))
    return made


def built(*options):
    """The first stage of what the options mean, with the builder that made it."""
    recipe = recipe_of(parse([*SHORT, *options]))
    job = Job.of(recipe, open_data(recipe), torch.device("cpu"))
    builder, earlier = Builder(job, 0), Earlier(job.course)
    return builder.stage(job.course[0], earlier), builder


class TestInit:
    @pytest.mark.parametrize("classes", [10, 7])
    def test_a_training_begins_with_a_files_body(self, tmp_path, classes):
        theirs = weights(tmp_path / "w.safetensors", classes=classes)
        stage, builder = built(*NETS, "--teacher-init", str(tmp_path / "w.safetensors"))
        assert torch.equal(stage.network.blocks[0][0].conv1.weight, theirs.blocks[0][0].conv1.weight)
        assert stage.network.head.classifier.out_features == 10
        same = classes == 10 and torch.equal(stage.network.head.classifier.weight, theirs.head.classifier.weight)
        assert same == (classes == 10)
        assert f"{0 if same else 2} of the classifier are new" in builder.notes[0]

    def test_of_a_run_resumed_and_not_the_papers(self, tmp_path):
        first, second = tmp_path / "first", tmp_path / "second"
        assert train.main([*SHORT, *NETS, "--run", str(first)]) == 0
        begins = ["--init", str(first), "--lr", "1e-9", "--freeze-epochs", "1", "--run", str(second)]
        assert train.main([*SHORT, "--student", "resnet8", "--teacher", str(first), *begins]) == 0
        before, after = (load_file(folder / "student.safetensors") for folder in (first, second))
        assert torch.equal(before["layer1.0.conv1.weight"], after["layer1.0.conv1.weight"])
        recipe = json.loads((second / "recipe.json").read_text())
        assert [stage["file"] != "" for stage in recipe["stages"]] == [True, True]
        assert "the student begins with weights" in recipe["deviations"]
        assert train.main(["--resume", str(second)]) == 0

    def test_what_does_not_go_together_is_one_line(self, tmp_path):
        weights(tmp_path / "w.safetensors", "resnet14")
        assert "holds a resnet14, the student is a resnet8" in mistake(*NETS, "--init", tmp_path / "w.safetensors")
        assert "no run folder and no file" in mistake(*NETS, "--init", tmp_path / "none")
        assert "no training begins with weights" in mistake(*NETS, "--freeze-epochs", "1")
        weights(tmp_path / "t.safetensors")
        loaded = ["--teacher", tmp_path / "t.safetensors"]
        assert "no teacher is trained" in mistake(*SHORT, *loaded, "--teacher-init", tmp_path / "t.safetensors")
        save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
        assert "does not fit" in mistake(*SHORT, *NETS, "--init", tmp_path / "a.safetensors")

    def test_the_body_has_a_rate_of_its_own(self):
        training = Training(epochs=4, freeze_epochs=1, body_lr_factor=0.5, lr=0.1, schedule="constant")
        stage = Supervised(networks.build("resnet8", num_classes=3), "student")
        optimizer = build_optimizer(stage, training, torch.device("cpu"))
        table = RateTable(optimizer, learning_rates(training, 2)).table
        head, body = optimizer.param_groups
        assert {id(p) for p in head["params"]} == {id(p) for p in stage.network.head.classifier.parameters()}
        assert len(body["params"]) + len(head["params"]) == len(list(stage.parameters()))
        assert torch.allclose(table[:, 0], torch.full((8,), 0.1))
        assert torch.allclose(table[:, 1], torch.tensor([0.0, 0.0] + [0.05] * 6))


class TestOtherClasses:
    def test_a_teacher_of_more_classes_is_mapped_by_name(self, tmp_path):
        classes = ("cat", *reversed(DIGITS), "dog")
        theirs = weights(tmp_path / "t.safetensors", classes=12, **{"mean": None}).eval()
        save_network(tmp_path / "t.safetensors", theirs, Description("resnet8", 12, 8, classes=classes))
        stage, builder = built("--student", "resnet8", "--teacher", str(tmp_path / "t.safetensors"))
        images = torch.randn(3, 3, 8, 8)
        wanted = theirs(images).logits[:, [10 - digit for digit in range(10)]]
        assert torch.allclose(stage.network.eval()(images).logits, wanted)
        assert "other classes than the data: mapped by name" in builder.notes[0]
        description = builder.description(builder.job.course[0])
        assert (description.num_classes, description.classes) == (10, DIGITS)

    def test_a_list_names_the_classes_of_a_foreign_file(self, tmp_path):
        theirs = networks.build("resnet8", num_classes=11).eval()
        save_file(public_state_dict(theirs), tmp_path / "t.safetensors")
        (tmp_path / "names.txt").write_text("\n".join(("bird", *DIGITS)))
        given = ["--teacher-net", "resnet8", "--student", "resnet8", "--teacher", str(tmp_path / "t.safetensors")]
        stage, _ = built(*given, "--teacher-classes", str(tmp_path / "names.txt"))
        images = torch.randn(3, 3, 8, 8)
        assert torch.allclose(stage.network.eval()(images).logits, theirs(images).logits[:, 1:])
        assert "should be [10, 64]" in mistake(*SHORT, *given)
        assert "no teacher is loaded" in mistake(*SHORT, *NETS, "--teacher-classes", tmp_path / "names.txt")
        (tmp_path / "names.txt").write_text("a\na\n")
        assert "names, expected two or more" in mistake(*SHORT, *given, "--teacher-classes", tmp_path / "names.txt")


class TestOtherImages:
    def test_a_teacher_sees_the_students_crop_at_its_own_size(self, tmp_path):
        """The definition, written out: to pixels, resized, normalised by the teacher's numbers."""
        mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
        theirs = networks.build("resnet8", num_classes=10).eval()
        save_network(
            tmp_path / "t.safetensors", theirs, Description("resnet8", 10, 16, classes=DIGITS, mean=mean, std=std)
        )
        given = ["--student", "resnet8", "--teacher", str(tmp_path / "t.safetensors")]
        assert "was trained on other images" in mistake(*SHORT, *given)
        stage, builder = built(*given, "--own-images", "on")
        data, pixels = builder.job.data, torch.rand(4, 3, 8, 8)

        def normalised(x, mean, std):
            return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

        large = torch.nn.functional.interpolate(pixels, (16, 16), mode="bilinear", antialias=True)
        seen = stage.network.eval()(normalised(pixels, data.mean, data.std)).logits
        assert torch.allclose(seen, theirs(normalised(large, mean, std)).logits, atol=1e-4)

    def test_it_comes_back_from_its_run(self, tmp_path):
        theirs = networks.build("resnet8", num_classes=10).eval()
        save_file(public_state_dict(theirs), tmp_path / "t.safetensors")
        how = ["--teacher-size", "16", "--teacher-mean", ".5", ".5", ".5", "--teacher-std", ".5", ".5", ".5"]
        given = ["--teacher-net", "resnet8", "--student", "resnet8", "--teacher", str(tmp_path / "t.safetensors")]
        assert train.main([*SHORT, *given, *how, "--method", "simkd", "--run", str(tmp_path / "run")]) == 0
        teacher = open_network(tmp_path / "run" / "teacher.safetensors")
        images = torch.full((1, 3, 8, 8), 0.25)
        assert teacher.preparation.image_size == 16
        assert torch.allclose(teacher(images).logits, theirs(teacher.preparation(images)).logits)
        open_network(tmp_path / "run" / "student.safetensors")
        assert "go together" in mistake(*SHORT, *given, *how[:6])

    def test_what_is_not_known_is_asked_for(self, tmp_path):
        save_file(public_state_dict(networks.build("resnet8", num_classes=10)), tmp_path / "t.safetensors")
        given = ["--teacher-net", "resnet8", "--student", "resnet8", "--teacher", tmp_path / "t.safetensors"]
        assert "does not say what images it is for" in mistake(*SHORT, *given, "--own-images", "on")
        assert "no teacher is loaded" in mistake(*SHORT, *NETS, "--teacher-size", "16")


def test_timms_weights_begin_at_another_size_and_with_other_classes(tmp_path):
    """Positions are resampled, the rest is equal, the head is new."""
    timm = pytest.importorskip("timm", reason="timm is not installed")
    model = timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=16, patch_size=4, depth=2, embed_dim=24)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    name = "timm:vit_tiny_patch16_224?depth=2&embed_dim=24&patch_size=4"
    begins = ["--student", "resnet8", "--teacher-training", "standard"]
    stage, builder = built(*begins, "--teacher-net", name, "--teacher-init", str(tmp_path / "w.safetensors"))
    ours, theirs = public_state_dict(stage.network), model.state_dict()
    assert torch.equal(ours["blocks.1.mlp.fc1.weight"], theirs["blocks.1.mlp.fc1.weight"])
    assert ours["pos_embed"].shape == (1, 5, 24) and torch.equal(ours["pos_embed"][:, 0], theirs["pos_embed"][:, 0])
    assert ours["head.weight"].shape == (10, 24) and "2 of the classifier are new" in builder.notes[0]


def test_old_recipes_have_the_defaults(tmp_path):
    plain = recipe_to_plain(recipe_of(parse(SHORT)))
    for stage in plain["stages"]:
        for name in ("classes", "images"):
            stage.pop(name)
        stage["training"].pop("freeze_epochs")
        stage["training"].pop("body_lr_factor")
    (tmp_path / "recipe.json").write_text(json.dumps(plain))
    assert recipe_to_plain(recipe_of(parse([str(tmp_path / "recipe.json")]))) == recipe_to_plain(
        recipe_of(parse(SHORT))
    )
