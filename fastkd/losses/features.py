"""Losses between the feature maps of two networks, on plain tensors [B,C,H,W].

Where the heights differ, the larger map is pooled to the smaller one, as the published codes do. Arithmetic is in
float32 at least. Weights are the caller's.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fastkd.losses.checks import check_choice, check_pairs
from fastkd.losses.maps import to_smaller
from fastkd.losses.module import TensorLoss
from fastkd.losses.precision import full_precision
from fastkd.support.pooling import pooled_to
from fastkd.support.ranges import whole

Power = Annotated[int, whole(1, 16)]
"""The power of AT, of what a channel says at a place."""
Resolution = Annotated[int, whole(1, 1_000)]
"""The side that CAT pools its maps to."""
LEVELS = (4, 2, 1)
"""Sides of the pooled maps that HCL compares beside the full one."""
LEAST_NORM = 1e-12
"""Least length that a class's map is divided by, as in CAT-KD's code: a map of zeros has a gradient of 1e12."""


class FitNetLoss(TensorLoss):
    """The mean squared error of a student's map, already of the teacher's shape, and the teacher's (Romero et al.:
    "FitNets: hints for thin deep nets", ICLR 2015, arXiv 1412.6550)."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return mean_squared_error(student, teacher.detach())


class ATLoss(TensorLoss):
    """Attention transfer (Zagoruyko, Komodakis: "Paying more attention to attention", ICLR 2017, arXiv 1612.03928).

    The sum over pairs of maps of the distance of their attention maps, the channels' mean of |F|^power at length 1.

    form: "squared", the mean over all pixels of the squared difference (RepDistiller's code); "norm", the L2 norm of
        the difference, mean over the samples (the paper).
    """

    def __init__(self, *, power: Power = 2, form: Literal["squared", "norm"] = "squared"):
        check_choice("form", form, ("squared", "norm"))
        super().__init__(power=power)
        self.power, self.form = power, form

    def forward(self, student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor]) -> Tensor:
        """student, teacher: a map each, or as many of the one as of the other."""
        pairs = check_pairs(student, teacher)
        return torch.stack([attention_distance(s, t.detach(), self.power, self.form) for s, t in pairs]).sum()


class NSTLoss(TensorLoss):
    """Neuron selectivity transfer (Huang, Wang: "Like what you like", 2017, arXiv 1707.01219).

    The sum over pairs of maps of the squared maximum mean discrepancy of their channels, by the kernel (x·y)².
    """

    def forward(self, student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor]) -> Tensor:
        """student, teacher: a map each, or as many of the one as of the other."""
        return torch.stack([channel_discrepancy(s, t.detach()) for s, t in check_pairs(student, teacher)]).sum()


class FSPLoss(TensorLoss):
    """Flow of solution procedure (Yim et al.: "A gift from knowledge distillation", CVPR 2017).

    The mean squared error of both networks' FSP matrices, between two maps each.
    """

    def forward(self, student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
        """student, teacher: a map and a later one; the channels of both networks agree."""
        return flow_distance(*student, *(x.detach() for x in teacher))


class HCLLoss(TensorLoss):
    """The hierarchical context loss of ReviewKD (Chen et al.: "Distilling knowledge via knowledge review", CVPR 2021,
    arXiv 2104.09044) between two maps of one shape."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return hierarchical_distance(student, teacher.detach())


class FTLoss(TensorLoss):
    """Factor transfer (Kim, Park, Kwak: "Paraphrasing complex network: network compression via factor transfer",
    NeurIPS 2018, arXiv 1802.04977): the mean absolute difference of both networks' factors, at length 1.

    A factor is a map behind the student's translator, and behind the teacher's trained paraphraser.

    form: "attention", the channels' mean square of each factor is compared (RepDistiller's code); "factor", the whole
        factor, as in the paper (its p is 1).
    """

    def __init__(self, *, form: Literal["attention", "factor"] = "attention"):
        check_choice("form", form, ("attention", "factor"))
        super().__init__()
        self.form = form

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return factor_distance(student, teacher.detach(), self.form)


class CATLoss(TensorLoss):
    """Class attention transfer (Guo et al.: "Class attention transfer based knowledge distillation", CVPR 2023).

    The mean squared difference of both networks' class activation maps [B,K,H,W], pooled to `resolution` and, unless
    `normalise` is off, divided by their length. binary: the teacher's map becomes 1 where it is above the mean of its
    absolute values, else 0.
    """

    def __init__(self, *, resolution: Resolution = 2, normalise: bool = True, binary: bool = False):
        super().__init__(resolution=resolution)
        self.resolution, self.normalise, self.binary = resolution, normalise, binary

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        target = attended(teacher.detach()) if self.binary else teacher.detach()
        return class_map_distance(student, target, self.resolution, normalise=self.normalise)


@full_precision
def mean_squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean over all elements."""
    return F.mse_loss(student, teacher)


