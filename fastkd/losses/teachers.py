"""The forms in which a teacher may come, beside its logits and a `SparseTeacher`: probabilities, or a linear layer."""

from typing import NamedTuple

import torch
from torch import Tensor

from fastkd.ops.sparse import SparseTeacher, Tail


class TeacherProbabilities(NamedTuple):
    """A teacher's probabilities, at the loss's temperature, in place of its logits."""

    probabilities: Tensor
    """[…,K] or [B,K,H,W], as the student's logits."""


class LinearTeacher(NamedTuple):
    """A teacher as what goes into its last linear layer, and that layer: its logits are hidden · weightᵀ + bias."""

    hidden: Tensor
    """[…,E]."""
    weight: Tensor
    """[K,E]."""
    bias: Tensor | None = None
    """[K]."""


def keep_top(teacher_logits: Tensor, k: int, *, temperature: float = 1.0, tail: Tail = "lumped") -> SparseTeacher:
    """Keeps the k greatest of a teacher's logits […,K], with the sum of the rest, at a loss's temperature."""
    log_probs = (teacher_logits.to(torch.promote_types(teacher_logits.dtype, torch.float32)) / temperature).log_softmax(
        -1
    )
    kept, indices = log_probs.topk(k, dim=-1)
    rest = log_probs.scatter(-1, indices, -torch.inf).logsumexp(-1) if tail == "lumped" else tail
    return SparseTeacher(indices, kept, rest)


def keep_draws(draws: Tensor, weights: Tensor | None = None) -> SparseTeacher:
    """Draws from a teacher's distribution as a "sampled" teacher; a class that was drawn twice has the sum of both.

    draws: […,n] integers, classes drawn with replacement, as by `torch.multinomial`.
    weights: […,n], what each draw counts: p / (n · proposal) where another distribution was drawn from; 1/n by default.
    """
    ordered, order = draws.sort(-1)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    place = first.cumsum(-1) - 1
    share = torch.full(draws.shape, 1 / draws.shape[-1], device=draws.device) if weights is None else weights
    sums = torch.zeros_like(share).scatter_add(-1, place, share.gather(-1, order))
    indices = torch.full_like(ordered, -1).scatter(-1, place, ordered)
    return SparseTeacher(indices, sums.log(), "sampled")
