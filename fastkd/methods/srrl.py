"""Softmax regression representation learning (Yang, Martinez, Bulat, Tzimiropoulos: "Knowledge distillation via softmax
regression representation learning", ICLR 2021)."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from fastkd.data.base import Batch
from fastkd.losses.features import mean_squared_error
from fastkd.methods.base import Context, Method, MethodLoss, up_to_embedding
from fastkd.methods.regressors import Frozen
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
        on_map = settings.source == "map"
        source = context.student_shapes.final_map if on_map else context.student_shapes.embedding
        channels, goal = source.shape[1], context.teacher_shapes[0].embedding.shape[1]
        if on_map:
            self.connector = nn.Sequential(nn.Conv2d(channels, goal, 1, bias=False), nn.BatchNorm2d(goal), nn.ReLU())
        else:
            self.connector = nn.Sequential(nn.Linear(channels, goal, bias=False), nn.BatchNorm1d(goal), nn.ReLU())
        self.classifier = Frozen(context.teachers[0].classifier)

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        return up_to_embedding(student)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        if self.settings.source == "map":
            connected = self.connector(student.final_map).mean((2, 3))
        else:
            connected = self.connector(student.embedding)
        feature = mean_squared_error(connected, teachers[0].embedding)
        logit = mean_squared_error(self.classifier(connected), teachers[0].logits)
        terms = {"srrl_feature": feature.detach(), "srrl_logit": logit.detach()}
        return MethodLoss(self.settings.weight * (feature + logit), terms)
