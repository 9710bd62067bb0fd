"""Decoupled knowledge distillation (Zhao et al.: "Decoupled knowledge distillation", CVPR 2022, arXiv 2203.08679)."""

from typing import NamedTuple, Unpack

from torch import Tensor

from fastkd.losses.module import checked_numbers, takes_numbers
from fastkd.losses.pair import PairLoss, named, pair_loss
from fastkd.losses.rows import Counting, Reduction
from fastkd.ops.numbers import DKDNumbers, Scalar
from fastkd.ops.sparse import SparseTeacher


class DKDTerms(NamedTuple):
    """ce_weight · CE + alpha · τ² TCKD + beta · τ² NCKD."""

    total: Tensor
    """The one differentiable value."""
    ce: Tensor
    tckd: Tensor
    """τ² KL between (label, all other classes), before its weight."""
    nckd: Tensor
    """τ² KL within the other classes, before its weight."""
    hits: Tensor
    """[2] int64: top-1 and top-5 hits."""


@takes_numbers("dkd")
def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor | SparseTeacher,
    labels: Tensor,
    *,
    standardise: bool = False,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    count: Scalar | None = None,
    ignore_index: int = -100,
    **numbers: Unpack[DKDNumbers],
) -> DKDTerms:
    """Decoupled knowledge distillation (Zhao et al. 2022): ce_weight · CE + τ² (alpha · TCKD + beta · NCKD).

    student_logits, teacher_logits: [B,K], [B,T,K] or [B,K,H,W], K >= 2; labels: int64, a label a row; probabilities,
        which name no single class, are refused.
    teacher_logits may be a `SparseTeacher` whose tail is "lumped" or "renormalised"; a label that is not kept has
        probability 0, and the other classes that are not kept are one class to NCKD.
    standardise: compare the logits of each row as multiples of their deviation, less their mean (Sun et al. 2024); CE
        is always that of the logits themselves.
    weights, reduction, count: see `kd_loss`; what is not the mean over the rows that count is plain PyTorch.

    TCKD is KL between (label, all other classes), NCKD that within the other classes. The paper's warm-up multiplies
    both by min(epoch / 20, 1): a change of alpha and beta. No gradient reaches the teacher. Errors as in `ce_loss`.
    """
    checked = checked_numbers("dkd_loss", "dkd", numbers, student_logits)
    form = named("dkd", standardise)
    counting = Counting(ignore_index, weights, reduction, count)
    return pair_loss(form, DKDTerms, student_logits, teacher_logits, labels, checked, counting)


class DKDLoss(PairLoss):
    """`dkd_loss` as a module, with mdistiller's defaults. Its numbers may be set at any time."""

    form = "dkd"
    Terms = DKDTerms

    def __init__(
        self,
        *,
        standardise: bool = False,
        reduction: Reduction = "mean",
        ignore_index: int = -100,
        **numbers: Unpack[DKDNumbers],
    ):
        super().__init__("dkd", standardise, reduction, ignore_index, numbers)
