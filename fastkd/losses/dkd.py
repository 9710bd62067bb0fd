"""Decoupled knowledge distillation (Zhao et al.: "Decoupled knowledge distillation", CVPR 2022, arXiv 2203.08679)."""

from typing import NamedTuple, Unpack

from torch import Tensor

from fastkd.losses.module import checked_numbers, takes_numbers
from fastkd.losses.pair import PairLoss, named, pair_loss
from fastkd.ops.numbers import DKDNumbers


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
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    standardise: bool = False,
    ignore_index: int = -100,
    **numbers: Unpack[DKDNumbers],
) -> DKDTerms:
    """Decoupled knowledge distillation (Zhao et al. 2022): ce_weight · CE + τ² (alpha · TCKD + beta · NCKD).

    student_logits, teacher_logits: [B,K], [B,T,K] or [B,K,H,W], K >= 2; labels: int64, a label a row.
    standardise: compare the logits of each row as multiples of their deviation, less their mean (Sun et al. 2024); CE
        is always that of the logits themselves.

    TCKD is KL between (label, all other classes), NCKD that within the other classes. The paper's warm-up multiplies
    both by min(epoch / 20, 1): a change of alpha and beta. No gradient reaches the teacher. Errors as in `ce_loss`.
    """
    checked = checked_numbers("dkd_loss", "dkd", numbers, student_logits)
    form = named("dkd", standardise)
    return pair_loss(form, DKDTerms, student_logits, teacher_logits, labels, checked, ignore_index)


class DKDLoss(PairLoss):
    """`dkd_loss` as a module, with mdistiller's defaults. Its numbers may be set at any time."""

    form = "dkd"
    Terms = DKDTerms

    def __init__(
        self,
        *,
        standardise: bool = False,
        ignore_index: int = -100,
        **numbers: Unpack[DKDNumbers],
    ):
        super().__init__("dkd", standardise, ignore_index, numbers)
