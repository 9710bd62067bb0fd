"""Similarity-preserving distillation (Tung, Mori: "Similarity-preserving knowledge distillation", ICCV 2019,
arXiv 1907.09682)."""

from dataclasses import dataclass

from torch import nn

from fastkd.data.base import Batch
from fastkd.losses.relations import similarity_distance
from fastkd.methods.base import Method, MethodLoss, up_to_block, weighted
from fastkd.networks.base import Network, Output
from fastkd.support.plain import Checked
from fastkd.support.ranges import Weight


@dataclass(frozen=True, kw_only=True)
class SPSettings(Checked):
    """weight · squared distance of the batch's similarity matrices, each row of length 1, divided by B²."""

    weight: Weight = 3000.0
    """The default of RepDistiller, SimKD and mdistiller, for 64 samples a batch: with the divisor it depends on B."""


class SP(Method):
    """Compares the last features (of a WRN the raw sum). Each process compares the samples of its own batch."""

    Settings = SPSettings
    about = "similarities inside a batch"
    relates_samples = True
    teachers_needed = (1, 1)

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        return up_to_block(student)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        return weighted("sp", self.settings.weight, similarity_distance(student.features[-1], teachers[0].features[-1]))
