"""The weighted mean of networks' probabilities that errs least: KDCL-General's weights (Guo et al. 2020)."""

import torch
import torch.nn.functional as F
from torch import Tensor

RIDGE = 1e-6
"""What is added to the diagonal of a singular correlation, such as that of two networks that say the same."""
SINGULAR = 1e-10
"""Least eigenvalue over the largest, at which it counts as singular."""


@torch.no_grad()
def error_correlation(logits_MNK: Tensor, labels_N: Tensor) -> Tensor:
    """[M,M] float64: C_ij, the mean over the images of (p_i - t)·(p_j - t), t being the label as probabilities."""
    logits = logits_MNK.double()
    errors = logits.softmax(2) - F.one_hot(labels_N, logits.shape[2])
    return torch.einsum("mnk,jnk->mj", errors, errors) / len(labels_N)


def least_error_weights(correlation_MM: Tensor) -> Tensor:
    """[M] float64 weights w of sum 1 that minimise w·Cw, w_k = Σ_j C⁻¹_kj / Σ_ij C⁻¹_ij. They may be negative.

    It reads on the host: it is called once an epoch.
    """
    eigenvalues = torch.linalg.eigvalsh(correlation_MM)
    if eigenvalues[0] <= SINGULAR * eigenvalues[-1]:
        correlation_MM = correlation_MM + RIDGE * torch.eye(len(correlation_MM)).to(correlation_MM)
    weights = torch.linalg.solve(correlation_MM, torch.ones_like(correlation_MM[0]))
    return weights / weights.sum()
