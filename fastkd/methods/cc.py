"""Correlation congruence (Peng et al.: "Correlation congruence for knowledge distillation", ICCV 2019,
arXiv 1904.01802), in both published forms.

They have little in common. "neighbours" is what RepDistiller computes and publishes as CC: the products of how far
student and teacher are apart at neighbouring samples of the batch, in a learned space; it depends on their order, and a
space of one point would be a minimum of it. "kernel" is the paper: the batch's correlation matrices under a Gaussian
kernel, by its Taylor series.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from torch import nn

from fastkd.data.base import Batch
from fastkd.losses.relations import Order, kernel_distance, neighbour_products
from fastkd.methods.base import Context, Method, MethodLoss, up_to_embedding, weighted
from fastkd.networks.base import Network, Output
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import Positive, Weight, Width


@dataclass(frozen=True, kw_only=True)
class CCSettings(Checked):
    """weight · CC on the embeddings."""

    weight: Weight = 0.02
    """The default is RepDistiller's, for the form "neighbours"."""
    form: Literal["neighbours", "kernel"] = "neighbours"
    """neighbours: RepDistiller's code; kernel: the paper."""
    embed_dim: Annotated[Width, OnlyWith("form", "neighbours")] = 128
    """Dimensions of the space that both embeddings are mapped to, in the form "neighbours"."""
    gamma: Annotated[Positive, OnlyWith("weight"), OnlyWith("form", "kernel")] = 0.4
    """γ of the kernel exp(-γ ‖x - y‖²)."""
    order: Annotated[Order, OnlyWith("weight"), OnlyWith("form", "kernel")] = 2
    """Order of the kernel's Taylor series."""


class CC(Method):
    """In the form "neighbours" the maps of both embeddings are trained, the teacher's too.

    Each process compares the samples of its own batch.
    """

    Settings = CCSettings
    about = "correlations between samples"
    relates_samples = True
    teachers_needed = (1, 1)
    reads = ("embedding",)

    def __init__(self, settings: CCSettings, context: Context):
        super().__init__(settings, context)
        if settings.form == "neighbours":
            student, teacher = context.student_shapes.embedding, context.teacher_shapes[0].embedding
            self.embed_student = nn.Linear(student.shape[1], settings.embed_dim)
            self.embed_teacher = nn.Linear(teacher.shape[1], settings.embed_dim)

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        return up_to_embedding(student)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        x, y = student.embedding, teachers[0].embedding
        if self.settings.form == "neighbours":
            loss = neighbour_products(self.embed_student(x), self.embed_teacher(y))
        else:
            loss = kernel_distance(x, y, self.settings.gamma, self.settings.order)
        return weighted("cc", self.settings.weight, loss)
