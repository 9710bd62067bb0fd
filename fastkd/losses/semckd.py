"""Semantic calibration (Chen et al.: "Cross-layer distillation with semantic calibration", AAAI 2021,
arXiv 2012.03236)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastkd.losses.maps import to_smaller
from fastkd.losses.module import TensorLoss
from fastkd.losses.precision import full_precision
from fastkd.support.ranges import Images, Positive, Width


class SemCKDLoss(TensorLoss):
    """The mean over student maps of Σ_t attention · MSE(projected student map, teacher map t), and over the samples.

    Which teacher map a student map learns from is learned for each sample, from its similarities to all others of the
    batch: the embeddings' width is `batch_size`, which therefore is fixed. Parameters are for your optimiser. The
    embeddings of the authors' code carry some that nothing uses; they are left out.

    student_channels, teacher_channels: those of the maps, in order.
    softness: divides the products of queries and keys.
    factor: queries and keys have batch_size / factor dimensions, one at least.
    """

    def __init__(
        self,
        student_channels: Sequence[int],
        teacher_channels: Sequence[int],
        batch_size: Images,
        *,
        softness: Positive = 1.0,
        factor: Width = 4,
    ):
        super().__init__(batch_size=batch_size, softness=softness, factor=factor)
        self.batch_size, self.softness = batch_size, softness
        width = batch_size // factor
        if width < 1:
            raise ValueError(f"batch_size is at least factor, {factor}, got {batch_size}")
        self.queries = nn.ModuleList(_embedding(batch_size, width) for _ in student_channels)
        self.keys = nn.ModuleList(_embedding(batch_size, width) for _ in teacher_channels)
        self.projectors = nn.ModuleList(
            nn.ModuleList(_projector(s, t) for t in teacher_channels) for s in student_channels
        )

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """student, teacher: maps [B,C,H,W]; of each pair the larger one is pooled to the smaller one's size."""
        return self.of(student, [x.detach() for x in teacher])

    def of(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """The same, with a gradient to the teacher's maps."""
        if len(student[0]) != self.batch_size:
            raise ValueError(f"every batch has {self.batch_size} samples, got {len(student[0])}")
        distances = self.distances(student, teacher)
        return (self.attention(student, teacher) * distances).sum((1, 2)).mean() / len(student)

    def attention(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """[B,S,T]: how much student map s learns from teacher map t; sums to 1 over t."""
        queries = torch.stack([embed(similarities(x)) for embed, x in zip(self.queries, student, strict=True)], 1)
        keys = torch.stack([embed(similarities(x)) for embed, x in zip(self.keys, teacher, strict=True)], 1)
        return attention(queries, keys, self.softness)

    def distances(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """[B,S,T]: the mean squared distance of projected student map s and teacher map t, for each sample."""
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
