"""Attention transfer (Zagoruyko, Komodakis: "Paying more attention to attention", ICLR 2017, arXiv 1612.03928)."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import nn

from fastkd.data.base import Batch
from fastkd.losses.features import Power, attention_distance
from fastkd.methods.base import Context, Method, MethodLoss, up_to_block, weighted
from fastkd.methods.maps import blocks_left_out
from fastkd.networks.base import Network, Output
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import Weight


@dataclass(frozen=True, kw_only=True)
class ATSettings(Checked):
    """weight · sum over the blocks of the distance between both networks' attention maps."""

    weight: Weight = 1000.0
    """The default is for the form "squared", in which RepDistiller, SimKD and mdistiller publish it."""
    power: Annotated[Power, OnlyWith("weight")] = 2
    """p: the map is the channels' mean of |F|^p."""
    form: Annotated[Literal["squared", "norm"], OnlyWith("weight")] = "squared"
    """squared: mean over all pixels of the squared difference (RepDistiller and its family); norm: the L2 norm of the
    difference, mean over the samples (the paper)."""


class AT(Method):
    Settings = ATSettings
    about = "attention maps"
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
        distances = [attention_distance(*pair, self.settings.power, self.settings.form) for pair in pairs]
        return weighted("at", self.settings.weight, torch.stack(distances).sum())
