"""Neuron selectivity transfer (Huang, Wang: "Like what you like: knowledge distill via neuron selectivity transfer",
2017, arXiv 1707.01219)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastkd.data.base import Batch
from fastkd.methods.base import Context, Method, MethodLoss, up_to_block, weighted
from fastkd.methods.maps import blocks_left_out, to_smaller
from fastkd.methods.precision import full_precision
from fastkd.networks.base import Network, Output


@dataclass(frozen=True, kw_only=True)
class NSTSettings:
    """weight · sum over the blocks of the maximum mean discrepancy between both networks' channels."""

    weight: float = 50.0
    """The default of RepDistiller and mdistiller."""


class NST(Method):
    """The kernel is the polynomial (x·y)², as in the published codes. They sum it over a [B,C,C',H·W] tensor; here it
    takes batched matrix products."""

    Settings = NSTSettings
    teachers_needed = (1, 1)

    def __init__(self, settings: NSTSettings, context: Context):
        super().__init__(settings, context)
        counts = len(context.student_shapes.features), len(context.teacher_shapes[0].features)
        self.pairs = min(counts)
        self.notes += blocks_left_out("nst", *counts)

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        return up_to_block(student, self.pairs)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        pairs = zip(student.features, teachers[0].features, strict=False)  # the notes name the blocks that are left out
        losses = [self.discrepancy(s, t) for s, t in pairs]
        return weighted("nst", self.settings.weight, torch.stack(losses).sum())

    @staticmethod
    @full_precision
    def discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
        """The squared discrepancy of two maps' channels.

        The teacher's own term is a constant; with it the value is that of the published codes.
        """
        student, teacher = (F.normalize(x.flatten(2), dim=2) for x in to_smaller(student, teacher))
        constant = mean_kernel(teacher.detach(), teacher.detach())
        return constant + mean_kernel(student, student) - 2 * mean_kernel(student, teacher)


def mean_kernel(x_BCP: Tensor, y_BDP: Tensor) -> Tensor:
    """The mean of (x·y)² over all pairs of channels within a sample."""
    return (x_BCP @ y_BDP.mT).square().mean()
