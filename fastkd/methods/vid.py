"""Variational information distillation (Ahn, Hu, Damianou, Lawrence, Dai: "Variational information distillation for
knowledge transfer", CVPR 2019, arXiv 1904.05835)."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from fastkd.data.base import Batch
from fastkd.losses.maps import to_smaller
from fastkd.losses.precision import full_precision
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


class Likelihood(nn.Module):
    """The negative log-likelihood of one teacher map; its variance is softplus(log_scale) + least_variance."""

    def __init__(self, student_channels: int, teacher_channels: int, settings: VIDSettings):
        super().__init__()
        self.regressor = nn.Sequential(
            nn.Conv2d(student_channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
        )
        initial = math.log(math.expm1(settings.initial_variance - settings.least_variance))
        self.log_scale = nn.Parameter(torch.full((teacher_channels,), initial))
        self.least_variance = settings.least_variance

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = to_smaller(student, teacher)
        return negative_log_likelihood(self.regressor(student), teacher, self.log_scale, self.least_variance)


@full_precision
def negative_log_likelihood(mean: Tensor, target: Tensor, log_scale: Tensor, least_variance: float) -> Tensor:
    """The mean over all elements, without the constant log(2π) / 2."""
    # Softplus by its definition, because torch's own is linear from 20 on.
    variance = (torch.logaddexp(log_scale, torch.zeros_like(log_scale)) + least_variance)[:, None, None]
    return 0.5 * ((mean - target).square() / variance + variance.log()).mean()


class VID(Method):
    Settings = VIDSettings
    about = "mutual information of features"
    teachers_needed = (1, 1)

    def __init__(self, settings: VIDSettings, context: Context):
        super().__init__(settings, context)
        student, teacher = context.student_shapes.features, context.teacher_shapes[0].features
        self.notes += blocks_left_out("vid", len(student), len(teacher))
        self.blocks = nn.ModuleList(
            Likelihood(s.shape[1], t.shape[1], settings) for s, t in zip(student, teacher, strict=False)
        )

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        return up_to_block(student, len(self.blocks))

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        pairs = zip(self.blocks, student.features, teachers[0].features, strict=False)
        losses = [likelihood(s, t) for likelihood, s, t in pairs]
        return weighted("vid", self.settings.weight, torch.stack(losses).sum())
