"""Tiny trainings of a loaded teacher's student, with and without a store, on the digits and on real CIFAR-100."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from fastkd import recipes
from fastkd.methods import find_method, split_methods
from fastkd.recipes.recipe import Recipe, StageRecipe
from fastkd.run import Run
from fastkd.stored import Storing
from fastkd.support.files import sha256
from fastkd.support.interrupt import Interrupt
from fastkd.support.session import Session
from helpers.real_data import REAL
from helpers.tiny import Quiet, job_of, tiny_recipe, train

SETTINGS = {"crd": {"negatives": 16}, "sskd": {"epochs": 1, "milestones": ()}}


def some_of_cifar100(folder: Path, *, train=128, test=32, classes=16) -> Path:
    """Writes a folder in the published binary format: so many real images of the first classes."""
    root = folder / "cifar-100-binary"
    root.mkdir(parents=True)
    for part, count in (("train", train), ("test", test)):
        records = []
        for label in range(classes):
            stacked = np.asarray(Image.open(REAL / f"cifar100/{part}/{label:02}.webp").convert("RGB"))
            for image in stacked.reshape(-1, 32, 32, 3)[: count // classes]:
                records.append(bytes((0, label)) + image.transpose(2, 0, 1).tobytes())
        (root / f"{part}.bin").write_bytes(b"".join(records))
    return folder


def cifar_recipe(folder: Path) -> Recipe:
    """A teacher with branches and a student on the images there; two epochs of batches of 32."""
    recipe = recipes.cifar100_sftn(data=f"cifar100:{folder}", teacher_net="resnet8", student="resnet8")
    stages = tuple(replace(stage, training=replace(stage.training, epochs=2, batch_size=32)) for stage in recipe.stages)
    return replace(recipe, stages=stages, threads=1)


def trained_teacher(base: Recipe, kind: str, folder: Path) -> Path:
    """Trains the teacher of a recipe, as it is (`sftn`) or without its branches (`plain`); returns its weights."""
    teacher = base.stages[0] if kind == "sftn" else replace(base.stages[0], sftn=None)
    train(replace(base, stages=(teacher,)), folder)
    return folder / "teacher.safetensors"


def loaded(path: Path, name="teacher") -> StageRecipe:
    return StageRecipe(name=name, role="teacher", network="resnet8", file=str(path), sha256=sha256(path))


def recipe_of(path, method="kd", store=None, settings=None, storing=None, training=None, base=None, **changes):
    """A loaded teacher and a student; by default of the digits, two epochs of four steps."""
    base = base or tiny_recipe()
    given = {name: find_method(name).Settings(**(settings or {}).get(name, {})) for name in split_methods(method)}
    own = replace(base.stages[1].training, **(training or {}))
    student = replace(base.stages[1], method=method, settings=given, training=own)
    options = Storing(teacher_outputs=store, **(storing or {})) if store else Storing()
    return replace(base, **{"stages": (loaded(path), student), "storing": options} | changes)


def student_of(folder: Path) -> bytes:
    return (folder / "student.safetensors").read_bytes()


def fill(recipe: Recipe) -> None:
    """Does as `python -m fastkd.store`."""
    Run(job_of(recipe), recipe.seed, Path(), Session(Quiet(), Interrupt())).fill_stores()
