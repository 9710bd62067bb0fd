"""Relational knowledge distillation (Park, Kim, Lu, Cho: "Relational knowledge distillation", CVPR 2019,
arXiv 1904.05068)."""

from dataclasses import dataclass
from typing import Annotated

from torch import nn

from fastkd.data.base import Batch
from fastkd.losses.relations import RKDLoss
from fastkd.methods.base import Context, Method, MethodLoss, up_to_embedding
from fastkd.networks.base import Network, Output
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import Weight


@dataclass(frozen=True, kw_only=True)
class RKDSettings(Checked):
    """weight · (distance_weight · pairs + angle_weight · triples)."""

    weight: Annotated[Weight, OnlyWith(("distance_weight", "angle_weight"))] = 1.0
    """RepDistiller and mdistiller have this default and the next two."""
    distance_weight: Annotated[Weight, OnlyWith("weight")] = 25.0
    angle_weight: Annotated[Weight, OnlyWith("weight")] = 50.0


class RKD(Method):
    """Compares the embeddings. Each process compares the samples of its own batch; the angles take B³ numbers."""

    Settings = RKDSettings
    about = "distances and angles of samples"
    relates_samples = True
    teachers_needed = (1, 1)
    reads = ("embedding",)

    def __init__(self, settings: RKDSettings, context: Context):
        super().__init__(settings, context)
        self.loss = RKDLoss()

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        return up_to_embedding(student)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        distance, angle = self.loss.parts(student.embedding, teachers[0].embedding)
        total = self.settings.distance_weight * distance + self.settings.angle_weight * angle
        terms = {"rkd_distance": distance.detach(), "rkd_angle": angle.detach()}
        return MethodLoss(self.settings.weight * total, terms)
