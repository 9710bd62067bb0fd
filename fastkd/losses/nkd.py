"""Normalised knowledge distillation (Yang, Zeng, Li, Zhang, Yuan, Li: "From knowledge distillation to self-knowledge
distillation: a unified approach with normalized loss and customized soft labels", ICCV 2023, arXiv 2303.13005)."""

from typing import NamedTuple, Unpack

from torch import Tensor

from fastkd.losses.module import checked_numbers, takes_numbers
from fastkd.losses.pair import PairLoss, named, pair_loss
from fastkd.losses.rows import Counting, Reduction
from fastkd.ops.numbers import NKDNumbers, Scalar
from fastkd.ops.sparse import SparseTeacher


class NKDTerms(NamedTuple):
    """ce_weight · CE + alpha · target + gamma · others."""

    total: Tensor
    """The one differentiable value."""
    ce: Tensor
    target: Tensor
    """-p_t[y] log p_s[y], before its weight."""
    others: Tensor
    """-τ² Σ q_t log q_s over the classes other than the label's, before its weight."""
    hits: Tensor
    """[2] int64: top-1 and top-5 hits."""


@takes_numbers("nkd")
def nkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor | SparseTeacher,
    labels: Tensor,
    *,
    standardise: bool = False,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    count: Scalar | None = None,
    ignore_index: int = -100,
    **numbers: Unpack[NKDNumbers],
) -> NKDTerms:
    """Normalised knowledge distillation (Yang et al. 2023).

    ce_weight · CE − alpha · p_t[y] log p_s[y] − gamma · τ² Σ_{k≠y} q_t[k] log q_s[k], p at temperature 1, q the
    distribution at τ among the classes other than the label's.

    student_logits, teacher_logits: [B,K], [B,T,K] or [B,K,H,W], K >= 2; labels: int64, a label a row; or probabilities
        in the logits' shape, of which both terms take the greatest (the authors' code) and CE takes all.
    teacher_logits may be a `SparseTeacher` at `temperature` whose tail is "lumped" or "renormalised"; a label that is
        not kept has probability 0. What a lump has at temperature 1 is that of as many equal classes.
    standardise: compare the logits of each row as multiples of their deviation, less their mean (Sun et al. 2024); CE
        is always that of the logits themselves.
    weights, reduction, count: see `kd_loss`; what is not the mean over the rows that count is plain PyTorch.

    Both terms are cross-entropies: they do not vanish where the networks agree. No gradient reaches the teacher.
    Errors as in `ce_loss`.
    """
    checked = checked_numbers("nkd_loss", "nkd", numbers, student_logits)
    form = named("nkd", standardise)
    counting = Counting(ignore_index, weights, reduction, count)
    return pair_loss(form, NKDTerms, student_logits, teacher_logits, labels, checked, counting)


class NKDLoss(PairLoss):
    """`nkd_loss` as a module, with the authors' numbers for ResNets on ImageNet. Its numbers may be set at any time."""

    form = "nkd"
    Terms = NKDTerms

    def __init__(
        self,
        *,
        standardise: bool = False,
        reduction: Reduction = "mean",
        ignore_index: int = -100,
        **numbers: Unpack[NKDNumbers],
    ):
        super().__init__("nkd", standardise, reduction, ignore_index, numbers)
