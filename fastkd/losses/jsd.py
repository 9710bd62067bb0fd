"""The generalised Jensen-Shannon divergence (Agarwal et al.: "On-policy distillation of language models: learning from
self-generated mistakes", ICLR 2024, arXiv 2306.13649), between KL in its two directions."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Unpack

from torch import Tensor

from fastkd.losses import by_row, rows
from fastkd.losses.checks import check_choice
from fastkd.losses.module import checked_numbers, takes_numbers
from fastkd.losses.pair import named, pair_loss
from fastkd.losses.row_checks import check_ce_weight, check_networks, check_rows, check_standardised, check_teacher
from fastkd.losses.rows import NUMBERS_OF_LOGITS, Counting, Reduction, RowLoss, RowTeacher
from fastkd.losses.shapes import class_axis, shape_of_labels
from fastkd.losses.teachers import TeacherProbabilities
from fastkd.ops import floored
from fastkd.ops.distill_loss import Numbers
from fastkd.ops.numbers import JSDRowNumbers, Role, Scalar
from fastkd.ops.row_loss import Form
from fastkd.support.ranges import FROM_0_TO_BELOW_1


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
    standardise: bool = False,
    tau_squared: bool = False,
    floor: float = 0.0,
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

    standardise: compare the logits of each row as multiples of their deviation, less their mean (Sun et al. 2024); CE
        is always that of the logits themselves. What it is for, the other arguments and the errors are as in `kd_loss`.
    floor: a probability below it counts as it, in both networks, and no gradient comes from it; 0 for none. Of a
        `SparseTeacher` it is that of the others alone. This is how TRL's trainers clamp: 1e-8 for probabilities,
        −expm1(−1e-7) for kept classes. It is plain PyTorch, for logits as they are, and without τ².
    """
    counting = Counting(ignore_index, weights, reduction, count)
    simple = not tau_squared and not any(name in numbers for name in NUMBERS_OF_LOGITS)
    _check_floor(floor, simple and not standardise)
    if standardise:
        check_standardised(simple and isinstance(teacher_logits, Tensor))
    if floor:
        given = checked_numbers("jsd_loss", "jsd", numbers, student_logits)
        return _floored(student_logits, teacher_logits, labels, given, given, counting, floor)
    if standardise or (simple and rows.is_small(student_logits, teacher_logits, labels, counting)):
        given = checked_numbers("jsd_loss", "jsd", numbers, student_logits)
        check_ce_weight(given["ce_weight"], labels)
        return _small(named("jsd", standardise), student_logits, teacher_logits, labels, given, counting)
    check_networks(student_logits, teacher_logits)
    checked = checked_numbers("jsd_loss", "jsd_rows", numbers, student_logits)
    check_ce_weight(checked["ce_weight"], labels)
    packed = rows.packed("jsd_rows", checked, numbers, student_logits)
    form = Form("jsd", tau_squared, *rows.given_caps(numbers))
    return JSDTerms(*rows.compute(student_logits, teacher_logits, labels, packed, form, counting))


class JSDLoss(RowLoss):
    """`jsd_loss` as a module. Its numbers may be set at any time; it has a soft-cap if it was made with one."""

    form = "jsd_rows"

    def __init__(
        self,
        *,
        standardise: bool = False,
        tau_squared: bool = False,
        floor: float = 0.0,
        reduction: Reduction = "mean",
        ignore_index: int = -100,
        **numbers: Unpack[JSDRowNumbers],
    ):
        check_choice("reduction", reduction, rows.REDUCTIONS)
        of_logits = any(name in numbers for name in NUMBERS_OF_LOGITS)
        if standardise:
            check_standardised(not tau_squared and not of_logits)
        _check_floor(floor, not (standardise or tau_squared or of_logits))
        super().__init__(numbers, "jsd_rows" if of_logits else named("jsd", standardise))
        self.ignore_index = ignore_index
        self.standardise = standardise
        self.tau_squared = tau_squared
        self.floor = floor
        self.reduction: Reduction = reduction

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: RowTeacher,
        labels: Tensor | None = None,
        row_weights: Tensor | None = None,
        *,
        weights: Tensor | None = None,
        count: Scalar | None = None,
    ) -> JSDTerms:
        """row_weights: how much the comparison alone counts in each row; where `standardise` may be given."""
        counting = Counting(self.ignore_index, weights, self.reduction, count)
        simple = self._form != "jsd_rows" and not self.tau_squared
        if self.floor:
            if row_weights is not None:
                raise ValueError("row_weights are for a divergence without a floor: weights count the whole row")
            of_ce = {"ce_weight": self.ce_weight}
            return _floored(student_logits, teacher_logits, labels, self.numbers, of_ce, counting, self.floor)
        if self.standardise or row_weights is not None:
            check_standardised(simple and isinstance(teacher_logits, Tensor))
        elif not (simple and rows.is_small(student_logits, teacher_logits, labels, counting)):
            return self._of_rows(student_logits, teacher_logits, labels, counting)
        if labels is None:
            check_ce_weight(self.ce_weight, labels)
        return _small(self._form, student_logits, teacher_logits, labels, self.numbers, counting, row_weights)

    def _of_rows(
        self, student_logits: Tensor, teacher_logits: RowTeacher, labels: Tensor | None, counting: Counting
    ) -> JSDTerms:
        check_networks(student_logits, teacher_logits)
        if labels is None:
            check_ce_weight(self.ce_weight, labels)
        form, packed = Form("jsd", self.tau_squared, *self.caps), self.numbers_beside(student_logits)
        return JSDTerms(*rows.compute(student_logits, teacher_logits, labels, packed, form, counting))


def _small(
    form: str,
    student: Tensor,
    teacher: Any,
    labels: Any,
    numbers: Numbers,
    counting: Counting,
    row_weights: Tensor | None = None,
) -> JSDTerms:
    return pair_loss(form, JSDTerms, student, teacher, labels, numbers, counting, row_weights)


def _check_floor(floor: float, possible: bool) -> None:
    FROM_0_TO_BELOW_1.check("floor", floor)
    if floor and not possible:
        raise ValueError("floor is for logits as they are, without standardise, tau_squared, a scale or a soft-cap")


def _floored(
    student: Tensor,
    teacher: RowTeacher,
    labels: Tensor | None,
    numbers: Numbers,
    of_ce: Mapping[str, Scalar],
    counting: Counting,
    floor: float,
) -> JSDTerms:
    check_networks(student, teacher)
    check_rows("jsd", labels, student_logits=student)
    check_ce_weight(of_ce["ce_weight"], labels)
    check_teacher(teacher, shape_of_labels(student), student.shape[class_axis(student)], student, "jsd")
    if isinstance(teacher, TeacherProbabilities):
        temperature = numbers[Role.TEMPERATURE] if isinstance(numbers, Tensor) else numbers["temperature"]
        teacher = teacher.probabilities.detach().log() * temperature
    how = {"operation": floored.compute, "floor": floor}
    total, (ce, jsd), hits = by_row.losses("jsd", student, [teacher], labels, numbers, counting, **how)
    return JSDTerms(total, ce, jsd, hits[0])
