"""Semantic calibration (Chen et al.: "Cross-layer distillation with semantic calibration", AAAI 2021,
arXiv 2012.03236)."""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastkd.data.base import Batch
from fastkd.losses.maps import to_smaller
from fastkd.losses.precision import full_precision
from fastkd.methods.base import Context, Method, MethodLoss, up_to_block, weighted
from fastkd.networks.base import Network, Output
from fastkd.support.errors import UserError
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import Positive, Weight, Width


@dataclass(frozen=True, kw_only=True)
class SemCKDSettings(Checked):
    """weight · sum over all pairs of blocks of attention · MSE(projected student map, teacher map)."""

    weight: Weight = 400.0
    """The default of SimKD's code on CIFAR-100 (the authors': 50 on ImageNet)."""
    softness: Annotated[Positive, OnlyWith("weight")] = 1.0
    """Divides the products of queries and keys."""
    factor: Width = 4
    """Queries and keys have batch size / factor dimensions."""


class SemCKD(Method):
    """Which teacher block a student block learns from is learned for each sample, from its similarities to all others
    of the batch: the embeddings' width is the batch size, which therefore is fixed.

    The embeddings of the authors' code carry parameters that nothing uses; they are left out.
    """

    Settings = SemCKDSettings
    about = "features, matched by attention"
    teachers_needed = (1, 1)
    fixed_batch_size = True

    def __init__(self, settings: SemCKDSettings, context: Context):
        super().__init__(settings, context)
        self.batch_size = context.batch_size
        width = context.batch_size // settings.factor
        if width < 1:
            raise UserError(f"semckd: a batch has at least {settings.factor} samples, got {context.batch_size}")
        student = [shape.shape[1] for shape in context.student_shapes.features]
        teacher = [shape.shape[1] for shape in context.teacher_shapes[0].features]
        self.queries = nn.ModuleList(_embedding(context.batch_size, width) for _ in student)
        self.keys = nn.ModuleList(_embedding(context.batch_size, width) for _ in teacher)
        self.projectors = nn.ModuleList(nn.ModuleList(_projector(s, t) for t in teacher) for s in student)

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        return up_to_block(student)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        if len(batch.labels) != self.batch_size:
            raise UserError(
                f"semckd: every batch has {self.batch_size} samples, got {len(batch.labels)}: it needs --drop-last on"
            )
        distances = self.distances(student.features, teachers[0].features)
        loss = (self.attention(student.features, teachers[0].features) * distances).sum((1, 2)).mean()
        return weighted("semckd", self.settings.weight, loss / len(student.features))

    def attention(self, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> Tensor:
        """[B,S,T]: how much student block s learns from teacher block t; sums to 1 over t."""
        queries = torch.stack([embed(similarities(x)) for embed, x in zip(self.queries, student, strict=True)], 1)
        keys = torch.stack([embed(similarities(x)) for embed, x in zip(self.keys, teacher, strict=True)], 1)
        return attention(queries, keys, self.settings.softness)

    def distances(self, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> Tensor:
        """[B,S,T]: the mean squared distance of projected student block s and teacher block t, for each sample."""
        rows = []
        for projectors, s in zip(self.projectors, student, strict=True):
            assert isinstance(projectors, nn.ModuleList)
            pairs = [(projector, *to_smaller(s, t)) for projector, t in zip(projectors, teacher, strict=True)]
            rows.append(torch.stack([squared_distances(projector(x), y) for projector, x, y in pairs], 1))
        return torch.stack(rows, 1)


def _embedding(batch_size: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(batch_size, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))


def _projector(channels_in: int, channels_out: int) -> nn.Sequential:
    width = 2 * channels_out
    return nn.Sequential(
        nn.Conv2d(channels_in, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, channels_out, 1, bias=False),
    )


@full_precision
def similarities(x_BCHW: Tensor) -> Tensor:
    """[B,B] inner products of the samples; neither normalised nor detached, as in the authors' code."""
    rows = x_BCHW.flatten(1)
    return rows @ rows.T


@full_precision
def attention(queries_BSQ: Tensor, keys_BTQ: Tensor, softness: float) -> Tensor:
    products = F.normalize(queries_BSQ, dim=2) @ F.normalize(keys_BTQ, dim=2).mT
    return (products / softness).softmax(2)


@full_precision
def squared_distances(student_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """[B]: the mean over channels and positions."""
    return (student_BCHW - teacher_BCHW).square().mean((1, 2, 3))
