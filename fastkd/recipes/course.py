"""The course of a run: the stages of its recipe with everything that follows from their methods.

A method may need a training of its own before the student's (`ft`), points along the teacher's training (`rco`), or
train its teachers together with the student (`dml`).
"""

from collections.abc import Sequence
from dataclasses import replace

from fastkd.methods import find_method, split_methods
from fastkd.methods.base import Anchors
from fastkd.recipes.recipe import Peer, Recipe, StageRecipe
from fastkd.support.errors import UserError


def course(recipe: Recipe) -> tuple[StageRecipe, ...]:
    """The stages as a run carries them out."""
    by_name = {stage.name: stage for stage in recipe.stages}
    peers = learning_together(recipe)
    found: list[StageRecipe] = []
    for stage in recipe.stages:
        if stage.name in peers:
            continue
        elif _among_peers(stage):
            found.append(_mutual(stage, [by_name[name] for name in stage.teachers]))
        elif stage.kind == "distill" and stage.training is not None:
            found += _distillation(stage, by_name)
        else:
            found.append(stage)
    return tuple(found)


def learning_together(recipe: Recipe) -> set[str]:
    """The teachers that have no training of their own."""
    return {name for stage in recipe.stages if _among_peers(stage) for name in stage.teachers}


def kept_epochs(stages: Sequence[StageRecipe], name: str) -> set[int]:
    """After which epochs of that stage its weights are needed later, as the teacher `NAME@EPOCH`."""
    teachers = {teacher.partition("@") for stage in stages for teacher in stage.teachers}
    return {int(epoch) for earlier, at, epoch in teachers if at and earlier == name}


def _among_peers(stage: StageRecipe) -> bool:
    return stage.kind == "distill" and any(find_method(name).among_peers for name in split_methods(stage.method))


def _mutual(stage: StageRecipe, teachers: Sequence[StageRecipe]) -> StageRecipe:
    """One training of the student and its teachers, with the student's settings and every network's learning rate."""
    assert stage.training is not None
    peers = []
    for teacher in teachers:
        if teacher.training is None:
            raise UserError(f"{stage.method} trains all its networks together: the {teacher.name} cannot be loaded")
        factor = teacher.training.lr / stage.training.lr
        peers.append(Peer(name=teacher.name, network=teacher.network, lr_factor=factor))
    return replace(stage, kind="mutual", teachers=(), peers=tuple(peers))


def _distillation(stage: StageRecipe, by_name: dict[str, StageRecipe]) -> list[StageRecipe]:
    methods = [(find_method(name), stage.settings[name]) for name in split_methods(stage.method)]
    anchors = next((found for method, given in methods if (found := method.anchors(given)) is not None), None)
    if anchors is None:
        before = _prestages(stage)
        return [*before, replace(stage, after=_names(before))]
    names = _anchors(stage, anchors, by_name)
    before = _prestages(replace(stage, teachers=names[-1:]))
    if not anchors.restart or not names:
        return [*before, replace(stage, teachers=names, after=_names(before))]
    trainings: list[StageRecipe] = []
    for number, teacher in enumerate(names, 1):
        last = number == len(names)
        name, after = stage.name if last else f"{stage.name}-{number}", trainings[-1:] or before
        own = replace(stage, name=name, teachers=(teacher,), after=_names(after))
        trainings.append(own if last else replace(own, published=None))
    return [*before, *trainings]


def _anchors(stage: StageRecipe, anchors: Anchors, by_name: dict[str, StageRecipe]) -> tuple[str, ...]:
    """Several teachers are the anchors themselves; of one, they are kept while it is trained."""
    if len(stage.teachers) != 1:
        return stage.teachers
    teacher = by_name[stage.teachers[0]]
    if teacher.training is None:
        each = " ".join(f"--teacher RUN@{epoch}" for epoch in (60, 120, 180))
        raise UserError(f"{stage.method} follows the teacher's training: give each point of it, as in {each}")
    epochs = teacher.training.epochs
    if anchors.count > epochs:
        raise UserError(f"{stage.method}: the teacher's {epochs} epochs do not divide into {anchors.count} anchors")
    points = [round(epochs * number / anchors.count) for number in range(1, anchors.count)]
    return (*(f"{teacher.name}@{epoch}" for epoch in points), teacher.name)


def _prestages(stage: StageRecipe) -> list[StageRecipe]:
    assert stage.training is not None
    found: list[StageRecipe] = []
    for method in split_methods(stage.method):
        own = find_method(method).prestage_training(stage.settings[method])
        if own is None:
            continue
        training = replace(
            stage.training,
            epochs=own.epochs,
            lr=own.lr or stage.training.lr,
            schedule="multistep",
            milestones=own.milestones,
            warmup_epochs=0,
            ema=0.0,
        )
        name = f"{stage.name}-{method.rpartition(':')[2].lower()}"
        before = replace(stage, name=name, kind="prestage", prestage=method, training=training, published=None)
        found.append(replace(before, after=_names(found)))
    return found


def _names(stages: Sequence[StageRecipe]) -> tuple[str, ...]:
    return tuple(stage.name for stage in stages)
