"""Neuron selectivity transfer (Huang, Wang: "Like what you like: knowledge distill via neuron selectivity transfer",
2017, arXiv 1707.01219)."""

from dataclasses import dataclass

import torch
from torch import nn

from fastkd.data.base import Batch
from fastkd.losses.features import channel_discrepancy
from fastkd.methods.base import Context, Method, MethodLoss, up_to_block, weighted
from fastkd.methods.maps import blocks_left_out
from fastkd.networks.base import Network, Output
from fastkd.support.plain import Checked
from fastkd.support.ranges import Weight


@dataclass(frozen=True, kw_only=True)
class NSTSettings(Checked):
    """weight · sum over the blocks of the maximum mean discrepancy between both networks' channels."""

    weight: Weight = 50.0
    """The default of RepDistiller and mdistiller."""


class NST(Method):
    """The kernel is the polynomial (x·y)², as in the published codes. They sum it over a [B,C,C',H·W] tensor; here it
    takes batched matrix products."""

    Settings = NSTSettings
    about = "distributions of activations"
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
        losses = [channel_discrepancy(s, t) for s, t in pairs]
        return weighted("nst", self.settings.weight, torch.stack(losses).sum())
