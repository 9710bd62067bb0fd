"""Orthogonal projections (Miles, Elezi, Deng: "VkD: improving knowledge distillation using orthogonal projections",
CVPR 2024, arXiv 2403.06213)."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastkd.data.base import Batch
from fastkd.losses.maps import rows_of, to_smaller
from fastkd.losses.precision import full_precision
from fastkd.methods.base import Context, Method, MethodLoss, up_to_embedding, weighted
from fastkd.methods.projectors import OrthogonalProjector
from fastkd.networks.base import Network, Output
from fastkd.support.plain import Checked
from fastkd.support.ranges import Weight


@dataclass(frozen=True, kw_only=True)
class VkDSettings(Checked):
    """weight · smooth L1 distance of the projected embedding from the teacher's, normalised over its channels.

    The paper's image classifiers have it beside CE and KL at temperature 1, all with weight 1 (`--method kd+vkd`).
    """

    weight: Weight = 1.0
    form: Literal["embedding", "places"] = "embedding"
    """places: every place of the last map is a sample, scaled and shifted after the projection, and both sides are
    normalised over all samples in each feature (the authors' code for detectors)."""


class VkD(Method):
    """The paper's whitening of the teacher for generators is not in the released code, nor here."""

    Settings = VkDSettings
    about = "features, projected orthogonally"
    teachers_needed = (1, 1)

    def __init__(self, settings: VkDSettings, context: Context):
        super().__init__(settings, context)
        student, teacher = context.student_shapes, context.teacher_shapes[0]
        shapes = (student.embedding, teacher.embedding)
        if settings.form == "places":
            shapes = student.final_map, teacher.final_map
            self.scale = nn.Parameter(torch.ones(shapes[1].shape[1]))
            self.bias = nn.Parameter(torch.zeros(shapes[1].shape[1]))
        self.projector = OrthogonalProjector(*(shape.shape[1] for shape in shapes))

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        return up_to_embedding(student)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        if self.settings.form == "places":
            source, target = (rows_of(maps) for maps in to_smaller(student.final_map, teachers[0].final_map))
            distance = standardised_distance(self.scale * self.projector(source) + self.bias, target)
        else:
            target = self.projector.target(teachers[0].embedding)
            distance = smooth_distance(self.projector(student.embedding), target)
        return weighted("vkd", self.settings.weight, distance)


@full_precision
def smooth_distance(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    return F.smooth_l1_loss(student_BD, teacher_BD)


@full_precision
def standardised_distance(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """The same of each feature less its mean, divided by its deviation over the samples (divisor N − 1, no epsilon)."""
    student, teacher = ((x - x.mean(0)) / x.std(0) for x in (student_ND, teacher_ND))
    return F.smooth_l1_loss(student, teacher)
