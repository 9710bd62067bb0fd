"""FitNets (Romero, Ballas, Kahou, Chassang, Gatta, Bengio: "FitNets: hints for thin deep nets", ICLR 2015,
arXiv 1412.6550)."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from fastkd.data.base import Batch
from fastkd.losses.features import mean_squared_error
from fastkd.methods.base import Context, Method, MethodLoss, up_to_block, weighted
from fastkd.methods.projectors import ProjectedPlaces
from fastkd.methods.regressors import Regressor
from fastkd.networks.base import Network, Output
from fastkd.support.errors import UserError
from fastkd.support.plain import Checked
from fastkd.support.ranges import Place, Weight


@dataclass(frozen=True, kw_only=True)
class FitNetSettings(Checked):
    """weight · mean squared error between the regressed student map and the teacher's, behind one block.

    Everything is trained in one stage, as in all published codes; the paper first trains the student up to the hint.
    """

    weight: Weight = 100.0
    """The default of RepDistiller and SimKD on CIFAR-100."""
    block: Place = 2
    """Block of both networks, from 1, behind which the hint is taken (RepDistiller and mdistiller 2, SimKD 1)."""
    projector: Literal["regressor", "normalised", "orthogonal"] = "regressor"
    """What brings the student's map to the teacher's. regressor: a convolution, BatchNorm and ReLU; normalised: SRD's,
    place by place, both sides normalised over the batch; orthogonal: VkD's, the teacher's channels normalised."""


class FitNet(Method):
    """The regressor ends in a ReLU, as RepDistiller's does. The features of a WRN are raw sums, so it cannot reach a
    WRN teacher's where they are negative."""

    Settings = FitNetSettings
    about = "hints: the features of one block"
    teachers_needed = (1, 1)

    def __init__(self, settings: FitNetSettings, context: Context):
        super().__init__(settings, context)
        student, teacher = context.student_shapes.features, context.teacher_shapes[0].features
        self.place = hint_place("fitnet", settings.block, len(student), len(teacher))
        shapes = student[self.place].shape[1:], teacher[self.place].shape[1:]
        kind = settings.projector
        self.regressor = Regressor(*shapes) if kind == "regressor" else ProjectedPlaces(kind, *shapes)

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        return up_to_block(student, self.settings.block)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        target = self.regressor.target(teachers[0].features[self.place])
        hint = mean_squared_error(self.regressor(student.features[self.place]), target)
        return weighted("hint", self.settings.weight, hint)


def hint_place(name: str, block: int, *counts: int) -> int:
    """The place of a block among the features; raises UserError where one of the networks does not have it."""
    if not 1 <= block <= min(counts):
        raise UserError(f"{name}: block is from 1 to {min(counts)} for these networks, got {block}")
    return block - 1
