"""A model knows what it is for: its classes by name and order, and the images it was trained on."""

import json

import pytest
import torch
from helpers.image_folders import write_folder
from helpers.tiny import tiny_recipe

from fastkd import evaluate, networks
from fastkd import train as command
from fastkd.data.augment import Augmentation
from fastkd.data.digits import digits
from fastkd.methods.reused import MeanOfClassifiers
from fastkd.run.description import Description
from fastkd.run.purpose import order_of, purpose_of, refuse_other_images, reorder
from fastkd.run.weights import describe
from fastkd.support.errors import UserError
from fastkd.support.files import write_weights

CLASSES = ("ant", "bee", "cat")
KNOWN = Description("resnet8", 3, 8, classes=CLASSES, mean=(0.5,) * 3, std=(0.2,) * 3, crop="pad")


def data_of(classes, *, named=True):
    from dataclasses import replace

    return replace(digits(), classes=tuple(classes), named=named)


class TestClasses:
    @pytest.mark.parametrize("known, data", [(CLASSES, CLASSES), (None, ("x", "y", "z"))])
    def test_the_same_ones_and_unknown_ones_stay_where_they_are(self, known, data):
        assert order_of(KNOWN._replace(classes=known), data_of(data), "it") is None

    def test_numbers_that_stand_for_names_are_not_compared(self):
        """CIFAR-100-C has no names: a network of CIFAR-100 is tested on it all the same."""
        assert order_of(KNOWN, data_of("012", named=False), "it") is None

    def test_another_order_is_mapped_by_name(self):
        assert order_of(KNOWN, data_of(("cat", "ant", "bee")), "it") == [2, 0, 1]

    def test_other_names_are_refused(self):
        with pytest.raises(UserError, match="it knows other classes than digits: 'bee', and not 'dog'"):
            order_of(KNOWN, data_of(("cat", "ant", "dog")), "it")

    def test_more_classes_are_known_by_name(self):
        assert order_of(KNOWN, data_of(("cat", "ant")), "it") == [KNOWN.classes.index(name) for name in ("cat", "ant")]

    def test_another_number_is_refused(self):
        for classes in (("cat", "dog"), ("cat", "ant", "bee", "dog")):
            with pytest.raises(UserError, match=f"digits has {len(classes)} classes, it knows 3"):
                order_of(KNOWN, data_of(classes), "it")


@pytest.mark.parametrize("name", ("resnet8", "wrn_16_1", "vgg8", "MobileNetV2", "torchvision_mobilenet_v2", "tf_cnn"))
def test_logits_change_places(name):
    network = networks.build(name, num_classes=5)
    images, order = torch.randn(2, 3, 32, 32), [3, 0, 4, 1, 2]
    before = network.eval()(images).logits[:, order]
    reorder(network.train(), order, "it")
    assert network.training
    torch.testing.assert_close(network.eval()(images).logits, before)


def test_a_classifier_that_does_not_end_in_one_linear_layer_is_refused():
    network = networks.build("resnet8", num_classes=3)
    network.head.classifier = MeanOfClassifiers([32, 32], [torch.nn.Linear(32, 3), torch.nn.Linear(32, 3)])
    with pytest.raises(UserError, match="it has its classes in another order, and a classifier that cannot be"):
        reorder(network, [1, 0, 2], "it")


class TestImages:
    def test_the_same_ones_and_unknown_ones(self):
        refuse_other_images(KNOWN, KNOWN, "it")
        refuse_other_images(KNOWN._replace(mean=None, std=None, crop=None), KNOWN, "it")
        refuse_other_images(KNOWN._replace(crop="resized"), KNOWN._replace(crop="squeezed"), "it")

    @pytest.mark.parametrize(
        "change", ({"image_size": 9}, {"mean": (0.5, 0.4, 0.5)}, {"std": (0.2, 0.2, 0.3)}, {"crop": "resized"}), ids=str
    )
    def test_others_are_refused(self, change):
        with pytest.raises(UserError, match="^it was trained on other images than this run has, .*--any-images"):
            refuse_other_images(KNOWN, KNOWN._replace(**change), "it")

    def test_what_a_recipe_says_comes_before_what_the_data_say(self):
        from dataclasses import replace

        own = purpose_of(tiny_recipe(), digits())
        assert own["mean"] == digits().mean and own["classes"] == digits().classes and own["crop"] == "pad"
        squeezed = Augmentation(crop="resized", squeeze=True)
        assert purpose_of(replace(tiny_recipe(), augmentation=squeezed), digits())["crop"] == "squeezed"
        given = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
        assert purpose_of(replace(tiny_recipe(), **given), digits()).items() >= given.items()


