"""The projector in distillation (SRD; Miles, Mikolajczyk: "Understanding the role of the projector in knowledge
distillation", AAAI 2024, arXiv 2303.11098).

ResNet34 → ResNet18 on ImageNet: 71.87 (authors' README), with `--method kd+srd`: KL at temperature 1, all weights 1 but
2 for this loss. Two losses have this name in the authors' code: see `form`.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from torch import nn

from fastkd.data.base import Batch
from fastkd.losses.projected import SRDLoss
from fastkd.methods.base import Context, Method, MethodLoss, up_to_embedding, weighted
from fastkd.networks.base import Network, Output
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import Weight


@dataclass(frozen=True, kw_only=True)
class SRDSettings(Checked):
    """weight · log Σ |difference|^4 of the projected embedding from the teacher's, both normalised over the batch."""

    weight: Weight = 2.0
    """The authors' for convolutional networks on ImageNet (1 for the form "correlations")."""
    form: Annotated[Literal["differences", "correlations"], OnlyWith("weight")] = "differences"
    """What is taken to the fourth power. differences: that of every entry (the authors' ImageNet code); correlations: 1
    less each feature's correlation (their code for DeiT)."""


class SRD(Method):
    """The logarithm makes the gradient independent of the loss's size; a batch has at least two samples."""

    Settings = SRDSettings
    about = "the embedding, normalised"
    relates_samples = True
    teachers_needed = (1, 1)
    reads = ("embedding",)

    def __init__(self, settings: SRDSettings, context: Context):
        super().__init__(settings, context)
        widths = context.student_shapes.embedding.shape[1], context.teacher_shapes[0].embedding.shape[1]
        self.loss = SRDLoss(*widths, form=settings.form)

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        return up_to_embedding(student)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        return weighted("srd", self.settings.weight, self.loss(student.embedding, teachers[0].embedding))
