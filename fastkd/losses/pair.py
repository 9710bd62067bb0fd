"""What the losses of a student's logits against one teacher's have in common."""

from typing import Any, ClassVar

from torch import Tensor

from fastkd.losses import by_row
from fastkd.losses.checks import check_choice, check_row_weights
from fastkd.losses.module import Loss
from fastkd.losses.row_checks import WITHOUT_LABELS, check_ce_weight, check_kept, check_rows
from fastkd.losses.rows import REDUCTIONS, Counting, Reduction
from fastkd.ops import distill_loss, kept
from fastkd.ops.distill_loss import Numbers
from fastkd.ops.numbers import STANDARDISED, Scalar
from fastkd.ops.sparse import SparseTeacher


def named(form: str, standardise: bool) -> str:
    """The form's name, that of its standardised variant where the networks are compared so."""
    return form + STANDARDISED if standardise else form


class PairLoss(Loss):
    """A loss of a student's logits against those of one frozen teacher. A subclass names its row and its terms."""

    form = "kd"
    Terms: ClassVar[Any]

    def __init__(self, form: str, standardise: bool, reduction: Reduction, ignore_index: int, numbers: Any):
        check_choice("reduction", reduction, REDUCTIONS)
        super().__init__(numbers, named(form, standardise))
        self.ignore_index = ignore_index
        self.standardise = standardise
        self.reduction: Reduction = reduction

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor | SparseTeacher,
        labels: Tensor | None = None,
        row_weights: Tensor | None = None,
        *,
        weights: Tensor | None = None,
        count: Scalar | None = None,
    ) -> Any:
        """row_weights: how much the comparison of the two networks alone counts in each row; 1 by default."""
        if labels is None and self._form.removesuffix(STANDARDISED) in WITHOUT_LABELS:
            check_ce_weight(self.ce_weight, labels)
        counting = Counting(self.ignore_index, weights, self.reduction, count)
        logits = student_logits, teacher_logits
        return pair_loss(self._form, self.Terms, *logits, labels, self.numbers, counting, row_weights)


def pair_loss(
    form: str,
    terms: Any,
    student_logits: Tensor,
    teacher_logits: Tensor | SparseTeacher,
    labels: Tensor | None,
    numbers: Numbers,
    counting: Counting,
    row_weights: Tensor | None = None,
) -> Any:
    """Checks, computes, and names what is found as `terms` does: the total, the parts and the hits."""
    sparse = isinstance(teacher_logits, SparseTeacher)
    check_rows(form, labels, student_logits=student_logits, **({} if sparse else {"teacher_logits": teacher_logits}))
    check_row_weights(row_weights, student_logits)
    if sparse:
        check_kept(teacher_logits, student_logits, form)
    teacher = teacher_logits if sparse else teacher_logits.detach()
    total, parts, hits = by_row.losses(
        form,
        student_logits,
        [teacher],
        labels,
        numbers,
        counting,
        operation=kept.compute if sparse else distill_loss.compute,
        shares=None if row_weights is None else row_weights[None],
    )
    return terms(total, *parts[: len(terms._fields) - 2], hits[0])
