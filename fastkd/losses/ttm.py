"""Transformed teacher matching (Zheng, Yang: "Knowledge distillation based on transformed teacher matching", ICLR 2024,
arXiv 2402.11148)."""

from typing import NamedTuple, Unpack

from torch import Tensor

from fastkd.losses.module import checked_numbers, takes_numbers
from fastkd.losses.pair import PairLoss, named, pair_loss
from fastkd.losses.row_checks import check_ce_weight
from fastkd.losses.rows import Counting, Reduction, without_labels
from fastkd.ops.numbers import Scalar, TTMNumbers
from fastkd.ops.sparse import SparseTeacher


class TTMTerms(NamedTuple):
    """ce_weight · CE + kl_weight · KL(transformed teacher ‖ student)."""

    total: Tensor
    """The one differentiable value."""
    ce: Tensor
    kl: Tensor
    """KL, weighted row by row in WTTM, before its weight."""
    hits: Tensor
    """[2] int64: top-1 and top-5 hits."""


@takes_numbers("ttm")
def ttm_loss(
    student_logits: Tensor,
    teacher_logits: Tensor | SparseTeacher,
    labels: Tensor | None = None,
    *,
    weighted: bool = False,
    standardise: bool = False,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    count: Scalar | None = None,
    ignore_index: int = -100,
    **numbers: Unpack[TTMNumbers],
) -> TTMTerms:
    """Transformed teacher matching (Zheng and Yang 2024).

    ce_weight · CE + kl_weight · KL(p_t^γ / U ‖ p_s), U = Σ p_t^γ.

    student_logits, teacher_logits: [B,K], [B,T,K] or [B,K,H,W]; labels: int64, a label a row; probabilities in the
        logits' shape; or None, and ce_weight is 0.
    teacher_logits may be a `SparseTeacher` at temperature 1 / exponent, that is transformed already: weighted, its tail
        is "lumped" or "renormalised". U is then that of a teacher whose classes that are not kept are equal.
    weighted: multiply KL of each row by its U (WTTM), which is larger where the teacher is less sure.
    standardise: compare the logits of each row as multiples of their deviation, less their mean (Sun et al. 2024); CE
        is always that of the logits themselves.
    weights, reduction, count: see `kd_loss`; what is not the mean over the rows that count is plain PyTorch.

    Only the teacher has a temperature, 1 / γ; there is no factor τ². p^γ is taken in log-space: the authors' softmax
    before the power loses what underflows. No gradient reaches the teacher. Errors as in `ce_loss`.
    """
    given = without_labels(numbers, labels)
    checked = checked_numbers("ttm_loss", "ttm", given, student_logits)
    check_ce_weight(checked["ce_weight"], labels)
    form = named("wttm" if weighted else "ttm", standardise)
    counting = Counting(ignore_index, weights, reduction, count)
    return pair_loss(form, TTMTerms, student_logits, teacher_logits, labels, checked, counting)


class TTMLoss(PairLoss):
    """`ttm_loss` as a module, with the numbers of the authors' example on CIFAR-100.

    Its numbers may be set at any time.
    """

    form = "ttm"
    Terms = TTMTerms

    def __init__(
        self,
        *,
        weighted: bool = False,
        standardise: bool = False,
        reduction: Reduction = "mean",
        ignore_index: int = -100,
        **numbers: Unpack[TTMNumbers],
    ):
        super().__init__("wttm" if weighted else "ttm", standardise, reduction, ignore_index, numbers)
        self.weighted = weighted
