"""Cross-entropy, and knowledge distillation from one teacher or several."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Unpack

from torch import Tensor

from fastkd.losses import by_row, rows
from fastkd.losses.checks import check_batch, check_choice, check_logits, check_teacher_weights
from fastkd.losses.module import Loss, checked_numbers, takes_numbers
from fastkd.losses.pair import named
from fastkd.losses.row_checks import (
    check_ce_weight,
    check_kept,
    check_networks,
    check_rows,
    check_several,
    check_standardised,
)
from fastkd.losses.rows import NUMBERS_OF_LOGITS, Counting, Divergence, Reduction, RowLoss, RowTeacher
from fastkd.ops import kept
from fastkd.ops.distill_loss import Numbers, compute
from fastkd.ops.numbers import KDNumbers, KDRowNumbers, Scalar
from fastkd.ops.row_loss import Form
from fastkd.ops.sparse import SparseTeacher


class CETerms(NamedTuple):
    """Cross-entropy of one network."""

    total: Tensor
    """The one differentiable value."""
    ce: Tensor
    hits: Tensor
    """[2] int64: in how many counted rows the label is among the top 1, the top 5."""


class KDTerms(NamedTuple):
    """ce_weight · CE + kl_weight · τ² KL(teacher ‖ student)."""

    total: Tensor
    ce: Tensor
    kl: Tensor
    """τ² KL, before its weight."""
    hits: Tensor


def ce_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    count: Scalar | None = None,
    ignore_index: int = -100,
) -> CETerms:
    """Cross-entropy with hit counts, in nats, averaged over the rows whose label is not `ignore_index`.

    logits: [B,K]; [B,T,K], a row a token; or [B,K,H,W], a row a pixel.
    labels: int64, of that shape without K; or probabilities in the shape of the logits, as mixed images have them. The
        hits are then counted for the likeliest class.
    weights, reduction, count: see `kd_loss`.

    Raises ValueError or TypeError for what has another shape, type or device, and RuntimeError on the CPU for a label
    outside 0..K-1 (on a GPU, FASTKD_CHECK_LABELS=1 turns on a device assertion).
    """
    counting = Counting(ignore_index, weights, reduction, count)
    if rows.is_small(logits, None, labels, counting):
        check_batch(labels, logits=logits)
        total, parts, hits = compute("ce", logits, [], labels, {}, ignore_index=ignore_index)
        return CETerms(total, parts[0], hits[0])
    check_logits(logits=logits)
    if labels is None:
        raise TypeError("labels are what ce_loss compares with, got None")
    numbers = rows.packed("kd_rows", {"ce_weight": 1.0}, {}, logits)
    found = rows.compute(logits, None, labels, numbers, _form("forward", (False, False)), counting)
    return CETerms(found.total, found.ce, found.hits)


@takes_numbers("kd_rows")
def kd_loss(
    student_logits: Tensor,
    teacher_logits: RowTeacher,
    labels: Tensor | None = None,
    *,
    standardise: bool = False,
    divergence: Divergence = "forward",
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    count: Scalar | None = None,
    ignore_index: int = -100,
    **numbers: Unpack[KDRowNumbers],
) -> KDTerms:
    """Knowledge distillation (Hinton et al. 2015): ce_weight · CE + kl_weight · τ² KL(teacher ‖ student).

    student_logits: [B,K]; [B,T,K], a row a token; or [B,K,H,W], a row a pixel. They are read where they are, with any
        strides, [B,T,K] that was cut out of a longer sequence, too.
    teacher_logits: the same of a teacher; or what else may be known of it: a `SparseTeacher` or `TeacherProbabilities`.
        No gradient reaches it.
    labels: int64, of the logits' shape without K; probabilities in the logits' shape; or None, and ce_weight is 0.
    standardise: KL compares the logits of each row less their mean, divided by their deviation (divisor K − 1) plus
        1e-7 (Sun, Ren, Li, Wang, Cao: "Logit standardization in knowledge distillation", CVPR 2024, arXiv 2403.01427).
        It is for a teacher's logits as they are, and "forward".
    divergence: "forward" is KL(teacher ‖ student), "reverse" KL(student ‖ teacher).
    weights: a number a row, in the labels' shape; rows of weight 0 are not read, and no gradient reaches the weights.
    reduction: "mean" over the rows that count (their label is not `ignore_index`), weighted by `weights`; "sum"; or
        "none", a loss a row in the labels' shape, 0 for one that does not count, and parts that are not weighted.
    count: a number, or a tensor of one number, that a mean is divided by in place of the sum of the weights: that of a
        step's tokens where its gradient is accumulated over several calls.
    logit_scale, softcap: logits are softcap · tanh(logit_scale · z / softcap) before anything else, as some language
        models have it; the teacher's have its own. By default they are used as they are.

    CE is taken at temperature 1, KL at `temperature`. Errors as in `ce_loss`.
    """
    counting = Counting(ignore_index, weights, reduction, count)
    given = rows.without_labels(numbers, labels)
    simple = divergence == "forward" and not any(name in given for name in NUMBERS_OF_LOGITS)
    if standardise:
        check_standardised(simple and isinstance(teacher_logits, Tensor))
    if standardise or (simple and rows.is_small(student_logits, teacher_logits, labels, counting)):
        check_rows("kd", labels, student_logits=student_logits, teacher_logits=teacher_logits)
        checked = checked_numbers("kd_loss", "kd", given, student_logits)
        check_ce_weight(checked["ce_weight"], labels)
        return _kd(named("kd", standardise), student_logits, [teacher_logits], labels, checked, counting)
    check_choice("divergence", divergence, rows.DIVERGENCES)
    check_networks(student_logits, teacher_logits)
    checked = checked_numbers("kd_loss", "kd_rows", given, student_logits)
    check_ce_weight(checked["ce_weight"], labels)
    packed = rows.packed("kd_rows", checked, given, student_logits)
    form = _form(divergence, rows.given_caps(given))
    return KDTerms(*rows.compute(student_logits, teacher_logits, labels, packed, form, counting))


@takes_numbers("kd")
def multi_teacher_loss(
    student_logits: Tensor,
    teacher_logits: Tensor | Sequence[Tensor] | Sequence[SparseTeacher],
    labels: Tensor | None = None,
    *,
    teacher_weights: Tensor | None = None,
    standardise: bool = False,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    count: Scalar | None = None,
    ignore_index: int = -100,
    **numbers: Unpack[KDNumbers],
) -> KDTerms:
    """`kd_loss` from several teachers: KL is the sum over them of weight · τ² KL(teacher ‖ student).

    This is KL(mean teacher ‖ student), the mean teacher being the weighted mean of the teachers' probabilities at
    `temperature`, plus what the teachers disagree among themselves (with weights that sum to 1, their Jensen-Shannon
    divergence times τ²). That does not depend on the student: the gradient is the mean teacher's. The value is that of
    the sum, as in the code of the multi-teacher papers.

    student_logits, labels: as in `kd_loss`.
    teacher_logits: [M,B,K], or a sequence of M tensors [B,K], with rows as the student's; M >= 1; or a sequence of M
        `SparseTeacher`. No gradient reaches them.
    teacher_weights: [M], or [M,B] for weights of each row; 1/M by default. They are used as they are, detached.
    standardise, weights, reduction, count: as in `kd_loss`; what is not the mean over the rows that count is plain
        PyTorch.

    Errors as in `ce_loss`.
    """
    checked = checked_numbers("multi_teacher_loss", "kd", rows.without_labels(numbers, labels), student_logits)
    check_ce_weight(checked["ce_weight"], labels)
    form, counting = named("kd", standardise), Counting(ignore_index, weights, reduction, count)
    return _from_several(form, student_logits, teacher_logits, labels, checked, counting, teacher_weights)


class KDLoss(RowLoss):
    """`kd_loss` as a module. Its numbers may be set at any time; it has a soft-cap if it was made with one."""

    form = "kd_rows"

    def __init__(
        self,
        *,
        standardise: bool = False,
        divergence: Divergence = "forward",
        reduction: Reduction = "mean",
        ignore_index: int = -100,
        **numbers: Unpack[KDRowNumbers],
    ):
        check_choice("divergence", divergence, rows.DIVERGENCES)
        check_choice("reduction", reduction, rows.REDUCTIONS)
        of_logits = any(name in numbers for name in NUMBERS_OF_LOGITS)
        if standardise:
            check_standardised(divergence == "forward" and not of_logits)
        super().__init__(numbers, "kd_rows" if of_logits else named("kd", standardise))
        self.ignore_index = ignore_index
        self.standardise = standardise
        self.divergence: Divergence = divergence
        self.reduction: Reduction = reduction

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: RowTeacher,
        labels: Tensor | None = None,
        *,
        weights: Tensor | None = None,
        count: Scalar | None = None,
    ) -> KDTerms:
        counting = Counting(self.ignore_index, weights, self.reduction, count)
        simple = self._form != "kd_rows" and self.divergence == "forward"
        if self.standardise:
            check_standardised(isinstance(teacher_logits, Tensor))
        if labels is None:
            check_ce_weight(self.ce_weight, labels)
        if self.standardise or (simple and rows.is_small(student_logits, teacher_logits, labels, counting)):
            check_rows("kd", labels, student_logits=student_logits, teacher_logits=teacher_logits)
            return _kd(self._form, student_logits, [teacher_logits], labels, self.numbers, counting)
        check_networks(student_logits, teacher_logits)
        packed, form = self.numbers_beside(student_logits), _form(self.divergence, self.caps)
        return KDTerms(*rows.compute(student_logits, teacher_logits, labels, packed, form, counting))


class MultiTeacherLoss(Loss):
    """`multi_teacher_loss` as a module. Its numbers may be set at any time."""

    form = "kd"

    def __init__(
        self,
        *,
        standardise: bool = False,
        reduction: Reduction = "mean",
        ignore_index: int = -100,
        **numbers: Unpack[KDNumbers],
    ):
        check_choice("reduction", reduction, rows.REDUCTIONS)
        super().__init__(numbers, named("kd", standardise))
        self.ignore_index = ignore_index
        self.standardise = standardise
        self.reduction: Reduction = reduction

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor | Sequence[Tensor] | Sequence[SparseTeacher],
        labels: Tensor | None = None,
        teacher_weights: Tensor | None = None,
        *,
        weights: Tensor | None = None,
        count: Scalar | None = None,
    ) -> KDTerms:
        if labels is None:
            check_ce_weight(self.ce_weight, labels)
        counting = Counting(self.ignore_index, weights, self.reduction, count)
        given = student_logits, teacher_logits, labels
        return _from_several(self._form, *given, self.numbers, counting, teacher_weights)


def _form(divergence: str, caps: tuple[bool, bool]) -> Form:
    return Form(divergence, True, *caps)


def _from_several(
    form: str,
    student_logits: Tensor,
    teacher_logits: Any,
    labels: Tensor | None,
    numbers: Numbers,
    counting: Counting,
    shares: Tensor | None,
) -> KDTerms:
    several = teacher_logits if isinstance(teacher_logits, Sequence) else ()
    if not several or not all(isinstance(teacher, SparseTeacher) for teacher in several):
        teachers = check_several(form, labels, "teacher_logits", teacher_logits, student_logits=student_logits)
        check_teacher_weights(shares, teachers)
        return _kd(form, student_logits, teachers, labels, numbers, counting, shares)
    check_rows(form, labels, student_logits=student_logits)
    for teacher in several:
        check_kept(teacher, student_logits, form)
    check_teacher_weights(shares, [teacher.log_rest() for teacher in several])
    how = {"operation": kept.compute, "shares": shares}
    total, (ce, kl), hits = by_row.losses(form, student_logits, several, labels, numbers, counting, **how)
    return KDTerms(total, ce, kl, hits[0])


def _kd(
    form: str,
    student_logits: Tensor,
    teachers: Sequence[Any],
    labels: Any,
    numbers: Numbers,
    counting: Counting,
    shares: Tensor | None = None,
) -> KDTerms:
    frozen = [teacher.detach() for teacher in teachers]
    total, parts, hits = by_row.losses(form, student_logits, frozen, labels, numbers, counting, shares=shares)
    return KDTerms(total, parts[0], parts[1], hits[0])
