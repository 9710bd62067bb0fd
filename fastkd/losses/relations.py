"""Losses between the relations that two networks see among the samples of a batch, on plain tensors [B,D].

The widths of the two networks may differ. Arithmetic is in float32 at least. Weights are the caller's; the samples
compared are those of one process.
"""

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fastkd.losses.checks import check_choice
from fastkd.losses.module import TensorLoss
from fastkd.losses.precision import full_precision
from fastkd.support.ranges import Positive, Weight, whole

Order = Annotated[int, whole(1, 64)]
"""The last power of the series that CC's kernel is computed by."""
PKT_EPSILON = 1e-7
"""Added to norms, and to both probabilities in the logarithm, as in the authors' code of PKT."""


class RKDLoss(TensorLoss):
    """Relational distillation (Park et al.: "Relational knowledge distillation", CVPR 2019, arXiv 1904.05068).

    distance_weight · smooth L1 of the distances of all pairs, as multiples of their mean, + angle_weight · that of the
    cosines of the angles of all triples. The angles take B³ numbers.
    """

    def __init__(self, *, distance_weight: Weight = 25.0, angle_weight: Weight = 50.0):
        super().__init__(distance_weight=distance_weight, angle_weight=angle_weight)
        self.distance_weight, self.angle_weight = distance_weight, angle_weight

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        distance, angle = self.parts(student, teacher)
        return self.distance_weight * distance + self.angle_weight * angle

    def parts(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """(pairs, triples), each without its weight."""
        with torch.no_grad():
            teacher_distances, teacher_angles = relations(teacher)
        distances, angles = relations(student)
        return F.smooth_l1_loss(distances, teacher_distances), F.smooth_l1_loss(angles, teacher_angles)


class SPLoss(TensorLoss):
    """Similarity preservation (Tung, Mori: "Similarity-preserving knowledge distillation", ICCV 2019,
    arXiv 1907.09682): the mean squared difference of the batch's similarity matrices, each row of length 1.

    student, teacher: [B,…], flattened.
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return similarity_distance(student, teacher.detach())


class PKTLoss(TensorLoss):
    """Probabilistic knowledge transfer (Passalis, Tefas: "Learning deep representations with probabilistic knowledge
    transfer", ECCV 2018, arXiv 1803.10837): KL between the neighbourhoods by cosine similarity, a mean over all pairs.
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return neighbourhood_divergence(student, teacher.detach())


class CCLoss(TensorLoss):
    """Correlation congruence (Peng et al.: "Correlation congruence for knowledge distillation", ICCV 2019,
    arXiv 1904.01802).

    form: "kernel", the mean squared difference of the batch's correlation matrices under a Gaussian kernel
        exp(−gamma ‖x − y‖²), by its Taylor series up to `order` (the paper); "neighbours", the products of how far both
        are apart at a sample of the batch and at the next, in one space (RepDistiller's code).
    """

    def __init__(self, *, form: Literal["kernel", "neighbours"] = "kernel", gamma: Positive = 0.4, order: Order = 2):
        check_choice("form", form, ("kernel", "neighbours"))
        super().__init__(gamma=gamma, order=order)
        self.form, self.gamma, self.order = form, gamma, order

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.form == "neighbours":
            return neighbour_products(student, teacher.detach())
        return kernel_distance(student, teacher.detach(), self.gamma, self.order)


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


@full_precision
def similarity_distance(student: Tensor, teacher: Tensor) -> Tensor:
    return (similarities(teacher) - similarities(student)).square().mean()


def similarities(feature: Tensor) -> Tensor:
    """[B,B]: inner products of the samples; each row has length 1, not the whole matrix."""
    rows = feature.flatten(1)
    return F.normalize(rows @ rows.T)


@full_precision
def neighbourhood_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean of p log(p / q), less p − q, whose sum is 0: its rounding is then that of p − q, not that of p."""
    p, q = neighbourhoods(teacher), neighbourhoods(student)
    apart = p - q
    return (p * (apart / (q + PKT_EPSILON)).log1p() - apart).mean()


def neighbourhoods(embedding_BD: Tensor) -> Tensor:
    """[B,B] probabilities of each sample's neighbours, itself among them; rows sum to 1."""
    direction = embedding_BD / (embedding_BD.norm(dim=1, keepdim=True) + PKT_EPSILON)
    similarity = (direction @ direction.T + 1) / 2
    return similarity / similarity.sum(1, keepdim=True)


@full_precision
def kernel_distance(student_BD: Tensor, teacher_BD: Tensor, gamma: float, order: int) -> Tensor:
    """The squared distance of both correlation matrices, averaged over all B² pairs."""
    return F.mse_loss(kernel(student_BD, gamma, order), kernel(teacher_BD, gamma, order))


def kernel(embedding_BD: Tensor, gamma: float, order: int) -> Tensor:
    """[B,B]: exp(-γ ‖x - y‖²) = e^(-2γ) exp(2γ x·y) for vectors of length 1, by its Taylor series."""
    direction = F.normalize(embedding_BD)
    cosine = direction @ direction.T
    powers = [(2 * gamma) ** p / math.factorial(p) * cosine**p for p in range(order + 1)]
    return math.exp(-2 * gamma) * torch.stack(powers).sum(0)


@full_precision
def neighbour_products(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """|student - teacher| at one sample times the same at the next, summed, averaged over all such pairs."""
    apart = (student_BD - teacher_BD).abs()
    return (apart[:-1] * apart[1:]).sum(1).mean()
