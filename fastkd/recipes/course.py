"""The course of a run: the stages of its recipe with everything that follows from their methods.

A method may need a training of its own before the student's (`ft`), points along the teacher's training (`rco`), or
train its teachers together with the student (`dml`).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastkd.methods import find_method, short_name, split_methods
from fastkd.methods.base import Waypoints
from fastkd.recipes.planned import (
    Peer,
    PlannedDataFree,
    PlannedDistillation,
    PlannedLoaded,
    PlannedMutual,
    PlannedPrestage,
    PlannedStage,
    PlannedStudentAware,
    PlannedSupervised,
)
from fastkd.recipes.recipe import Recipe, StageRecipe
from fastkd.support.errors import UserError
from fastkd.support.words import counted

Course = tuple[PlannedStage, ...]


def course(recipe: Recipe) -> Course:
    """The stages as a run carries them out."""
    by_name = {stage.name: stage for stage in recipe.stages}
    peers = learning_together(recipe)
    planned: list[PlannedStage] = []
    for stage in recipe.stages:
        if stage.name in peers:
            continue
        elif _among_peers(stage):
            if stage.synthesis is not None:
                raise UserError(f"--method {stage.method}: its teacher learns, and so cannot say what images to make")
            planned.append(_mutual(stage, [by_name[name] for name in stage.teachers]))
        else:
            planned += _planned(stage, by_name)
    names = [stage.name for stage in planned]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two trainings have the name {twice!r}: one of them is what a method trains before a student")
    return tuple(planned)


def learning_together(recipe: Recipe) -> set[str]:
    """The names of the teachers that learn together with the student, without a training of their own."""
    return {name for stage in recipe.stages if _among_peers(stage) for name in stage.teachers}


def followed_epochs(student: StageRecipe, teacher: StageRecipe) -> tuple[int, ...]:
    """The epochs of its one teacher's training that a student follows, but for the last one; mostly there are none."""
    waypoints = _waypoints(student) if student.method and len(student.teachers) == 1 else None
    if waypoints is None or teacher.training is None:
        return ()
    return _epochs_at(waypoints, teacher.training.epochs, student.method)


def kept_epochs(stages: Course, name: str) -> set[int]:
    """The epochs of that stage after which its weights are kept: a later stage has them as the teacher `NAME@EPOCH`."""
    distillations = (stage for stage in stages if isinstance(stage, PlannedDistillation))
    teachers = {teacher.partition("@") for stage in distillations for teacher in stage.teachers}
    return {int(epoch) for earlier, at, epoch in teachers if at and earlier == name}


def passing_on(stages: Course) -> set[str]:
    """The names of the stages whose trained part a later one begins with."""
    return {name for stage in stages if isinstance(stage, PlannedDistillation) for name in stage.after}


def _planned(stage: StageRecipe, by_name: dict[str, StageRecipe]) -> Sequence[PlannedStage]:
    own: dict[str, Any] = {"name": stage.name, "role": stage.role, "network": stage.network}
    if stage.training is None:
        of_file = ("file", "sha256", "prefix", "any_images", "classes", "images")
        loaded = {name: getattr(stage, name) for name in of_file}
        return [PlannedLoaded(**own, **loaded)]
    own |= _trained(stage)
    if stage.method:
        learning = {"method": stage.method, "settings": stage.settings, "teachers": stage.teachers}
        if stage.synthesis is not None:
            _refuse_what_needs_data(stage)
            return [PlannedDataFree(**own, **learning, synthesis=stage.synthesis)]
        return _distillation(PlannedDistillation(**own, **learning), by_name)
    if stage.sftn is not None:
        return [PlannedStudentAware(**own, sftn=stage.sftn, gtn=stage.gtn)]
    return [PlannedSupervised(**own)]


def _refuse_what_needs_data(stage: StageRecipe) -> None:
    """Raises UserError for a method that is more than a loss on the images of a batch."""
    for name in split_methods(stage.method):
        method, settings = find_method(name), stage.settings[name]
        keeps = "a memory of every training image" if method.remembers_images else ""
        trains = "a training before the student's" if method.prestage_training(settings) is not None else ""
        follows = "several points of the teacher's training" if method.waypoints(settings) is not None else ""
        if needs := keeps or trains or follows:
            raise UserError(f"--method {name} has {needs}: it does not go with images that are made")


