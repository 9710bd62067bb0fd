"""Trainings as nodes: a recipe taken apart, each training named by the digest of what its numbers depend on."""

import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from fastkd.plan.versions import versions_of
from fastkd.recipes.course import followed_epochs, learning_together
from fastkd.recipes.recipe import TEACHING, Recipe, StageRecipe, recipe_to_plain
from fastkd.support.files import sha256
from fastkd.support.plain import to_plain

_NO_NUMBERS = {"name", "seeds", "eval_every", "keep_epochs", "threads", "deviations", "published_classes", "storing"}
"""Entries of a recipe that say nothing of what is learned."""


class Taught(NamedTuple):
    """A teacher of a node: what another node left."""

    name: str
    """The teacher's stage."""
    node: "Node"
    epoch: int | None = None
    """The epoch of its training whose weights are taken; None: the last one."""

    @property
    def stage(self) -> str:
        """The name of the loaded stage."""
        return self.name if self.epoch is None else f"{self.name}-at-{self.epoch}"


@dataclass(frozen=True)
class Node:
    """One training of one seed, with what it learns from."""

    beside: Recipe
    """What holds for the training, and the stages that are not trained on their own: files, and networks that learn
    together with it."""
    own: StageRecipe
    """The stage that is trained."""
    taught: tuple[Taught, ...] = ()

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of everything that the node's numbers depend on, wherever data and folders lie."""
        return hashlib.sha256(json.dumps(self.plain(), sort_keys=True).encode()).hexdigest()

    def plain(self) -> dict[str, Any]:
        """What the node's numbers depend on, in plain types."""
        recipe = {name: value for name, value in recipe_to_plain(self.beside).items() if name not in _NO_NUMBERS}
        classes = self.beside.reading.class_list
        return recipe | {
            "data": self.beside.data.partition(":")[0],
            "reading": {"loader": self.beside.reading.loader, "classes": classes and sha256(classes)},
            "approximations": self.beside.storing.approximations if self.taught else (),
            "stages": [_plain_stage(stage) for stage in (*self.beside.stages, self.own)],
            "taught": [(one.stage, one.node.digest) for one in self.taught],
            "versions": versions_of(self.own),
        }

    def recipe(self, folder_of: Callable[["Node"], Path], keep: tuple[int, ...]) -> Recipe:
        """The recipe of the node's run, whose teachers are the weights that finished nodes left.

        folder_of: the run folder of a node. keep: the epochs whose weights other nodes learn from.
        """
        loaded = [_loaded(one, folder_of(one.node)) for one in self.taught]
        return replace(self.beside, stages=(*loaded, *self.beside.stages, self.own), keep_epochs=keep)

    def ancestors(self) -> Iterator["Node"]:
        """The nodes that this one needs, each after those that it needs itself."""
        for one in self.taught:
            yield from one.node.ancestors()
            yield one.node


def nodes_of(recipe: Recipe, *, student_seed: int, teacher_seed: int, teacher_share: float = 1.0) -> dict[str, Node]:
    """The training of every stage of a recipe that is trained by itself, by the stage's name.

    teacher_share: the share of its training after which a teacher teaches.

    A teacher that learns together with its student belongs to the student's training, and a network that is loaded to
    those of all who learn from it.
    """
    found: dict[str, Node] = {}
    peers, by_name = learning_together(recipe), {stage.name: stage for stage in recipe.stages}
    for stage in recipe.stages:
        if stage.training is None or stage.name in peers:
            continue
        taught, beside, teachers = [], [], []
        for name in stage.teachers:
            if name in found:
                points = _taught(stage, by_name[name], found[name], teacher_share)
                taught += points
                teachers += [one.stage for one in points]
            else:
                beside.append(_unpublished(by_name[name]))
                teachers.append(name)
        if stage.begins in found:
            taught.append(Taught(stage.begins, found[stage.begins]))
        elif stage.begins:
            beside.append(_unpublished(by_name[stage.begins]))
        common = replace(
            recipe,
            stages=tuple(beside),
            seed=teacher_seed if stage.role in TEACHING else student_seed,
            seeds=1,
            keep_epochs=(),
            deviations=(),
            published_classes=None,
        )
        found[stage.name] = Node(common, replace(_unpublished(stage), teachers=tuple(teachers)), tuple(taught))
    return found


def _taught(student: StageRecipe, teacher: StageRecipe, node: Node, share: float) -> list[Taught]:
    if share < 1 and teacher.training is not None and teacher.training.epochs > 1:
        epoch = min(max(1, round(share * teacher.training.epochs)), teacher.training.epochs - 1)
        return [Taught(teacher.name, node, epoch)]
    points = [Taught(teacher.name, node, epoch) for epoch in followed_epochs(student, teacher)]
    return [*points, Taught(teacher.name, node)]


def _unpublished(stage: StageRecipe) -> StageRecipe:
    return replace(stage, published=None)


def _plain_stage(stage: StageRecipe) -> dict[str, Any]:
    """A stage by its content: a file by its checksum, wherever it lies. One that learns from data is called what it was
    called before there were others."""
    left_out = ("file", "published", *(["synthesis"] if stage.synthesis is None else []))
    return {name: value for name, value in to_plain(stage).items() if name not in left_out}


def _loaded(one: Taught, folder: Path) -> StageRecipe:
    at = "" if one.epoch is None else f"@{one.epoch}"
    file = folder / ("checkpoints" if at else "") / f"{one.name}{at}.safetensors"
    own = one.node.own
    role = "base" if own.role == "base" else "teacher"
    return StageRecipe(name=one.stage, role=role, network=own.network, file=str(file), sha256=sha256(file))
