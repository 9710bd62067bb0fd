"""What the losses of a student's logits against one teacher's have in common."""

from typing import Any, ClassVar

from torch import Tensor

from fastkd.losses.checks import check_batch, check_decoupled, check_row_weights
from fastkd.losses.module import Loss
from fastkd.losses.shapes import as_matrix
from fastkd.ops.distill_loss import Numbers, compute
from fastkd.ops.numbers import STANDARDISED

DECOUPLED = ("dkd", "nkd")
"""The forms that need a class beside the label's."""


def named(form: str, standardise: bool) -> str:
    """The form's name, that of its standardised variant where the networks are compared so."""
    return form + STANDARDISED if standardise else form


class PairLoss(Loss):
    """A loss of a student's logits against those of one frozen teacher. A subclass names its row and its terms."""

    form = "kd"
    Terms: ClassVar[Any]

    def __init__(self, form: str, standardise: bool, ignore_index: int, numbers: Any):
        super().__init__(numbers, named(form, standardise))
        self.ignore_index = ignore_index
        self.standardise = standardise

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, row_weights: Tensor | None = None
    ) -> Any:
        """row_weights: [B], how much the comparison of the two networks counts in each row; 1 by default."""
        logits = student_logits, teacher_logits
        return pair_loss(self._form, self.Terms, *logits, labels, self.numbers, self.ignore_index, row_weights)


def pair_loss(
    form: str,
    terms: Any,
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    numbers: Numbers,
    ignore_index: int,
    row_weights: Tensor | None = None,
) -> Any:
    """Checks, computes, and names what is found as `terms` does: the total, the parts and the hits."""
    check = check_decoupled if form.removesuffix(STANDARDISED) in DECOUPLED else check_batch
    check(labels, student_logits=student_logits, teacher_logits=teacher_logits)
    check_row_weights(row_weights, student_logits)
    shares = None if row_weights is None else row_weights.flatten()[None]
    student, frozen = as_matrix(student_logits), [as_matrix(teacher_logits.detach())]
    total, parts, hits = compute(
        form, student, frozen, labels.flatten(), numbers, shares=shares, ignore_index=ignore_index
    )
    return terms(total, *parts[: len(terms._fields) - 2], hits[0])
