"""The generalised Jensen-Shannon divergence (Agarwal et al.: "On-policy distillation of language models: learning from
self-generated mistakes", ICLR 2024, arXiv 2306.13649), between KL in its two directions."""

from typing import NamedTuple, Unpack

from torch import Tensor

from fastkd.losses import rows
from fastkd.losses.checks import check_choice, check_logits
from fastkd.losses.module import checked_numbers, takes_numbers
from fastkd.losses.row_checks import check_ce_weight
from fastkd.losses.rows import Counting, Reduction, RowLoss, RowTeacher
from fastkd.ops.numbers import JSDRowNumbers, Scalar
from fastkd.ops.row_loss import Form


class JSDTerms(NamedTuple):
    """ce_weight · CE + weight · JSD(beta)."""

    total: Tensor
    ce: Tensor
    jsd: Tensor
    hits: Tensor
    """[2] int64: top-1 and top-5 hits; none without labels."""


@takes_numbers("jsd_rows")
def jsd_loss(
    student_logits: Tensor,
    teacher_logits: RowTeacher,
    labels: Tensor | None = None,
    *,
    tau_squared: bool = False,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    count: Scalar | None = None,
    ignore_index: int = -100,
    **numbers: Unpack[JSDRowNumbers],
) -> JSDTerms:
    """JSD(beta) = beta · KL(p ‖ m) + (1 − beta) · KL(q ‖ m), m = beta · p + (1 − beta) · q, p the teacher's.

    beta 0 is KL(p ‖ q) and beta 1 is KL(q ‖ p), as in the paper's code: these are not the limits of the formula, which
    are 0. There is no τ² unless it is asked for, and no CE unless `ce_weight` is given: labels then say which rows
    count.

    The arguments are those of `kd_loss`, and so are the errors.
    """
    check_logits(student_logits=student_logits)
    checked = checked_numbers("jsd_loss", "jsd_rows", numbers, student_logits)
    check_ce_weight(checked["ce_weight"], labels)
    packed = rows.packed("jsd_rows", checked, numbers, student_logits)
    form = Form("jsd", tau_squared, *rows.given_caps(numbers))
    counting = Counting(ignore_index, weights, reduction, count)
    return JSDTerms(*rows.compute(student_logits, teacher_logits, labels, packed, form, counting))


class JSDLoss(RowLoss):
    """`jsd_loss` as a module. Its numbers may be set at any time; it has a soft-cap if it was made with one."""

    form = "jsd_rows"

    def __init__(
        self,
        *,
        tau_squared: bool = False,
        reduction: Reduction = "mean",
        ignore_index: int = -100,
        **numbers: Unpack[JSDRowNumbers],
    ):
        check_choice("reduction", reduction, rows.REDUCTIONS)
        super().__init__(numbers)
        self.ignore_index = ignore_index
        self.tau_squared = tau_squared
        self.reduction: Reduction = reduction

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: RowTeacher,
        labels: Tensor | None = None,
        *,
        weights: Tensor | None = None,
        count: Scalar | None = None,
    ) -> JSDTerms:
        check_logits(student_logits=student_logits)
        if labels is None:
            check_ce_weight(self.ce_weight, labels)
        form = Form("jsd", self.tau_squared, *self.caps)
        counting = Counting(self.ignore_index, weights, self.reduction, count)
        packed = self.numbers_beside(student_logits)
        return JSDTerms(*rows.compute(student_logits, teacher_logits, labels, packed, form, counting))
