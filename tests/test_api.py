"""fastkd from Python: the commands' results as values, with objects in place of names."""

import os
import signal
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from helpers.image_folders import write_folder
from PIL import Image

from fastkd import train as command
from fastkd.api import Callback, StopTraining, evaluate, predict, train
from fastkd.data.digits import digits
from fastkd.methods import Method, MethodLoss
from fastkd.recipes import RECIPES
from fastkd.run import open_run
from fastkd.support.errors import UserError

QUICK = {"epochs": 1, "warmup_epochs": 0, "batch_size": 16, "limit_train": 32, "seeds": 1, "control": False}
TINY = QUICK | {"teacher_net": "resnet8", "teacher_training": "standard", "silent": True}
WORDS = ["--epochs", "1", "--warmup-epochs", "0", "--batch-size", "16", "--limit-train", "32", "--seeds", "1"]
WORDS += ["--control", "off", "--teacher-net", "resnet8", "--teacher-training", "standard"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return train("digits", run=tmp_path_factory.mktemp("api") / "run", **TINY)


def test_it_is_what_the_command_trains(results, tmp_path):
    assert command.main(["digits", *WORDS, "--run", str(tmp_path / "run")]) == 0
    for name in ("teacher", "student"):
        ours, other = (folder / f"{name}.safetensors" for folder in (results.folder, tmp_path / "run"))
        assert ours.read_bytes() == other.read_bytes()


def test_what_came_out_is_plain_values(results):
    assert results.stopped == "" and results.recipe == open_run(results.folder)
    (accuracy,) = results.accuracies()
    assert results.accuracy() == accuracy == results.figure().mean
    student = results.network("student")
    assert student(torch.zeros(2, 3, 8, 8)).logits.shape == (2, 10)
    assert {record["stage"] for record in results.metrics()} == {"teacher", "student"}
    tested = evaluate(results.folder)
    assert tested["student"]["top1"] / tested["student"]["samples"] == pytest.approx(accuracy)
    with pytest.raises(UserError, match="has no finished stage 'teachr'; it has student, teacher"):
        results.accuracy("teachr")
    with pytest.raises(UserError, match="has the seeds 0 to 0: give one, got 3"):
        results.network(seed=3)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"epochz": 1}, "no option --epochz"),
        ({"epochs": 0}, "--epochs"),
        ({"method": "kdd"}, "no method 'kdd'"),
        ({"method": int}, "is not a class derived from"),
        ({"data": 3, "image_size": 8}, "returned a int"),
        ({"dry_run": True}, "has no dry_run"),
        ({"recipe": RECIPES["digits"](), "epochs": 3}, "cannot change a Recipe"),
    ],
)
def test_a_mistake_is_an_exception_of_one_line(arguments, words, tmp_path):
    with pytest.raises(UserError, match=words) as caught:
        train(**({"run": tmp_path / "run", "silent": True} | arguments))
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


class Halves(Method):
    """A method of a program: half of the squared difference."""

    @dataclass(frozen=True, kw_only=True)
    class Settings:
        pass

    def forward(self, student, teachers, batch):
        loss = (student.logits - teachers[0].logits).square().mean() / 2
        return MethodLoss(loss, {"half": loss.detach()})


class Told(Callback):
    def __init__(self, stop_after=100):
        self.epochs, self.files, self.stop_after = [], [], stop_after

    def epoch(self, record):
        self.epochs.append((record["stage"], record["epoch"]))
        if len(self.epochs) == self.stop_after:
            raise StopTraining

    def checkpoint(self, stage, file):
        self.files.append((stage, file.name))


