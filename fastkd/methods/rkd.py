"""Relational knowledge distillation (Park, Kim, Lu, Cho: "Relational knowledge distillation", CVPR 2019,
arXiv 1904.05068)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastkd.data.base import Batch
from fastkd.methods.base import Method, MethodLoss, up_to_embedding
from fastkd.methods.precision import full_precision
from fastkd.networks.base import Network, Output


@dataclass(frozen=True, kw_only=True)
class RKDSettings:
    """weight · (distance_weight · pairs + angle_weight · triples)."""

    weight: float = 1.0
    """RepDistiller and mdistiller have this default and the next two."""
    distance_weight: float = 25.0
    angle_weight: float = 50.0


class RKD(Method):
    """Compares the embeddings. Each process compares the samples of its own batch; the angles take B³ numbers."""

    Settings = RKDSettings
    teachers_needed = (1, 1)

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        return up_to_embedding(student)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        with torch.no_grad():
            teacher_distances, teacher_angles = relations(teachers[0].embedding)
        distances, angles = relations(student.embedding)
        distance = F.smooth_l1_loss(distances, teacher_distances)
        angle = F.smooth_l1_loss(angles, teacher_angles)
        total = self.settings.distance_weight * distance + self.settings.angle_weight * angle
        terms = {"rkd_distance": distance.detach(), "rkd_angle": angle.detach()}
        return MethodLoss(self.settings.weight * total, terms)


@full_precision
def relations(embedding_BD: Tensor) -> tuple[Tensor, Tensor]:
    """[B,B] distances, as multiples of their mean, and [B,B,B] cosines of the angles at the first index.

    Both come from one matrix of inner products: the published codes build a [B,B,D] tensor of differences for the
    angles, but with (i-k)·(j-k) = ij - ik - jk + kk none is needed. Distances do not change when the batch is centred,
    and these sums then cancel less. Two samples closer than the rounding of their distance count as one point, which
    has no angle and no distance (the gradient of the published codes there is about 1e12).
    """
    centred = embedding_BD - embedding_BD.detach().mean(0)
    products = centred @ centred.T
    norms = products.diagonal()  # squared
    squares = norms[:, None] + norms - 2 * products
    rounding = 16 * torch.finfo(products.dtype).eps * (norms[:, None] + norms).detach()
    apart = (squares > rounding) & ~torch.eye(len(norms), dtype=torch.bool, device=norms.device)
    distances = torch.where(apart, squares, 1.0).sqrt()
    inverse = torch.where(apart, 1 / distances, 0.0)
    distances = torch.where(apart, distances, 0.0)
    mean = distances.sum() / apart.sum().clamp(min=1)
    legs = products - products[:, :, None] - products[:, None, :] + norms[:, None, None]
    angles = legs * inverse[:, :, None] * inverse[:, None, :]
    return distances / mean.clamp(min=torch.finfo(mean.dtype).tiny), angles
