"""Similarity-preserving distillation (Tung, Mori: "Similarity-preserving knowledge distillation", ICCV 2019,
arXiv 1907.09682)."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from fastkd.data.base import Batch
from fastkd.methods.base import Method, MethodLoss, up_to_block, weighted
from fastkd.methods.precision import full_precision
from fastkd.networks.base import Network, Output


@dataclass(frozen=True, kw_only=True)
class SPSettings:
    """weight · squared distance of the batch's similarity matrices, each row of length 1, divided by B²."""

    weight: float = 3000.0
    """The default of RepDistiller, SimKD and mdistiller, for 64 samples a batch: with the divisor it depends on B."""


class SP(Method):
    """Compares the last features (of a WRN the raw sum). Each process compares the samples of its own batch."""

    Settings = SPSettings
    teachers_needed = (1, 1)

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        return up_to_block(student)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        return weighted("sp", self.settings.weight, self.distance(student.features[-1], teachers[0].features[-1]))

    @staticmethod
    @full_precision
    def distance(student: Tensor, teacher: Tensor) -> Tensor:
        return (similarities(teacher) - similarities(student)).square().mean()


def similarities(feature: Tensor) -> Tensor:
    """[B,B]: inner products of the samples; each row has length 1, not the whole matrix."""
    rows = feature.flatten(1)
    return F.normalize(rows @ rows.T)