def _among_peers(stage: StageRecipe) -> bool:
    return bool(stage.method) and any(find_method(name).among_peers for name in split_methods(stage.method))


def _mutual(stage: StageRecipe, teachers: Sequence[StageRecipe]) -> PlannedMutual:
    """One training of the student and its teachers, with the student's settings and every network's learning rate."""
    assert stage.training is not None
    peers = []
    for teacher in teachers:
        if teacher.training is None:
            raise UserError(f"{stage.method} trains all its networks together: the {teacher.name} cannot be loaded")
        factor = teacher.training.lr / stage.training.lr
        peers.append(Peer(name=teacher.name, network=teacher.network, lr_factor=factor))
    return PlannedMutual(
        name=stage.name,
        role=stage.role,
        network=stage.network,
        training=stage.training,
        method=stage.method,
        settings=stage.settings,
        peers=tuple(peers),
    )


def _distillation(student: PlannedDistillation, by_name: dict[str, StageRecipe]) -> list[PlannedDistillation]:
    waypoints = _waypoints(student)
    if waypoints is None:
        before = _prestages(student)
        return [*before, replace(student, after=_names(before))]
    teachers = _along_the_way(student, waypoints, by_name)
    before = _prestages(replace(student, teachers=teachers[-1:]))
    if not waypoints.restart or not teachers:
        return [*before, replace(student, teachers=teachers, after=_names(before))]
    trainings: list[PlannedDistillation] = []
    for number, teacher in enumerate(teachers, 1):
        name = student.name if number == len(teachers) else f"{student.name}-{number}"
        after = trainings[-1:] or before
        trainings.append(replace(student, name=name, teachers=(teacher,), after=_names(after)))
    return [*before, *trainings]


def _waypoints(student: PlannedDistillation | StageRecipe) -> Waypoints | None:
    methods = [(find_method(name), student.settings[name]) for name in split_methods(student.method)]
    return next((found for method, given in methods if (found := method.waypoints(given)) is not None), None)


def _along_the_way(
    student: PlannedDistillation, waypoints: Waypoints, by_name: dict[str, StageRecipe]
) -> tuple[str, ...]:
    """The names of the waypoints. Several teachers are the waypoints; those of one are kept while it is trained."""
    if len(student.teachers) != 1:
        return student.teachers
    teacher = by_name[student.teachers[0]]
    if teacher.training is None:
        each = " ".join(f"--teacher RUN@{epoch}" for epoch in (60, 120, 180))
        raise UserError(f"{student.method} follows the teacher's training: give each point of it, as in {each}")
    points = _epochs_at(waypoints, teacher.training.epochs, student.method)
    return (*(f"{teacher.name}@{epoch}" for epoch in points), teacher.name)


def _epochs_at(waypoints: Waypoints, epochs: int, method: str) -> tuple[int, ...]:
    """The epochs of a teacher's training that are waypoints, but for the last one."""
    if waypoints.count > epochs:
        taken = f"the teacher's {counted(epochs, 'epoch')} cannot be divided into {waypoints.count} anchors"
        raise UserError(f"{method}: {taken}")
    return tuple(round(epochs * number / waypoints.count) for number in range(1, waypoints.count))


def _prestages(student: PlannedDistillation) -> list[PlannedDistillation]:
    before: list[PlannedDistillation] = []
    for method in split_methods(student.method):
        wanted = find_method(method).prestage_training(student.settings[method])
        if wanted is None:
            continue
        training = replace(
            student.training,
            epochs=wanted.epochs,
            lr=wanted.lr or student.training.lr,
            schedule="multistep",
            milestones=wanted.milestones,
            warmup_epochs=0,
            freeze_epochs=0,
            ema=0.0,
        )
        own: dict[str, Any] = _trained(student) | {"training": training}
        before.append(
            PlannedPrestage(
                name=f"{student.name}-{short_name(method)}",
                role=student.role,
                network=student.network,
                method=student.method,
                settings=student.settings,
                teachers=student.teachers,
                after=_names(before),
                prestage=method,
                **own,
            )
        )
    return before


def _trained(stage: StageRecipe | PlannedDistillation) -> dict[str, Any]:
    """How a stage is trained, and what it begins with."""
    return {name: getattr(stage, name) for name in ("training", "begins", "file", "sha256", "prefix")}


def _names(stages: Sequence[PlannedStage]) -> tuple[str, ...]:
    return tuple(stage.name for stage in stages)
