"""Variational information distillation (Ahn, Hu, Damianou, Lawrence, Dai: "Variational information distillation for
knowledge transfer", CVPR 2019, arXiv 1904.05835): the likelihood of a teacher's map, given a student's."""

import math

import torch
from torch import Tensor, nn

from fastkd.losses.maps import to_smaller
from fastkd.losses.module import TensorLoss
from fastkd.losses.precision import full_precision
from fastkd.support.ranges import Positive, Width


class VIDLoss(TensorLoss):
    """The negative log-likelihood of a teacher's map, a mean over its elements, without the constant log(2π) / 2.

    It is a Gaussian whose mean is the student's map behind three 1x1 convolutions, and whose variance, one for each of
    the teacher's channels, is softplus(log_scale) + least_variance. Both are parameters, for your optimiser.
    """

    def __init__(
        self,
        student_channels: Width,
        teacher_channels: Width,
        *,
        initial_variance: Positive = 5.0,
        least_variance: Positive = 1e-5,
    ):
        """Raises ValueError unless initial_variance is above least_variance."""
        numbers = {"initial_variance": initial_variance, "least_variance": least_variance}
        super().__init__(student_channels=student_channels, teacher_channels=teacher_channels, **numbers)
        if not initial_variance > least_variance:
            raise ValueError(f"initial_variance is above least_variance {least_variance!r}, got {initial_variance!r}")
        self.regressor = nn.Sequential(
            nn.Conv2d(student_channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
        )
        initial = math.log(math.expm1(initial_variance - least_variance))
        self.log_scale = nn.Parameter(torch.full((teacher_channels,), initial))
        self.least_variance = least_variance

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """student, teacher: a map [B,C,H,W] each; the larger one is pooled to the smaller one's size."""
        return self.of(student, teacher.detach())

    def of(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The same, with a gradient to the teacher's map."""
        student, teacher = to_smaller(student, teacher)
        return negative_log_likelihood(self.regressor(student), teacher, self.log_scale, self.least_variance)


@full_precision
def negative_log_likelihood(mean: Tensor, target: Tensor, log_scale: Tensor, least_variance: float) -> Tensor:
    """The mean over all elements, without the constant log(2π) / 2."""
    # Softplus by its definition, because torch's own is linear from 20 on.
    variance = (torch.logaddexp(log_scale, torch.zeros_like(log_scale)) + least_variance)[:, None, None]
    return 0.5 * ((mean - target).square() / variance + variance.log()).mean()
