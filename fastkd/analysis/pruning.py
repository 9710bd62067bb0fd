"""What a student with the teacher's classifier saves of the teacher's parameters (SimKD, Eq. 6, Tables S.8 to S.10)."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn

from fastkd import networks
from fastkd.methods import find_method
from fastkd.methods.reused import Projections
from fastkd.methods.simkd import SimKDSettings
from fastkd.networks.base import Network
from fastkd.recipes.recipe import Recipe
from fastkd.run.description import Deployment, Description, rebuilt
from fastkd.support.errors import UserError
from fastkd.support.plain import to_plain


class Pruning(NamedTuple):
    """Parameters, and what follows from them in percent."""

    teacher: int
    student: int
    """With its own classifier."""
    deployed: int
    """What is used in the end."""
    projector: int

    @property
    def ratio(self) -> float:
        """How much smaller than the teacher what is deployed is."""
        return 100 * (1 - self.deployed / self.teacher)

    @property
    def own_ratio(self) -> float:
        """The ratio of the student itself, as in plain KD."""
        return 100 * (1 - self.student / self.teacher)

    @property
    def cost(self) -> float:
        """What the projector and the other classifier take from the ratio: the first number of Tables S.8 and S.9."""
        return self.own_ratio - self.ratio

    @property
    def projector_share(self) -> float:
        """The projector beside the student: the second number there."""
        return 100 * self.projector / self.student

    def plain(self) -> dict[str, float]:
        names = ("ratio", "own_ratio", "cost", "projector_share")
        return {**self._asdict(), **{name: getattr(self, name) for name in names}}


def pruning(
    teacher: str, student: str, settings: SimKDSettings, *, classes: int = 100, image_size: int = 32
) -> Pruning:
    """The parameters of any pair of networks, by their names, and of the student that SimKD makes of it."""
    return _pruning(teacher, student, {"simkd": settings}, classes, image_size)


def pruning_of(recipe: Recipe) -> Pruning:
    """The parameters of a recipe's teacher and student, by whatever method it learns."""
    teachers, student = recipe.of_role("teacher"), recipe.stage("student")
    assert student is not None and len(teachers) == 1, "a pair has one teacher"
    classes, size = recipe.published_classes or 100, recipe.image_size
    return _pruning(teachers[0].network, student.network, student.settings, classes, size)


def _pruning(teacher: str, student: str, settings: Mapping[str, object], classes: int, size: int) -> Pruning:
    if unknown := [name for name in (teacher, student) if name not in networks.NETWORKS]:
        raise UserError(f"no network {unknown[0]!r}")
    own, theirs = (Description(name, classes, size) for name in (student, teacher))
    changing = {name: to_plain(one) for name, one in settings.items() if find_method(name).changes_network()}
    with torch.device("meta"):
        alone, of_teacher = (networks.build(name, num_classes=classes) for name in (student, teacher))
        made = rebuilt(own._replace(deployment=Deployment(changing, (theirs,)))) if changing else alone
    return Pruning(_count(of_teacher), _count(alone), _count(made), _projector(made))


def _projector(network: Network) -> int:
    return sum(_count(part) for part in network.modules() if isinstance(part, Projections))


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
