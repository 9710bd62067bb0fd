"""Decoupled knowledge distillation (Zhao et al.: "Decoupled knowledge distillation", CVPR 2022, arXiv 2203.08679)."""

from typing import NamedTuple, Unpack

from torch import Tensor

from fastkd.losses.checks import check_decoupled
from fastkd.losses.module import Loss, checked_numbers, takes_numbers
from fastkd.losses.shapes import as_matrix
from fastkd.ops.distill_loss import Numbers, compute
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
    ignore_index: int = -100,
    **numbers: Unpack[DKDNumbers],
) -> DKDTerms:
    """Decoupled knowledge distillation (Zhao et al. 2022): ce_weight · CE + τ² (alpha · TCKD + beta · NCKD).

    student_logits, teacher_logits: [B,K], [B,T,K] or [B,K,H,W], K >= 2; labels: int64, a label a row.

    TCKD is KL between (label, all other classes), NCKD that within the other classes. The paper's warm-up multiplies
    both by min(epoch / 20, 1): a change of alpha and beta. No gradient reaches the teacher. Errors as in `ce_loss`.
    """
    check_decoupled(labels, student_logits=student_logits, teacher_logits=teacher_logits)
    checked = checked_numbers("dkd_loss", "dkd", numbers, student_logits)
    return _dkd(student_logits, teacher_logits, labels, checked, ignore_index)


class DKDLoss(Loss):
    """`dkd_loss` as a module, with mdistiller's defaults. Its numbers may be set at any time."""

    form = "dkd"

    def __init__(self, *, ignore_index: int = -100, **numbers: Unpack[DKDNumbers]):
        super().__init__(numbers)
        self.ignore_index = ignore_index

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> DKDTerms:
        check_decoupled(labels, student_logits=student_logits, teacher_logits=teacher_logits)
        return _dkd(student_logits, teacher_logits, labels, self.numbers, self.ignore_index)


def _dkd(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, numbers: Numbers, ignore_index: int
) -> DKDTerms:
    student, frozen = as_matrix(student_logits), [as_matrix(teacher_logits.detach())]
    total, (ce, tckd, nckd), hits = compute(
        "dkd", student, frozen, labels.flatten(), numbers, ignore_index=ignore_index
    )
    return DKDTerms(total, ce, tckd, nckd, hits[0])
