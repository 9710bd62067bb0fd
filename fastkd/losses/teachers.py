"""The forms in which a teacher may come, beside its logits: some kept classes, probabilities, or a linear layer.

A teacher of kept classes is a pure value: three tensors and a word. What stores teachers writes them, and reads them
into these.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Tail = Literal["renormalised", "lumped", "sampled"]
TAILS = ("renormalised", "lumped", "sampled")


class SparseTeacher(NamedTuple):
    """A teacher's distribution at the loss's temperature, known for k classes of every row.

    Where k = K, "renormalised" and "lumped" are the loss with the teacher's logits.
    """

    indices: Tensor
    """[…,k] int64 or int32: the kept classes of every row, each once; a number below 0 is padding."""
    log_probs: Tensor
    """[…,k]: the logarithms of their probabilities, log_softmax(z / τ) at the kept classes.

    "renormalised" divides by their sum itself; "sampled" takes any weights that a row's samples shall have.
    """
    tail: Tail = "lumped"
    """What the other classes are.

    "renormalised": they do not exist; the teacher and the student are compared within the kept classes.
    "lumped": they are one class, which has what the teacher's kept ones lack, and all that the student gives to them.
    "sampled": the teacher gives nothing to them; the kept classes are draws with their weights (`keep_draws`), whose
        expectation is the whole teacher (Anshumann et al. 2025, ACL: "Sparse logit sampling", random sampling KD).
    """
    log_rest: Tensor | None = None
    """[…]: the logarithm of what the other classes have together; None: that of 1 minus the kept ones' sum.

    It is for "lumped" alone. The difference has float32's rounding of 1: a row whose tail is smaller wants it given.
    """


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
    rest = log_probs.scatter(-1, indices, -torch.inf).logsumexp(-1) if tail == "lumped" else None
    return SparseTeacher(indices, kept, tail, rest)


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


def lumped_rest(teacher: SparseTeacher) -> Tensor:
    """The logarithm of what the classes that were not kept have; -inf is nothing."""
    if teacher.log_rest is not None:
        return teacher.log_rest
    kept = torch.where(
        teacher.indices >= 0, teacher.log_probs.to(torch.promote_types(teacher.log_probs.dtype, torch.float32)).exp(), 0
    )
    return (1 - kept.sum(-1)).clamp(min=0).log()