def arrays():
    pixels = np.random.default_rng(0).integers(0, 256, (48, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(48) % 4
    return (pixels[:32], labels[:32]), (pixels[32:], labels[32:])


def test_objects_in_place_of_names(tmp_path):
    settings = {name: value for name, value in TINY.items() if name != "limit_train"}
    how = settings | {"data": arrays(), "method": Halves, "image_size": 8, "epochs": 2}
    whole, told = train(run=tmp_path / "whole", **how), Told(stop_after=3)
    part = train(run=tmp_path / "part", callbacks=[told], **how)
    assert part.stopped.startswith("stopped by a callback in student")
    assert told.epochs == [
        ("teacher", 1),
        ("teacher", 2),
        ("student", 1),
    ]
    assert told.files[-1] == ("student", "student.pt")
    again = train(run=tmp_path / "part", resume=True, **how)
    assert again.stopped == "" and again.recipe.stages[-1].method == "given:Halves"
    assert (tmp_path / "part" / "student.safetensors").read_bytes() == (
        tmp_path / "whole" / "student.safetensors"
    ).read_bytes()
    assert whole.network().head.classifier.out_features == 4


def test_validation_watches_and_the_test_is_made_once(tmp_path):
    results = train(run=tmp_path / "run", validation=0.25, **TINY)
    (seed,) = results.seeds
    found = seed["stages"]["student"]
    assert found["validation"]["student"]["samples"] > 200 and found["test"]["student"]["samples"] > 300
    assert {record["watched"] for record in results.metrics()} == {"validation"}
    assert results.metrics()[-1]["test"] == found["validation"]
    tested = evaluate(results.folder)["student"]
    assert {name: tested[name] for name in ("top1", "samples")} == {
        name: found["test"]["student"][name] for name in ("top1", "samples")
    }


class Small(torch.nn.Module):
    """A network of a program: three lines."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(16), torch.nn.Linear(16, num_classes))

    def forward(self, images):
        return self.layers(images)


def small(num_classes):
    torch.manual_seed(0)
    made = Small(num_classes)
    made(torch.zeros(1, 3, 8, 8))
    return made


def test_networks_as_objects(tmp_path):
    results = train(run=tmp_path / "run", **(TINY | {"teacher_net": small, "student": small(10)}))
    assert [stage.network.partition(":")[0] for stage in results.recipe.stages] == ["given", "given"]
    assert results.network()(torch.zeros(2, 3, 8, 8)).logits.shape == (2, 10)
    with pytest.raises(UserError, match="expected a module or something that makes one"):
        train(run=tmp_path / "no", **(TINY | {"student": 3}))


@pytest.fixture(scope="module")
def trained():
    """A module of three lines, trained by a loop of three lines."""
    data = digits()
    images = (data.train.images.permute(0, 3, 1, 2)[:256] / 255 - data.mean[0]) / data.std[0]
    module = small(10)
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(images), data.train.labels[:256]).backward()
        optimizer.step()
    return module


def test_a_trained_module_teaches_as_its_file_does(trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "teacher.pth")
    of_file = train(run=tmp_path / "file", silent=True, teacher=tmp_path / "teacher.pth", teacher_net=small, **QUICK)
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    ours = train(run=tmp_path / "object", silent=True, teacher=trained, **QUICK)
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in before.items())
    assert trained.training and all(parameter.requires_grad for parameter in trained.parameters())
    files = [folder / "student.safetensors" for folder in (of_file.folder, ours.folder)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert ours.accuracy("teacher") == of_file.accuracy("teacher") > 0.5
    assert ours.seeds[0]["similarity"] == of_file.seeds[0]["similarity"]
    assert evaluate(ours.folder)["teacher"]["top1"] == ours.seeds[0]["stages"]["teacher"]["test"]["teacher"]["top1"]
    with pytest.raises(UserError, match="teacher is RUN, FILE or a trained module, got a function"):
        train(run=tmp_path / "no", teacher=small, **QUICK)


@pytest.mark.slow
def test_several_trained_modules_teach_and_a_run_of_theirs_is_resumed(trained, tmp_path):
    how = {"teacher": [trained, small(10)], "method": "aveg", "silent": True} | QUICK | {"epochs": 2}
    part = train(run=tmp_path / "run", callbacks=[Told(stop_after=1)], **how)
    assert part.stopped.startswith("stopped by a callback in student")
    again = train(run=tmp_path / "run", resume=True, **how)
    whole = train(run=tmp_path / "whole", **how)
    assert again.seeds[0]["stages"]["student"]["test"] == whole.seeds[0]["stages"]["student"]["test"]
    one, other = (again.seeds[0]["stages"][name]["sha256"] for name in ("teacher", "teacher-2"))
    assert one != other
    with pytest.raises(UserError, match="was begun with teacher-2 network = 'given:network"):
        train(run=tmp_path / "run", resume=True, **(how | {"teacher": [trained, small(10)]}))


def test_a_recipe_is_taken_as_it_is(tmp_path):
    recipe = RECIPES["digits"](method="ce", teacher_training="standard", control=False)
    stages = tuple(
        replace(stage, training=replace(stage.training, epochs=1, warmup_epochs=0)) for stage in recipe.stages
    )
    recipe = replace(recipe, stages=stages, limit_train=64, seeds=2)
    results = train(recipe, run=tmp_path / "run", silent=True)
    assert len(results.accuracies()) == 2 and results.network(seed=1) is not None


def test_a_signal_ends_it_with_a_word(tmp_path):
    class Interrupts(Callback):
        def epoch(self, record):
            os.kill(os.getpid(), signal.SIGTERM)

    results = train(run=tmp_path / "run", callbacks=[Interrupts()], **(TINY | {"epochs": 2}))
    assert results.stopped.startswith("stopped by SIGTERM in teacher") and results.seeds == ()


class TestPredict:
    def test_images_of_every_kind_have_the_same_classes(self, results, tmp_path):
        root = write_folder(tmp_path / "some", size=(11, 9))
        files = sorted((root / "train").rglob("*.png"))
        of_folder = predict(results, root / "train", top=3)
        of_files = predict(results.folder, files, top=3, batch_size=3)
        pictures = [Image.open(file).convert("RGB") for file in files]
        of_objects = predict(results.folder / "student.safetensors", pictures, top=3)
        of_arrays = predict(results, [np.asarray(picture) for picture in pictures], top=3, workers=1)
        assert [one.image for one in of_folder] == [str(file) for file in files]
        for several in (of_files, of_objects, of_arrays):
            assert [one.classes for one in several] == [one.classes for one in of_folder]
            for one, other in zip(several, of_folder, strict=True):
                assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
        assert of_objects[0].image == "images[0]"

    def test_it_is_what_the_evaluation_counts(self, results, tmp_path):
        from fastkd.data import open_dataset

        data = open_dataset("digits", image_size=8, resident=True, limit_train=None, threads=1)
        right = predict(results, list(data.test.images.numpy()), top=1)
        named = [data.classes.index(one.classes[0]) for one in right]
        hits = int((torch.tensor(named) == data.test.labels).sum())
        assert hits == evaluate(results.folder)["student"]["top1"]

    def test_mistakes_are_one_line(self, results, tmp_path):
        for images, words in ((tmp_path / "gone", "no folder and no file"), (tmp_path, "there are no images")):
            with pytest.raises(UserError, match=words):
                predict(results, images)
