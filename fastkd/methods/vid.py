"""Variational information distillation (Ahn, Hu, Damianou, Lawrence, Dai: "Variational information distillation for
knowledge transfer", CVPR 2019, arXiv 1904.05835)."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import nn

from fastkd.data.base import Batch
from fastkd.losses.likelihood import VIDLoss
from fastkd.methods.base import Context, Method, MethodLoss, up_to_block, weighted
from fastkd.methods.maps import blocks_left_out
from fastkd.networks.base import Network, Output
from fastkd.support.errors import UserError
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import Weight, between


@dataclass(frozen=True, kw_only=True)
class VIDSettings(Checked):
    """weight · sum over the blocks of the teacher map's negative log-likelihood, given the student's.

    It is a Gaussian with one learned variance for each teacher channel (mdistiller does not train them).
    """

    weight: Weight = 1.0
    """The default of RepDistiller, SimKD and mdistiller."""
    initial_variance: Annotated[float, between(1e-9, 100), OnlyWith("weight")] = 5.0
    least_variance: Annotated[float, between(1e-12, 100), OnlyWith("weight")] = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.initial_variance <= self.least_variance:
            above = f"initial-variance is above least-variance {self.least_variance:g}"
            raise UserError(f"vid: {above}, got {self.initial_variance:g}")


class VID(Method):
    Settings = VIDSettings
    about = "mutual information of features"
    teachers_needed = (1, 1)

    def __init__(self, settings: VIDSettings, context: Context):
        super().__init__(settings, context)
        student, teacher = context.student_shapes.features, context.teacher_shapes[0].features
        self.notes += blocks_left_out("vid", len(student), len(teacher))
        self.blocks = nn.ModuleList(
            VIDLoss(
                s.shape[1],
                t.shape[1],
                initial_variance=settings.initial_variance,
                least_variance=settings.least_variance,
            )
            for s, t in zip(student, teacher, strict=False)
        )

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        return up_to_block(student, len(self.blocks))

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        pairs = zip(self.blocks, student.features, teachers[0].features, strict=False)
        losses = [block.of(s, t) for block, s, t in pairs if isinstance(block, VIDLoss)]
        return weighted("vid", self.settings.weight, torch.stack(losses).sum())
