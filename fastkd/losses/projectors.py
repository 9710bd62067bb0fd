"""Projectors from a student's features to a teacher's that keep what the features say: one that normalises (SRD), one
that is orthogonal (VkD)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastkd.losses.precision import full_precision

LAYER_NORM_EPSILON = 1e-5
SQUARINGS = 10
"""s of a matrix exponential: each squaring doubles the rounding of float64, which is far below that of float32."""
TERMS = 18
"""Its terms behind the first: what is left out is below 2^-53 for a norm up to 1."""


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
    arXiv 2403.06213), whose code has torch's parametrisation, as it is here. W = −base · H_1 … H_n, H_j = I − 2vvᵀ/|v|²
    with v = e_j + the part of column j of `original` below the diagonal. In torch the diagonal, which gets no gradient,
    is cast to integers, and a first step with weight decay makes W zero; here it is no parameter. A square W is
    base · exp(L − Lᵀ), L being the part of `original` below the diagonal.
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
        square = self.original.shape[0] == self.original.shape[1]
        matrix = (rotated if square else householder)(self.original, self.base)
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
def rotated(original_NN: Tensor, base_NN: Tensor) -> Tensor:
    """[N,N]: base · exp(L − Lᵀ), of the part L below the diagonal."""
    lower = original_NN.tril(-1)
    return base_NN @ exponential(lower - lower.T)


def exponential(matrix_NN: Tensor) -> Tensor:
    """exp(A) = exp(A / 2^s)^(2^s), of a skew-symmetric A with a norm up to 2^s, by a Taylor series in float64.

    `torch.matrix_exp` chooses the order by the norm, which it reads on the host: no graph could capture it.
    """
    scaled = matrix_NN.double() / 2**SQUARINGS
    found = identity = torch.eye(len(scaled), dtype=scaled.dtype, device=scaled.device)
    for order in range(TERMS, 0, -1):
        found = identity + scaled @ found / order
    for _ in range(SQUARINGS):
        found = found @ found
    return found.to(matrix_NN.dtype)


@full_precision
def layer_normalised(rows_NC: Tensor) -> Tensor:
    return F.layer_norm(rows_NC, rows_NC.shape[1:], eps=LAYER_NORM_EPSILON)
