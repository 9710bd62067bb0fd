"""Weights that trainings begin with, and teachers of other classes and images."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from fastkd.recipes.published import beside_the_paper
from fastkd.recipes.recipe import TEACHING, OwnImages, Recipe, StageRecipe
from fastkd.run.weights import WeightsFile, WeightsFiles
from fastkd.support.errors import ChangesNothing, UserError
from fastkd.support.files import read_text
from fastkd.support.paths import expanded, is_file
from fastkd.support.plain import Checked
from fastkd.support.ranges import Pixels, Positive, Share

MOST_CLASSES = 2**24


@dataclass(frozen=True, kw_only=True)
class Beginnings(Checked):
    """What trainings begin with, and what a loaded teacher was trained for."""

    init: str | None = None
    """RUN or FILE: begin the training of the student, and of the control, with its weights; a classifier for another
    number of classes is made anew."""
    teacher_init: str | None = None
    """RUN or FILE: begin the training of the teacher with its weights, likewise."""
    teacher_classes: Path | None = None
    """File with the names of a loaded teacher's classes, one a line; those of the data are found among them."""
    own_images: bool = False
    """Give a loaded teacher the student's crop at the size and in the normalisation that its file says."""
    teacher_size: Pixels | None = None
    """Side of the images that a loaded teacher takes: the student's crop is resized for it."""
    teacher_mean: tuple[Share, Share, Share] | None = None
    """What a loaded teacher's images are normalised by, where white is 1 (default: as the student's)."""
    teacher_std: tuple[Positive, Positive, Positive] | None = None
    """What a loaded teacher's images are divided by, likewise."""


def begun(recipe: Recipe, wanted: Beginnings, files: WeightsFiles) -> Recipe:
    """The recipe with what is wanted. Raises UserError for what changes nothing, or does not go together."""
    for name, spec in (("teacher", wanted.teacher_init), ("student", wanted.init)):
        if spec is not None:
            recipe = _with_weights(recipe, spec, name, files)
    if wanted.teacher_classes is not None:
        classes = _names(wanted.teacher_classes)
        recipe = _loaded_changed(recipe, "teacher-classes", lambda stage: replace(stage, classes=classes))
    for_images = ("teacher_size", "teacher_mean", "teacher_std", "own_images")
    given = [name for name in for_images if getattr(wanted, name)]
    if not given:
        return recipe
    if (wanted.teacher_mean is None) != (wanted.teacher_std is None):
        raise UserError("--teacher-mean and --teacher-std go together")
    option = given[0].replace("_", "-")
    return _loaded_changed(recipe, option, lambda stage: replace(stage, images=_images(recipe, stage, wanted, files)))


def _with_weights(recipe: Recipe, spec: str, name: str, files: WeightsFiles) -> Recipe:
    option = "init" if name == "student" else "teacher-init"
    trained = [stage for stage in recipe.stages if stage.training and not stage.begins]
    begins = [stage for stage in trained if (stage.role in TEACHING) is (name == "teacher")]
    if not begins:
        raise ChangesNothing(option, f"no {name} is trained")
    file = files.found(spec, name)
    changed = {stage.name: replace(stage, file=str(file.path), sha256=file.sha256) for stage in begins}
    for stage in begins:
        _refuse_another(stage, file, option)
    stages = tuple(changed.get(stage.name, stage) for stage in recipe.stages)
    begun = replace(recipe, stages=stages)
    if all(stage.role == "base" for stage in begins):  # a recipe with such a stage asks for weights
        return beside_the_paper(begun)
    return replace(begun, deviations=(*recipe.deviations, f"the {name} begins with weights"))


def _refuse_another(stage: StageRecipe, file: WeightsFile, option: str) -> None:
    about = file.description
    if about is not None and (about.network != stage.network or about.deployment is not None):
        made = " with another head" if about.deployment is not None else ""
        raise UserError(f"--{option}: {file.path} holds a {about.network}{made}, the {stage.name} is a {stage.network}")


def _loaded_changed(recipe: Recipe, option: str, change: Callable[[StageRecipe], StageRecipe]) -> Recipe:
    loaded = [stage for stage in recipe.stages if stage.role == "teacher" and stage.training is None]
    if not loaded:
        raise ChangesNothing(option, "no teacher is loaded")
    names = {stage.name for stage in loaded}
    return replace(recipe, stages=tuple(change(stage) if stage.name in names else stage for stage in recipe.stages))


def _names(path: Path) -> tuple[str, ...]:
    """The lines of a file, in order. Raises UserError for a name that stands twice."""
    path = expanded(str(path))
    if not is_file(path):
        raise UserError(f"--teacher-classes: no file {path}")
    names = tuple(line.strip() for line in read_text(path).splitlines() if line.strip())
    if len(set(names)) != len(names) or not 2 <= len(names) <= MOST_CLASSES:
        raise UserError(
            f"--teacher-classes: {path} has {len(names)} names, expected two or more that differ, one a line"
        )
    return names


def _images(recipe: Recipe, stage: StageRecipe, wanted: Beginnings, files: WeightsFiles) -> OwnImages:
    about = files.describe(Path(stage.file)) if wanted.own_images else None
    if wanted.own_images and (about is None or about.mean is None or about.std is None):
        raise UserError(
            f"--own-images: {stage.file} does not say what images it is for: give --teacher-size and its like"
        )
    size, mean, std = (about.image_size, about.mean, about.std) if about is not None else (None, None, None)
    size, mean, std = wanted.teacher_size or size, wanted.teacher_mean or mean, wanted.teacher_std or std
    return OwnImages(image_size=size or recipe.image_size, mean=mean, std=std)
