"""Softmax regression representation learning (Yang, Martinez, Bulat, Tzimiropoulos: "Knowledge distillation via softmax
regression representation learning", ICLR 2021)."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from fastkd.data.base import Batch
from fastkd.losses import SRRLLoss
from fastkd.methods.base import Context, Method, MethodLoss, up_to_embedding
from fastkd.networks.base import Network, Output
from fastkd.support.plain import Checked
from fastkd.support.ranges import Weight


@dataclass(frozen=True, kw_only=True)
class SRRLSettings(Checked):
    """weight · (MSE of the embeddings + MSE of the teacher's classifier on both)."""

    weight: Weight = 1.0
    """The default of SimKD's code, and of the authors'."""
    source: Literal["embedding", "map"] = "embedding"
    """What the connector works on: the pooled vector (SimKD's code), or the map before pooling (the authors')."""


class SRRL(Method):
    """The teacher's classifier is frozen, and gradients pass through it."""

    Settings = SRRLSettings
    about = "features as the teacher reads them"
    teachers_needed = (1, 1)
    reads = ("embedding", "logits")

    def __init__(self, settings: SRRLSettings, context: Context):
        super().__init__(settings, context)
        shapes, teacher = context.student_shapes, context.teachers[0]
        source = shapes.final_map if settings.source == "map" else shapes.embedding
        goal = context.teacher_shapes[0].embedding.shape[1]
        self.loss = SRRLLoss(source.shape[1], goal, teacher.head.classifier, source=settings.source)

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        return up_to_embedding(student)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        source = student.final_map if self.settings.source == "map" else student.embedding
        feature, logit = self.loss.parts(source, teachers[0].embedding, teachers[0].logits)
        terms = {"srrl_feature": feature.detach(), "srrl_logit": logit.detach()}
        return MethodLoss(self.settings.weight * (feature + logit), terms)