@full_precision
def attention_distance(student: Tensor, teacher: Tensor, power: int, form: str) -> Tensor:
    student, teacher = to_smaller(student, teacher)
    difference = attention(student, power) - attention(teacher, power)
    return difference.square().mean() if form == "squared" else difference.norm(dim=1).mean()


def attention(map_BCHW: Tensor, power: int) -> Tensor:
    """[B,H·W]: where a network looks; each row has length 1."""
    strength = map_BCHW.abs() if power % 2 else map_BCHW
    return F.normalize(strength.pow(power).mean(1).flatten(1))


@full_precision
def channel_discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    """The squared discrepancy of two maps' channels.

    The teacher's own term is a constant; with it the value is that of the published codes.
    """
    student, teacher = (F.normalize(x.flatten(2), dim=2) for x in to_smaller(student, teacher))
    constant = mean_kernel(teacher.detach(), teacher.detach())
    return constant + mean_kernel(student, student) - 2 * mean_kernel(student, teacher)


def mean_kernel(x_BCP: Tensor, y_BDP: Tensor) -> Tensor:
    """The mean of (x·y)² over all pairs of channels within a sample."""
    return (x_BCP @ y_BDP.mT).square().mean()


@full_precision
def flow_distance(student: Tensor, student_next: Tensor, teacher: Tensor, teacher_next: Tensor) -> Tensor:
    return F.mse_loss(flow(student, student_next), flow(teacher, teacher_next))


def flow(bottom_BCHW: Tensor, top_BDHW: Tensor) -> Tensor:
    """[B,D,C]: the mean over positions of top · bottom, for each pair of channels; one batched matrix product."""
    bottom, top = to_smaller(bottom_BCHW, top_BDHW)
    return top.flatten(2) @ bottom.flatten(2).mT / (top.shape[2] * top.shape[3])


@full_precision
def hierarchical_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """HCL (Fig. 3c): mean squared errors of the maps and of their pooled versions, weights 1, 1/2, 1/4 …, averaged."""
    loss, total, weight = F.mse_loss(student, teacher), 1.0, 1.0
    for side in LEVELS:
        if side < student.shape[2]:
            weight /= 2
            total += weight
            pooled, goal = (pooled_to(x, (side, side)) for x in (student, teacher))
            loss = loss + weight * F.mse_loss(pooled, goal)
    return loss / total


@full_precision
def factor_distance(student: Tensor, teacher: Tensor, form: str) -> Tensor:
    student, teacher = to_smaller(student, teacher)
    if form == "attention":
        return F.l1_loss(attention(student, 2), attention(teacher, 2))
    return F.l1_loss(F.normalize(student.flatten(1)), F.normalize(teacher.flatten(1)))


@full_precision
def attended(map_BKHW: Tensor) -> Tensor:
    """1 where a class's map is above the mean of its absolute values, else 0."""
    return (map_BKHW > map_BKHW.abs().mean((2, 3), keepdim=True)).to(map_BKHW.dtype)


@full_precision
def class_map_distance(student_BKHW: Tensor, teacher_BKHW: Tensor, resolution: int, *, normalise: bool) -> Tensor:
    student, teacher = (pooled_to(x, (resolution, resolution)).flatten(2) for x in (student_BKHW, teacher_BKHW))
    if normalise:
        student, teacher = (F.normalize(x, dim=2, eps=LEAST_NORM) for x in (student, teacher))
    return F.mse_loss(student, teacher)
