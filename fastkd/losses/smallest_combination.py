"""The convex combination of a few gradients that is shortest: AEKD's quadratic programme, solved exactly."""

import torch
from torch import Tensor

MOST = 7
"""How many vectors may be combined: for M of them 3^M systems of equations are solved."""


def smallest_combination(vectors_MD: Tensor, cap: float, *, unit_length: bool) -> Tensor:
    """[M] float64 weights w that minimise ‖Σ w_m v_m‖² with Σ w_m = 1 and 0 <= w_m <= cap.

    unit_length: the vectors are normalised first, the solution is divided by their lengths and brought to sum 1 (the
    cap then holds for the normalised ones only).

    At the minimum some weights are 0, some are at the cap, and the others solve a linear system. M is small, so all
    3^M choices are solved at once on the device, and the best that is feasible is taken: nothing is read on the host,
    and nothing depends on a solver's tolerance (the one-class SVM of the authors' code stops at 1e-6, which for
    unnormalised gradients exceeds the numbers it looks at).
    """
    count = len(vectors_MD)
    cap = min(max(cap, 1 / count), 1.0)
    with torch.no_grad(), torch.autocast(vectors_MD.device.type, enabled=False):
        vectors = vectors_MD.double()
        lengths = vectors.norm(dim=1).clamp(min=torch.finfo(torch.float64).tiny)
        if unit_length:
            vectors = vectors / lengths[:, None]
        gram = vectors @ vectors.T
        weights = _solve(gram / gram.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny), cap)
        if unit_length:
            weights = weights / lengths
            weights = weights / weights.sum()
        return weights


def least_quadratic(matrix_MM: Tensor, vector_M: Tensor) -> Tensor:
    """[M] float64 weights w >= 0 of sum 1 that minimise w·Aw / 2 + b·w, for a positive semidefinite A.

    On the simplex b·w is w·(b 1ᵀ + 1 bᵀ)w / 2, and a constant added to every entry changes nothing: so it is the
    shortest combination of vectors with another Gram matrix.
    """
    vector = vector_M.double() - vector_M.double().mean()
    gram = matrix_MM.double() + vector[:, None] + vector
    gram = gram + 1e3 * len(gram) * gram.abs().max()  # far enough from the origin to be positive definite
    return _solve(gram / gram.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny), 1.0)


def _solve(gram: Tensor, cap: float) -> Tensor:
    count, eps = len(gram), 1e-13
    # Something on the diagonal gives parallel gradients equal weights.
    gram = gram + eps * torch.eye(count, dtype=gram.dtype, device=gram.device)
    # A row of `choices` says of each weight: 0 it is 0, 1 it is free, 2 it is the cap.
    places = torch.arange(count, device=gram.device)
    choices = torch.arange(3**count, device=gram.device)[:, None] // 3**places % 3
    free, capped = (choices == 1).to(gram.dtype), (choices == 2).to(gram.dtype)
    # Free rows: (G w)_m = λ, so w = λ x - y with G x = 1 and G y = G (cap at the capped ones); other rows are identity.
    matrix = gram * free[:, :, None] * free[:, None, :] + torch.diag_embed(1 - free)
    right = torch.stack([free, cap * (capped @ gram) * free], 2)
    x, y = _eliminate(matrix, right).unbind(2)
    multiplier = (1 - cap * capped.sum(1) + y.sum(1)) / x.sum(1).clamp(min=torch.finfo(gram.dtype).tiny)
    weights = torch.where(choices == 1, multiplier[:, None] * x - y, cap * capped)
    tolerance = 1e-9
    feasible = (weights >= -tolerance).all(1) & (weights <= cap + tolerance).all(1)
    feasible &= (weights.sum(1) - 1).abs() < tolerance
    lengths = torch.einsum("nm,mk,nk->n", weights, gram, weights)
    best = torch.where(feasible, lengths, torch.inf).argmin()
    return weights.index_select(0, best[None])[0].clamp(0, cap)


def _eliminate(matrices_NMM: Tensor, right_NMR: Tensor) -> Tensor:
    """Solves positive definite systems by Gauss-Jordan elimination without pivoting, which they do not need.

    torch.linalg's solvers are not all allowed in a captured graph.
    """
    rows = torch.cat([matrices_NMM, right_NMR], 2)
    count = matrices_NMM.shape[1]
    for pivot in range(count):
        pivot_row = rows[:, pivot] / rows[:, pivot, pivot, None]
        factors = rows[:, :, pivot, None].clone()
        rows = rows - factors * pivot_row[:, None]
        rows = torch.cat([rows[:, :pivot], pivot_row[:, None], rows[:, pivot + 1 :]], 1)
    return rows[:, :, count:]
