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
from fastkd.support.plain import Checked
from fastkd.support.ranges import Weight


@dataclass(frozen=True, kw_only=True)
class RKDSettings(Checked):
    """weight · (distance_weight · pairs + angle_weight · triples)."""

    weight: Weight = 1.0
    """RepDistiller and mdistiller have this default and the next two."""
    distance_weight: Weight = 25.0
    angle_weight: Weight = 50.0


class RKD(Method):
    """Compares the embeddings. Each process compares the samples of its own batch; the angles take B³ numbers."""

    Settings = RKDSettings
    about = "distances and angles of samples"
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
    angles, but with (i-k)·(j-k) = ij - ik - jk + kk none is needed. These sums cancel where differences do not. They
    are taken in float64 and about the median of the batch, which one sample that is far away does not move: what is
    left of them is at least as exact as differences in float32. Two samples as close as float32 rounds them count as
    one point, which has no angle and no distance (the gradient of the published codes there is about 1e12).
    """
    wide = embedding_BD.double()
    centred = wide - wide.detach().sort(0).values[len(wide) // 2]
    products = centred @ centred.T
    norms = products.diagonal()  # squared
    squares = norms[:, None] + norms - 2 * products
    apart = (squares > _rounding(wide.detach(), norms.detach(), embedding_BD.dtype)).fill_diagonal_(False)
    distances = torch.where(apart, squares, 1.0).sqrt()
    inverse = torch.where(apart, 1 / distances, 0.0)
    distances = torch.where(apart, distances, 0.0)
    mean = distances.sum() / apart.sum().clamp(min=1)
    legs = products - products[:, :, None] - products[:, None, :] + norms[:, None, None]
    angles = legs * inverse[:, :, None] * inverse[:, None, :]
    relative = distances / mean.clamp(min=torch.finfo(mean.dtype).tiny)
    return relative.to(embedding_BD.dtype), angles.to(embedding_BD.dtype)


def _rounding(embedding_BD: Tensor, norms_B: Tensor, given: torch.dtype) -> Tensor:
    """[B,B]: the squared distance that the rounding of both embeddings, and of their products, may make up."""
    of_numbers = (4 * torch.finfo(given).eps) ** 2 * embedding_BD.square().sum(1)
    of_products = 64 * torch.finfo(norms_B.dtype).eps * norms_B
    rounding_B = of_numbers + of_products
    return rounding_B[:, None] + rounding_B
