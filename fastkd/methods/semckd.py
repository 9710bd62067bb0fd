"""Semantic calibration (Chen et al.: "Cross-layer distillation with semantic calibration", AAAI 2021,
arXiv 2012.03236)."""

from dataclasses import dataclass
from typing import Annotated

from torch import nn

from fastkd.data.base import Batch
from fastkd.losses import SemCKDLoss
from fastkd.methods.base import Context, Method, MethodLoss, up_to_block, weighted
from fastkd.networks.base import Network, Output
from fastkd.support.errors import UserError
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import Positive, Weight, Width


@dataclass(frozen=True, kw_only=True)
class SemCKDSettings(Checked):
    """weight · sum over all pairs of blocks of attention · MSE(projected student map, teacher map)."""

    weight: Weight = 400.0
    """The default of SimKD's code on CIFAR-100 (the authors': 50 on ImageNet)."""
    softness: Annotated[Positive, OnlyWith("weight")] = 1.0
    """Divides the products of queries and keys."""
    factor: Width = 4
    """Queries and keys have batch size / factor dimensions."""


class SemCKD(Method):
    Settings = SemCKDSettings
    about = "features, matched by attention"
    relates_samples = True
    teachers_needed = (1, 1)
    fixed_batch_size = True

    def __init__(self, settings: SemCKDSettings, context: Context):
        super().__init__(settings, context)
        self.batch_size = context.batch_size
        if context.batch_size < settings.factor:
            raise UserError(f"semckd: a batch has at least {settings.factor} samples, got {context.batch_size}")
        student = [shape.shape[1] for shape in context.student_shapes.features]
        teacher = [shape.shape[1] for shape in context.teacher_shapes[0].features]
        how = {"softness": settings.softness, "factor": settings.factor}
        self.loss = SemCKDLoss(student, teacher, context.batch_size, **how)

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        return up_to_block(student)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        if len(batch.labels) != self.batch_size:
            raise UserError(
                f"semckd: every batch has {self.batch_size} samples, got {len(batch.labels)}: it needs --drop-last on"
            )
        loss = self.loss.of(student.features, teachers[0].features)
        return weighted("semckd", self.settings.weight, loss)
