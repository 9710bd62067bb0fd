"""Orthogonal projections (Miles, Elezi, Deng: "VkD: improving knowledge distillation using orthogonal projections",
CVPR 2024, arXiv 2403.06213)."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from fastkd.data.base import Batch
from fastkd.losses.projected import VkDLoss
from fastkd.methods.base import Context, Method, MethodLoss, up_to_embedding, weighted
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
        self.loss = VkDLoss(*(shape.shape[1] for shape in shapes), form=settings.form)

    @classmethod
    def relates(cls, settings: VkDSettings) -> bool:
        return settings.form == "places"

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        return up_to_embedding(student)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        if self.settings.form == "places":
            distance = self.loss(student.final_map, teachers[0].final_map)
        else:
            distance = self.loss(student.embedding, teachers[0].embedding)
        return weighted("vkd", self.settings.weight, distance)
