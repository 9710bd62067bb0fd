"""The key of a teacher's rows follows everything that they mean, field by field, and nothing else."""

from dataclasses import fields, replace

import pytest
import torch
from helpers.image_folders import write_folder
from helpers.tiny import job_of, tiny_recipe

from fastkd import networks
from fastkd.data import DataSet
from fastkd.data.base import Split
from fastkd.recipes.planned import PlannedDistillation
from fastkd.recipes.recipe import Recipe
from fastkd.run import open_data
from fastkd.run.builder import Builder
from fastkd.run.earlier import Earlier
from fastkd.run.stores import key_of
from fastkd.stored import Key
from fastkd.stored.key import first_difference
from fastkd.training.execution import EVERYTHING_OFF


@pytest.fixture(scope="module")
def data():
    return open_data(tiny_recipe())


def teacher(network="resnet8", seed=0):
    torch.manual_seed(seed)
    return networks.build(network, num_classes=10).eval()


def key(recipe: Recipe, data: DataSet, *, execution=EVERYTHING_OFF, taught_by=None, seed=0) -> Key:
    """The key of the rows that the first distillation of a recipe reads."""
    job = job_of(recipe, execution, data)
    planned, earlier = job.course[1], Earlier(job.course)
    assert isinstance(planned, PlannedDistillation)
    earlier.networks["teacher"] = taught_by or teacher()
    return key_of(job, planned, "teacher", earlier, Builder(job, seed).data_seed)


def changed_augmentation(recipe, **changes):
    return replace(recipe, augmentation=replace(recipe.augmentation, **changes))


def another_pixel(data):
    images = data.train.images.clone()
    images[5, 3, 3, 0] ^= 1
    return replace(data, train=Split(images, data.train.labels))


RECIPES = {
    "image_size": lambda recipe: replace(recipe, image_size=9),
    "mean[1]": lambda recipe: replace(recipe, mean=(0.5, 0.4, 0.5), std=(0.25, 0.25, 0.25)),
    "std[2]": lambda recipe: replace(recipe, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.26)),
    "augmentation.crop_padding": lambda recipe: changed_augmentation(recipe, crop_padding=2),
    "augmentation.flip": lambda recipe: changed_augmentation(recipe, flip=True),
    "augmentation.rotation": lambda recipe: changed_augmentation(recipe, rotation=5.0),
    "augmentation.randaugment": lambda recipe: changed_augmentation(recipe, randaugment=1),
    "augmentation.mixup": lambda recipe: changed_augmentation(recipe, mixup=0.1),
    "data_seed": lambda recipe: replace(recipe, data_seed=3),
}
EXECUTIONS = {"folded": {"fold": True}, "precision": {"bfloat16": True}, "layout": {"channels_last": True}}
BY_ITSELF = ("network", "weights", "data", "samples", "decoder", "augmentation_version", "mixing")
"""Fields that have a test of their own below."""
CONSTANT = ("mode",)
"""There is no other: a teacher on the statistics of a batch is refused."""


def test_the_walk_is_whole():
    walked = {name.partition(".")[0].partition("[")[0] for name in (*RECIPES, *EXECUTIONS, *BY_ITSELF, *CONSTANT)}
    assert walked == {field.name for field in fields(Key)}


PLAIN = tiny_recipe(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def with_network(role: int, network: str) -> Recipe:
    stages = list(PLAIN.stages)
    stages[role] = replace(stages[role], network=network)
    return replace(PLAIN, stages=tuple(stages))


def with_training(recipe: Recipe, **training) -> Recipe:
    teacher, student, *others = recipe.stages
    student = replace(student, training=replace(student.training, **training))
    return replace(recipe, stages=(teacher, student, *others))


@pytest.mark.parametrize("field", RECIPES)
def test_a_field_of_the_recipe(field, data):
    assert first_difference(key(PLAIN, data), key(RECIPES[field](PLAIN), data))[0] == field


@pytest.mark.parametrize("field", EXECUTIONS)
def test_how_the_teacher_is_run(field, data):
    other = EVERYTHING_OFF._replace(**EXECUTIONS[field])
    assert first_difference(key(PLAIN, data), key(PLAIN, data, execution=other))[0] == field


def test_the_teacher(data):
    assert first_difference(key(PLAIN, data), key(PLAIN, data, taught_by=teacher(seed=1)))[0] == "weights"
    deeper = key(with_network(0, "resnet14"), data, taught_by=teacher("resnet14"))
    assert first_difference(key(PLAIN, data), deeper)[0] == "network"


def test_a_running_statistic_of_the_teacher(data):
    other = teacher()
    next(value for name, value in other.named_buffers() if name.endswith("running_var"))[0] += 1e-6
    assert first_difference(key(PLAIN, data), key(PLAIN, data, taught_by=other))[0] == "weights"


def test_the_images(data):
    known, other = key(PLAIN, data), key(PLAIN, another_pixel(data))
    assert first_difference(known, other)[0] == "data"
    fewer = key(PLAIN, open_data(replace(PLAIN, limit_train=127)))
    assert (known.samples, fewer.samples) == (128, 127) and known.data != fewer.data


def test_the_decoder(tmp_path):
    write_folder(tmp_path, per_class=20)
    folder = replace(changed_augmentation(PLAIN, crop="resized"), data=f"imagefolder:{tmp_path}", limit_train=None)
    data, keys = open_data(folder), []
    assert not isinstance(data.train, Split)
    for loader in ("torchvision", "dali"):
        keys.append(key(replace(folder, reading=replace(folder.reading, loader=loader)), data))
    assert first_difference(*keys) == ("decoder", "torchvision", "dali")


def test_our_code(data, monkeypatch):
    known = key(PLAIN, data)
    monkeypatch.setattr("fastkd.run.stores.AUGMENTATION_VERSION", -1)
    assert first_difference(known, key(PLAIN, data))[0] == "augmentation_version"


def test_the_batches_of_mixed_images(data):
    mixed = changed_augmentation(PLAIN, cutmix=1.0)
    known, other = key(mixed, data), key(with_training(mixed, batch_size=64), data)
    assert first_difference(known, other)[0] == "mixing"
    assert key(with_training(mixed, epochs=5), data) == known


def test_batches_epochs_seed_and_student_are_no_part_of_it(data):
    other = with_training(with_network(1, "resnet14"), batch_size=48, epochs=9, lr=0.3)
    assert key(replace(other, data_seed=0, threads=2), data, seed=7) == key(PLAIN, data)
