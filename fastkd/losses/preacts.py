"""Losses between what two networks have in front of their last activations, on plain tensors [B,C,H,W].

The student's come behind connectors, in the teacher's shape. Of several pairs of maps the last has weight 1, each one
before it half of the next's. Arithmetic is in float32 at least. Weights are the caller's.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastkd.losses.checks import check_pairs
from fastkd.losses.module import TensorLoss
from fastkd.losses.precision import full_precision
from fastkd.support.ranges import NotNegative

LEAST_SHARE = 1e-3
"""Share of a channel's values that must be below 0 for their mean to be its margin, else -3 standard deviations."""
SCALE = 3 / 1000
"""Factor of AB's loss in the authors' code, beside 1/B."""


class OHLoss(TensorLoss):
    """Overhaul distillation (Heo, Kim, Yun, Park, Kwak, Choi: "A comprehensive overhaul of feature distillation", ICCV
    2019, arXiv 1904.01866): the partial L2 distance, summed over neurons, a mean over the samples."""

    def forward(
        self,
        student: Tensor | Sequence[Tensor],
        teacher: Tensor | Sequence[Tensor],
        margins: Tensor | Sequence[Tensor],
    ) -> Tensor:
        """student, teacher: a map each, or as many of the one as of the other; margins: [C] of each."""
        margins = [margins] if isinstance(margins, Tensor) else margins
        pairs = zip(check_pairs(student, teacher), margins, strict=True)
        return halved([partial_distance(s, t, at) for (s, t), at in pairs]) / _samples(student)

    @staticmethod
    def margin(norm: nn.BatchNorm2d) -> Tensor:
        """[C]: the margin of the preacts that come out of a BatchNorm."""
        return margin(norm)


class ABLoss(TensorLoss):
    """Activation boundaries (Heo, Lee, Yun, Choi: "Knowledge transfer via distillation of activation boundaries formed
    by hidden neurons", AAAI 2019, arXiv 1811.03233): how far the student's neurons are from the teacher's side of zero,
    by a margin, squared; summed over neurons, a mean over the samples, times 3 / 1000."""

    def __init__(self, *, margin: NotNegative = 1.0):
        super().__init__(margin=margin)
        self.margin = margin

    def forward(self, student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor]) -> Tensor:
        """student, teacher: a map each, or as many of the one as of the other."""
        each = [boundary_loss(s, t, self.margin) for s, t in check_pairs(student, teacher)]
        return SCALE * halved(each) / _samples(student)


def halved(losses: Sequence[Tensor]) -> Tensor:
    """The sum, the last with weight 1 and each one before it with half of the next's."""
    last = len(losses) - 1
    return torch.stack([loss * 2.0 ** (place - last) for place, loss in enumerate(losses)]).sum()


def _samples(maps: Tensor | Sequence[Tensor]) -> int:
    return len(maps) if isinstance(maps, Tensor) else len(maps[0])


@full_precision
def partial_distance(student: Tensor, teacher: Tensor, margin_C: Tensor) -> Tensor:
    """The squared distance, but 0 where the teacher is off and the student lower still."""
    target = torch.maximum(teacher.detach(), margin_C[:, None, None])
    counts = (student > target) | (target > 0)
    return torch.where(counts, student - target, 0.0).square().sum()


@torch.no_grad()
def margin(norm: nn.BatchNorm2d) -> Tensor:
    """[C]: E[x | x < 0] of a normal x with the BatchNorm's bias as mean and its weight as standard deviation.

    The authors' fallback is -3 s, not mean - 3 s. A weight of zero, where they divide by it, gives the limit.
    """
    deviation = norm.weight.abs().double().clamp(min=1e-30)
    place = norm.bias.double() / deviation
    share = torch.special.ndtr(-place)
    density = (-place.square() / 2).exp() / math.sqrt(2 * math.pi)
    below = norm.bias.double() - deviation * density / share
    return torch.where(share > LEAST_SHARE, below, -3 * deviation).to(torch.float32)


@full_precision
def boundary_loss(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """The sum over all neurons; a neuron that is beyond the margin on the teacher's side adds nothing."""
    off = (student + margin).clamp(min=0).square()
    on = (margin - student).clamp(min=0).square()
    return torch.where(teacher > 0, on, off).sum()
