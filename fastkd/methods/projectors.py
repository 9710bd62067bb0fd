"""Projectors from a student's features to a teacher's that keep what the features say: one that normalises (SRD), one
that is orthogonal (VkD)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastkd.losses.maps import map_of, rows_of
from fastkd.losses.precision import full_precision
from fastkd.support.pooling import pooled_to

LAYER_NORM_EPSILON = 1e-5


class NormalisedProjector(nn.Module):
    """A linear map with bias; its result and its target have mean 0 and deviation 1 over the batch, in each feature.

    The normalisations have no parameters (Miles, Mikolajczyk: "Understanding the role of the projector in knowledge
    distillation", AAAI 2024, arXiv 2303.11098). The statistics that running averages keep serve `restored`.
    """

    def __init__(self, width: int, goal: int, eps: float = 1e-4):
        super().__init__()
        self.embed = nn.Linear(width, goal)
        self.norm, self.target_norm = (nn.BatchNorm1d(goal, eps=eps, affine=False) for _ in range(2))

    def forward(self, rows_NC: Tensor) -> Tensor:
        return self.norm(self.embed(rows_NC))

    def target(self, rows_NC: Tensor) -> Tensor:
        return self.target_norm(rows_NC)

    def restored(self, rows_NC: Tensor) -> Tensor:
        """What `forward` gives, at the running mean and deviation of the targets."""
        norm = self.target_norm
        assert norm.running_mean is not None and norm.running_var is not None
        return self(rows_NC) * (norm.running_var + norm.eps).sqrt() + norm.running_mean


class OrthogonalProjector(nn.Module):
    """A matrix with orthonormal columns (rows, where the goal is the narrower one), without bias.

    From VkD (Miles, Elezi, Deng: "VkD: improving knowledge distillation using orthogonal projections", CVPR 2024,
    arXiv 2403.06213). W = base · H_1 … H_n up to signs, H_j = I − 2vvᵀ/|v|² with v = e_j + the part of column j of
    `original` below the diagonal: torch's parametrisation. There the diagonal, which gets no gradient, is cast to
    integers, and a first step with weight decay makes W zero; here it is no parameter. A square matrix has Householder
    reflections too, where torch has an exponential.
    """

    base: Tensor

    def __init__(self, width: int, goal: int):
        super().__init__()
        self.is_wide = goal < width
        long, short = max(width, goal), min(width, goal)
        self.original = nn.Parameter(torch.zeros(long, short))
        self.register_buffer("base", nn.init.orthogonal_(torch.empty(long, long)))

    def forward(self, rows_NC: Tensor) -> Tensor:
        return F.linear(rows_NC, self.weight())

    def target(self, rows_NC: Tensor) -> Tensor:
        """Normalised over its channels: only the teacher's side is."""
        return layer_normalised(rows_NC)

    def restored(self, rows_NC: Tensor) -> Tensor:
        return self(rows_NC)

    def weight(self) -> Tensor:
        """[goal, width]."""
        matrix = householder(self.original, self.base)
        return matrix.T if self.is_wide else matrix


@full_precision
def householder(original_MN: Tensor, base_MM: Tensor) -> Tensor:
    """[M,N]: −base · H_1 … H_N, its first N columns, in one triangular solve (the compact WY form).

    H_1 … H_N = I − V T⁻¹ Vᵀ, T being the upper triangle of VᵀV with half its diagonal.
    """
    count = original_MN.shape[1]
    identity = torch.eye(*original_MN.shape, dtype=original_MN.dtype, device=original_MN.device)
    vectors = original_MN.tril(-1) + identity
    products = vectors.T @ vectors
    triangle = products.triu(1) + torch.diag(products.diagonal() / 2)
    reflected = identity - vectors @ torch.linalg.solve_triangular(triangle, vectors[:count].T, upper=True)
    return -base_MM @ reflected


@full_precision
def layer_normalised(rows_NC: Tensor) -> Tensor:
    return F.layer_norm(rows_NC, rows_NC.shape[1:], eps=LAYER_NORM_EPSILON)


PROJECTORS: dict[str, type[NormalisedProjector | OrthogonalProjector]] = {
    "normalised": NormalisedProjector,
    "orthogonal": OrthogonalProjector,
}


class ProjectedPlaces(nn.Module):
    """Compares maps place by place behind a projector; a larger map is pooled to the smaller one's size.

    It stands in a `Regressor`'s place.
    """

    def __init__(self, kind: str, student: Sequence[int], teacher: Sequence[int]):
        """student, teacher: the shapes (C,H,W) of their maps."""
        super().__init__()
        self.projector = PROJECTORS[kind](student[0], teacher[0])
        self.size = tuple(teacher[1:]) if student[1] > teacher[1] else tuple(student[1:])

    def forward(self, student_BCHW: Tensor) -> Tensor:
        """[B·H·W,C]: the projected places."""
        return self.projector(rows_of(pooled_to(student_BCHW, self.size)))

    def target(self, teacher_BCHW: Tensor) -> Tensor:
        """The teacher's places, normalised as the projector wants them."""
        return self.projector.target(rows_of(pooled_to(teacher_BCHW, self.size)))


class ProjectedMap(nn.Module):
    """A student's map projected place by place to what a teacher's classifier reads: at the teacher's own scale."""

    def __init__(self, kind: str, width: int, goal: int):
        super().__init__()
        self.projector = PROJECTORS[kind](width, goal)

    def observe(self, teacher_BCHW: Tensor) -> None:
        """Takes the teacher's map into the statistics by which the scale is restored; while training only."""
        if self.training:
            self.projector.target(rows_of(teacher_BCHW))

    def forward(self, student_BCHW: Tensor) -> Tensor:
        return map_of(self.projector.restored(rows_of(student_BCHW)), student_BCHW)
