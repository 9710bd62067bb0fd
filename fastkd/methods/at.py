"""Attention transfer (Zagoruyko, Komodakis: "Paying more attention to attention", ICLR 2017, arXiv 1612.03928)."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastkd.data.base import Batch
from fastkd.methods.base import Context, Method, MethodLoss, at_least, up_to_block, weighted
from fastkd.methods.maps import blocks_left_out, to_smaller
from fastkd.methods.precision import full_precision
from fastkd.networks.base import Network, Output


@dataclass(frozen=True, kw_only=True)
class ATSettings:
    """weight · sum over the blocks of the distance between both networks' attention maps."""

    weight: float = 1000.0
    """The default is for the form "squared", in which RepDistiller, SimKD and mdistiller publish it."""
    power: int = 2
    """p: the map is the channels' mean of |F|^p."""
    form: Literal["squared", "norm"] = "squared"
    """squared: mean over all pixels of the squared difference (RepDistiller and its family); norm: the L2 norm of the
    difference, mean over the samples (the paper)."""

    def __post_init__(self) -> None:
        at_least("at", 1, power=self.power)


class AT(Method):
    Settings = ATSettings
    teachers_needed = (1, 1)

    def __init__(self, settings: ATSettings, context: Context):
        super().__init__(settings, context)
        counts = len(context.student_shapes.features), len(context.teacher_shapes[0].features)
        self.pairs = min(counts)
        self.notes += blocks_left_out("at", *counts)

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        return up_to_block(student, self.pairs)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        pairs = zip(student.features, teachers[0].features, strict=False)  # the notes name the blocks that are left out
        distances = [self.distance(*pair, self.settings.power, self.settings.form) for pair in pairs]
        return weighted("at", self.settings.weight, torch.stack(distances).sum())

    @staticmethod
    @full_precision
    def distance(student: Tensor, teacher: Tensor, power: int, form: str) -> Tensor:
        student, teacher = to_smaller(student, teacher)
        difference = attention(student, power) - attention(teacher, power)
        return difference.square().mean() if form == "squared" else difference.norm(dim=1).mean()


def attention(map_BCHW: Tensor, power: int) -> Tensor:
    """[B,H·W]: where a network looks; each row has length 1."""
    strength = map_BCHW.abs() if power % 2 else map_BCHW
    return F.normalize(strength.pow(power).mean(1).flatten(1))
