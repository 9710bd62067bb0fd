"""Losses of a student's features behind a projector that keeps what they say. Its parameters are for your optimiser.

Arithmetic is in float32 at least. Weights are the caller's; the samples compared are those of one process.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastkd.losses.checks import check_choice
from fastkd.losses.maps import rows_of, to_smaller
from fastkd.losses.module import TensorLoss
from fastkd.losses.precision import full_precision
from fastkd.losses.projectors import NormalisedProjector, OrthogonalProjector
from fastkd.support.ranges import Width

EPSILON = {"differences": 1e-4, "correlations": torch.finfo(torch.float32).tiny}
"""Added to the variances by SRD; none in the authors' code for DeiT, which PyTorch refuses."""
LOG_EPSILON = 1e-5
"""Added to the sum of the form "correlations" before its logarithm."""


class SRDLoss(TensorLoss):
    """The projector in distillation (SRD; Miles, Mikolajczyk: "Understanding the role of the projector in knowledge
    distillation", AAAI 2024, arXiv 2303.11098): log Σ |difference|^4 of embeddings normalised over the batch.

    form: what is taken to the fourth power. "differences": that of every entry (the authors' ImageNet code);
        "correlations": 1 less each feature's correlation (their code for DeiT).

    A batch has at least two samples.
    """

    def __init__(
        self, student_dim: Width, teacher_dim: Width, *, form: Literal["differences", "correlations"] = "differences"
    ):
        check_choice("form", form, tuple(EPSILON))
        super().__init__(student_dim=student_dim, teacher_dim=teacher_dim)
        self.form = form
        self.projector = NormalisedProjector(student_dim, teacher_dim, eps=EPSILON[form])

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """student, teacher: [B,D]."""
        loss = log_differences if self.form == "differences" else log_correlations
        return loss(self.projector(student), self.projector.target(teacher.detach()))


class VkDLoss(TensorLoss):
    """Orthogonal projections (Miles, Elezi, Deng: "VkD: improving knowledge distillation using orthogonal projections",
    CVPR 2024, arXiv 2403.06213): the smooth L1 distance of the projected features from the normalised teacher's.

    form: "embedding" [B,D], the teacher's normalised over its channels; "places", maps [B,C,H,W] of which every place
        is a sample, scaled and shifted behind the projection, and both sides normalised over all samples in each
        feature (the authors' code for detectors).
    """

    def __init__(self, student_dim: Width, teacher_dim: Width, *, form: Literal["embedding", "places"] = "embedding"):
        check_choice("form", form, ("embedding", "places"))
        super().__init__(student_dim=student_dim, teacher_dim=teacher_dim)
        self.form = form
        if form == "places":
            self.scale = nn.Parameter(torch.ones(teacher_dim))
            self.bias = nn.Parameter(torch.zeros(teacher_dim))
        self.projector = OrthogonalProjector(student_dim, teacher_dim)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """student, teacher: embeddings, or maps of which the larger one is pooled to the smaller one's size."""
        teacher = teacher.detach()
        if self.form == "embedding":
            return smooth_distance(self.projector(student), self.projector.target(teacher))
        source, target = (rows_of(maps) for maps in to_smaller(student, teacher))
        return standardised_distance(self.scale * self.projector(source) + self.bias, target)


@full_precision
def log_differences(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    return (student_BD - teacher_BD).pow(4).sum().log()


@full_precision
def log_correlations(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    correlations = (student_BD * teacher_BD).mean(0)
    return ((correlations - 1).pow(4).sum() + LOG_EPSILON).log()


@full_precision
def smooth_distance(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    return F.smooth_l1_loss(student_BD, teacher_BD)


@full_precision
def standardised_distance(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """The same of each feature less its mean, divided by its deviation over the samples (divisor N − 1, no epsilon)."""
    student, teacher = ((x - x.mean(0)) / x.std(0) for x in (student_ND, teacher_ND))
    return F.smooth_l1_loss(student, teacher)
