"""Overhaul distillation (Heo, Kim, Yun, Park, Kwak, Choi: "A comprehensive overhaul of feature distillation", ICCV
2019, arXiv 1904.01866), OH in the SFTN paper."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from fastkd.data.base import Batch
from fastkd.losses.preacts import OHLoss, margin
from fastkd.methods.base import Context, Method, MethodLoss, up_to_embedding, weighted
from fastkd.methods.maps import blocks_left_out
from fastkd.networks.base import Network, Output
from fastkd.support.errors import UserError
from fastkd.support.plain import Checked
from fastkd.support.pooling import pooled_to
from fastkd.support.ranges import Weight


@dataclass(frozen=True, kw_only=True)
class OHSettings(Checked):
    """weight · partial L2 distance of the preacts, summed over neurons, mean over the batch.

    The last block has weight 1, each one before it half of the next's.
    """

    weight: Weight = 1e-3
    """The default of the authors' code on CIFAR-100, and of mdistiller (1e-4 on ImageNet)."""
    teacher_norm: Literal["running", "batch"] = "running"
    """batch: the teacher normalises by the statistics of each batch, as in the authors' code, where it is in training
    mode; its buffers stay as they are either way."""


class OH(Method):
    """The teacher's preacts are cut off at a margin below zero, the mean of what its BatchNorm puts there.

    This BatchNorm sees the residual path only, so in a ResNet the margin is an approximation, the authors' own. Blocks
    are paired from the last, and a larger teacher map is pooled (mdistiller).
    """

    Settings = OHSettings
    about = "features with a margin (overhaul)"
    needs_preacts = True
    teachers_needed = (1, 1)

    def __init__(self, settings: OHSettings, context: Context):
        super().__init__(settings, context)
        self.loss = OHLoss()
        self.teacher_norm = settings.teacher_norm
        # Preacts have the shapes of the features.
        student, teacher = context.student_shapes.features, context.teacher_shapes[0].features
        self.count = min(len(student), len(teacher))
        self.notes += blocks_left_out("oh", len(student), len(teacher), kept="last")
        norms = context.teachers[0].preact_norms[-self.count :]
        margins = [margin(norm) for norm in norms if norm is not None]
        if len(margins) < self.count:
            raise UserError("oh: this teacher has no BatchNorm in front of its preacts, from which margins are read")
        self.connectors = nn.ModuleList(
            _connector(s.shape[1], t.shape[1])
            for s, t in zip(student[-self.count :], teacher[-self.count :], strict=True)
        )
        for place, values in enumerate(margins):
            self.register_buffer(f"margin_{place}", values, persistent=False)  # read from the teacher anew

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        return up_to_embedding(student)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        return weighted("oh", self.settings.weight, self.loss(*self.connected(student, teachers[0]), self.margins))

    @property
    def margins(self) -> list[Tensor]:
        return [getattr(self, f"margin_{place}") for place in range(self.count)]

    def connected(self, student: Output, teacher: Output) -> tuple[list[Tensor], list[Tensor]]:
        """The last preacts of both, in the teacher's channels and the student's size."""
        assert student.preacts is not None and teacher.preacts is not None
        source = [connector(s) for connector, s in zip(self.connectors, student.preacts[-self.count :], strict=True)]
        target = [pooled_to(t, s.shape[2:]) for s, t in zip(source, teacher.preacts[-self.count :], strict=True)]
        return source, target


def _connector(channels_in: int, channels_out: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, 1, bias=False)
    nn.init.normal_(convolution.weight, std=math.sqrt(2 / channels_out))
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out))
