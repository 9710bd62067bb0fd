"""The generalised Jensen-Shannon divergence (Agarwal et al.: "On-policy distillation of language models: learning from
self-generated mistakes", ICLR 2024, arXiv 2306.13649), between KL in its two directions."""

from typing import Any, NamedTuple, Unpack

from torch import Tensor

from fastkd.losses import rows
from fastkd.losses.checks import check_choice, check_logits
from fastkd.losses.module import checked_numbers, takes_numbers
from fastkd.losses.row_checks import check_ce_weight
from fastkd.losses.rows import Counting, Reduction, RowLoss, RowTeacher
from fastkd.ops.numbers import JSDNumbers, Scalar
from fastkd.ops.row_loss import Form


class JSDTerms(NamedTuple):
    """ce_weight · CE + jsd_weight · JSD(beta)."""

    total: Tensor
    ce: Tensor
    jsd: Tensor
    hits: Tensor
    """[2] int64: top-1 and top-5 hits; none without labels."""


@takes_numbers("jsd")
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
    **numbers: Unpack[JSDNumbers],
) -> JSDTerms:
    """JSD(beta) = beta · KL(p ‖ m) + (1 − beta) · KL(q ‖ m), m = beta · p + (1 − beta) · q, p the teacher's.

    beta 0 is KL(p ‖ q) and beta 1 is KL(q ‖ p), as in the paper's code: these are not the limits of the formula, which
    are 0. A tensor lies between. There is no τ² unless it is asked for, and no CE unless `ce_weight` is given: labels
    then say which rows count.

    The arguments are those of `kd_loss`, and so are the errors.
    """
    check_logits(student_logits=student_logits)
    given: dict[str, Any] = {**numbers}
    divergence = take_end(given)
    checked = checked_numbers("jsd_loss", "jsd", given, student_logits)
    check_ce_weight(checked["ce_weight"], labels)
    packed = rows.packed("jsd", checked, given, student_logits)
    form = Form(divergence, tau_squared, *rows.given_caps(given))
    counting = Counting(ignore_index, weights, reduction, count)
    return JSDTerms(*rows.compute(student_logits, teacher_logits, labels, packed, form, counting))


class JSDLoss(RowLoss):
    """`jsd_loss` as a module. Its numbers may be set at any time; beta stays between 0 and 1, or is the end it was."""

    form = "jsd"

    def __init__(
        self,
        *,
        tau_squared: bool = False,
        reduction: Reduction = "mean",
        ignore_index: int = -100,
        **numbers: Unpack[JSDNumbers],
    ):
        check_choice("reduction", reduction, rows.REDUCTIONS)
        given: dict[str, Any] = {**numbers}
        divergence = take_end(given)
        super().__init__(given, absent=("beta",) if divergence != "jsd" else ())
        self.divergence = divergence
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
        form = Form(self.divergence, self.tau_squared, *self.caps)
        counting = Counting(self.ignore_index, weights, self.reduction, count)
        packed = self.numbers_beside(student_logits)
        return JSDTerms(*rows.compute(student_logits, teacher_logits, labels, packed, form, counting))


def take_end(given: dict[str, Any]) -> str:
    """The divergence that beta stands for; takes a beta of 0 or 1 out of the numbers, as KL needs none."""
    beta = given.get("beta")
    if isinstance(beta, Tensor) or beta not in (0, 1):
        return "jsd"
    del given["beta"]
    return "reverse" if beta else "forward"
