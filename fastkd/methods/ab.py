"""Activation boundaries (Heo, Lee, Yun, Choi: "Knowledge transfer via distillation of activation boundaries formed by
hidden neurons", AAAI 2019, arXiv 1811.03233)."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from fastkd.data.base import Batch
from fastkd.losses.preacts import ABLoss
from fastkd.methods.base import (
    Context,
    Method,
    MethodLoss,
    PrestageTraining,
    PrestageWork,
    up_to_embedding,
    weighted,
)
from fastkd.methods.regressors import Regressor
from fastkd.networks.base import Network, Output
from fastkd.support.errors import UserError
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import EpochsOrNone, NotNegative, Weight


@dataclass(frozen=True, kw_only=True)
class ABSettings(Checked):
    """Pushes the student's preacts, behind a connector, to the teacher's side of zero, by a margin.

    As published, it trains the student's blocks in a stage of its own and has no part in what follows.
    """

    epochs: EpochsOrNone = 30
    """Epochs of that stage, at the student's learning rate (RepDistiller); 0 for none."""
    margin: Annotated[NotNegative, OnlyWith(("epochs", "weight"))] = 1.0
    weight: Weight = 0.0
    """Weight in the student's own training (RepDistiller is given 1 and does not use it)."""


class AB(Method):
    Settings = ABSettings
    about = "activation boundaries"
    teachers_needed = (1, 1)

    def __init__(self, settings: ABSettings, context: Context):
        super().__init__(settings, context)
        self.needs_preacts = settings.weight != 0
        self.loss = ABLoss(margin=settings.margin)
        student, teacher = context.student_shapes.features, context.teacher_shapes[0].features
        if len(student) != len(teacher):
            raise UserError(
                f"ab: student and teacher need the same number of blocks, they have {len(student)} and {len(teacher)}"
            )
        self.connectors = nn.ModuleList(
            connector(s.shape[1:], t.shape[1:]) for s, t in zip(student, teacher, strict=True)
        )
        self.connectors.requires_grad_(settings.weight != 0)

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        return up_to_embedding(student) if self.settings.weight else ()

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        if self.settings.weight == 0:
            return MethodLoss(student.logits.new_zeros((), dtype=torch.float32), {})
        return weighted("ab", self.settings.weight, self.distance(student, teachers[0]))

    def distance(self, student: Output, teacher: Output) -> Tensor:
        """The sum over the blocks; the last has weight 1, each one before it half of the next's."""
        assert student.preacts is not None and teacher.preacts is not None
        source = [module(s) for module, s in zip(self.connectors, student.preacts, strict=True)]
        target = [_at_size_of(module, t) for module, t in zip(self.connectors, teacher.preacts, strict=True)]
        return self.loss(source, target)

    @classmethod
    def prestage_training(cls, settings: ABSettings) -> PrestageTraining | None:
        return PrestageTraining(epochs=settings.epochs) if settings.epochs else None

    def prestage(self, student: Network) -> PrestageWork:
        trained = (self.connectors, student.stem, *student.blocks)
        return PrestageWork(trained=trained, loss=self._initial, needs_preacts=True)

    def _initial(self, student: Output | None, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        assert student is not None
        return weighted("ab", 1.0, self.distance(student, teachers[0]))


def connector(student: torch.Size, teacher: torch.Size) -> nn.Module:
    """The identity where channels and height agree, else convolution and BatchNorm."""
    return nn.Identity() if student[:2] == teacher[:2] else Regressor(student, teacher, activation=False)


def _at_size_of(module: nn.Module, teacher: Tensor) -> Tensor:
    return module.target(teacher) if isinstance(module, Regressor) else teacher