def how(root):
    options = ["--data", f"imagefolder:{root}", "--image-size", "8", "--epochs", "2", "--seeds", "1", "--threads", "1"]
    return [*options, "--batch-size", "32", "--control", "off"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("animals") / "data", per_class=22, tests=6, classes=CLASSES)


@pytest.fixture(scope="module")
def run(root):
    assert command.main([*how(root), "--teacher-net", "resnet8", "--run", str(root.parent / "run")]) == 0
    return root.parent / "run"


@pytest.fixture
def other_order(root, run):
    (root / "classes.txt").write_text("cat\nant\nbee\n")
    yield
    (root / "classes.txt").unlink()


class TestFolders:
    """From training to a test and a next training, while somebody writes the classes in another order."""

    def test_weights_say_what_they_are_for(self, run):
        for name in ("teacher", "student"):
            known = describe(run / f"{name}.safetensors")
            assert known.classes == CLASSES and known.image_size == 8 and known.crop == "pad"
            assert known.mean == (0.485, 0.456, 0.406) and known.std == (0.229, 0.224, 0.225)
        results = json.loads((run / "results.json").read_text())
        assert results["stages"]["teacher"]["identity"]["data"]["classes"] == list(CLASSES)

    def test_evaluate_maps_them_by_name(self, run, other_order, capsys):
        assert evaluate.main([str(run), "--json"]) == 0
        shown = capsys.readouterr()
        assert "the student of " in shown.err and "mapped by name" in shown.err
        results = json.loads((run / "results.json").read_text())["stages"]
        for name, measured in json.loads(shown.out).items():
            assert {key: measured[key] for key in ("top1", "top5", "samples")} == results[name]["test"][name]

    def test_so_does_a_run_that_takes_the_teacher(self, root, run, other_order, tmp_path, capsys):
        assert command.main([*how(root), "--teacher", str(run), "--run", str(tmp_path)]) == 0
        assert "mapped by name" in capsys.readouterr().err
        then, now = (json.loads((folder / "results.json").read_text())["stages"] for folder in (run, tmp_path))
        assert now["teacher"]["test"]["teacher"] == then["teacher"]["test"]["teacher"]
        assert describe(tmp_path / "teacher.safetensors").classes == ("cat", "ant", "bee")

    def test_a_run_is_not_resumed_with_another_order(self, run, other_order):
        with pytest.raises(UserError, match=r"made with data\.classes\[0\] = 'ant', the recipe now says 'cat'"):
            command.main(["--resume", str(run)])

    def test_other_classes_are_refused_everywhere(self, root, run, tmp_path):
        other = write_folder(tmp_path / "other", per_class=22, classes=("ant", "bee", "dog"))
        words = "knows other classes than imagefolder: 'cat', and not 'dog'"
        with pytest.raises(UserError, match=words):
            evaluate.main([str(run), "--data", f"imagefolder:{other}"])
        with pytest.raises(UserError, match=words):
            command.main([*how(other), "--teacher", str(run), "--dry-run"])

    def test_a_teacher_of_other_images_is_taken_when_told_to(self, root, run):
        given = [*how(root), "--teacher", str(run), "--dry-run"]
        given[given.index("--image-size") + 1] = "12"
        with pytest.raises(UserError, match="on other images than this run has, pixels a side: 8 there, 12 here"):
            command.main(given)
        assert command.main([*given, "--any-images"]) == 0

    @pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch.export.load
    def test_an_export_says_what_it_is_for(self, run, tmp_path):
        assert evaluate.main([str(run), "--export", str(tmp_path / "it.pt2")]) == 0
        files = {"fastkd.json": ""}
        torch.export.load(str(tmp_path / "it.pt2"), extra_files=files)
        about = json.loads(files["fastkd.json"])
        assert about["classes"] == list(CLASSES) and about["mean"] == [0.485, 0.456, 0.406] and about["image_size"] == 8


def test_a_file_from_before_says_nothing_and_is_taken(tmp_path):
    network = networks.build("resnet8", num_classes=10)
    text = json.dumps({"network": "resnet8", "num_classes": 10, "image_size": 8})
    write_weights(tmp_path / "old.safetensors", networks.public_state_dict(network), {"fastkd": text})
    assert command.main(["--teacher", str(tmp_path / "old.safetensors"), "--limit-train", "128", "--dry-run"]) == 0
