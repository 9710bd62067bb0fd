"""Losses without a teacher's logits: a virtual teacher, which is two numbers, and smoothed labels."""

from typing import Unpack

from torch import Tensor

from fastkd.losses import by_row
from fastkd.losses.checks import check_choice, check_scalar
from fastkd.losses.kd import CETerms, KDTerms, ce_loss
from fastkd.losses.module import Loss, checked_numbers, takes_numbers
from fastkd.losses.row_checks import check_rows, labels_are_classes
from fastkd.losses.rows import REDUCTIONS, Counting, Reduction
from fastkd.losses.shapes import class_axis
from fastkd.ops.distill_loss import Numbers
from fastkd.ops.distill_loss.reference import SmoothingSpread
from fastkd.ops.numbers import NUMBERS, Role, Scalar, SmoothingNumbers, VirtualTeacherNumbers

SPREADS = ("all", "others")


@takes_numbers("virtual")
def virtual_teacher_loss(
    student_logits: Tensor,
    labels: Tensor,
    *,
    temperature: Scalar | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    count: Scalar | None = None,
    ignore_index: int = -100,
    **numbers: Unpack[VirtualTeacherNumbers],
) -> KDTerms:
    """ce_weight · CE + kl_weight · KL(virtual teacher ‖ student), the student at temperature 1; nothing is stored.

    student_logits: [B,K], [B,T,K] or [B,K,H,W]; labels: int64, a label a row; probabilities, which name no
        single class, are refused.
    weights, reduction, count: see `kd_loss`; what is not the mean over the rows that count is plain PyTorch.

    The virtual teacher u (Tf-KD, Yuan et al. 2020) gives `label_probability` to the label and the rest evenly to the
    other classes. With a `temperature` it is softmax(u / τ), a second softmax, as in the authors' code (whose
    KL is also a mean over the classes: kl_weight = α · multiplier / K). Errors as in `ce_loss`.
    """
    check_rows("virtual", labels, student_logits=student_logits)
    checked = checked_numbers("virtual_teacher_loss", "virtual", numbers, student_logits)
    if temperature is not None:
        check_scalar("temperature", temperature, student_logits, NUMBERS["virtual_softened"]["temperature"].range)
        checked["temperature"] = temperature
    form = "virtual" if temperature is None else "virtual_softened"
    return _virtual(form, student_logits, labels, checked, Counting(ignore_index, weights, reduction, count))


class VirtualTeacherLoss(Loss):
    """`virtual_teacher_loss` as a module. Its numbers may be set at any time, `temperature` where it was given one."""

    form = "virtual_softened"

    def __init__(
        self,
        *,
        temperature: float | None = None,
        reduction: Reduction = "mean",
        ignore_index: int = -100,
        **numbers: Unpack[VirtualTeacherNumbers],
    ):
        check_choice("reduction", reduction, REDUCTIONS)
        if temperature is None:
            super().__init__(numbers, "virtual")
        else:
            super().__init__({**numbers, "temperature": temperature})
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction

    def lacks(self, name: str) -> str:
        return f"{name}: this virtual teacher was made without one, and is not softened"

    def forward(
        self, student_logits: Tensor, labels: Tensor, *, weights: Tensor | None = None, count: Scalar | None = None
    ) -> KDTerms:
        check_rows("virtual", labels, student_logits=student_logits)
        counting = Counting(self.ignore_index, weights, self.reduction, count)
        return _virtual(self._form, student_logits, labels, self.numbers, counting)


@takes_numbers("smoothing_all")
def label_smoothing_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    spread: SmoothingSpread = "all",
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    count: Scalar | None = None,
    ignore_index: int = -100,
    **numbers: Unpack[SmoothingNumbers],
) -> CETerms:
    """Cross-entropy with smoothed labels; the part `ce` is that with the labels themselves.

    logits: [B,K], [B,T,K] or [B,K,H,W]; labels: int64, a label a row, or probabilities in the logits' shape, which are
        smoothed likewise.
    spread: `smoothing` goes evenly to "all" classes, the label's too (as in torch.nn.functional.cross_entropy), or to
        the "others" (as in Tf-KD's code).
    weights, reduction, count: see `kd_loss`; what is not the mean over the rows that count is plain PyTorch.

    Errors as in `ce_loss`.
    """
    check_rows("smoothing", labels, logits=logits)
    check_choice("spread", spread, SPREADS)
    checked = checked_numbers("label_smoothing_loss", f"smoothing_{spread}", numbers, logits)
    counting = Counting(ignore_index, weights, reduction, count)
    return _smoothing(logits, labels, checked, spread, counting)


class LabelSmoothingLoss(Loss):
    """`label_smoothing_loss` as a module. `smoothing` may be set at any time."""

    form = "smoothing_all"

    def __init__(
        self,
        *,
        spread: SmoothingSpread = "all",
        reduction: Reduction = "mean",
        ignore_index: int = -100,
        **numbers: Unpack[SmoothingNumbers],
    ):
        check_choice("spread", spread, SPREADS)
        check_choice("reduction", reduction, REDUCTIONS)
        super().__init__(numbers)
        self.ignore_index = ignore_index
        self.spread: SmoothingSpread = spread
        self.reduction: Reduction = reduction

    def forward(
        self, logits: Tensor, labels: Tensor, *, weights: Tensor | None = None, count: Scalar | None = None
    ) -> CETerms:
        check_rows("smoothing", labels, logits=logits)
        counting = Counting(self.ignore_index, weights, self.reduction, count)
        return _smoothing(logits, labels, self.numbers, self.spread, counting)


def _virtual(form: str, student_logits: Tensor, labels: Tensor, numbers: Numbers, counting: Counting) -> KDTerms:
    total, parts, hits = by_row.losses(form, student_logits, [], labels, numbers, counting)
    return KDTerms(total, parts[0], parts[1], hits[0])


def _smoothing(
    logits: Tensor, labels: Tensor, numbers: Numbers, spread: SmoothingSpread, counting: Counting
) -> CETerms:
    if not labels_are_classes(labels):
        smoothing = numbers[Role.SMOOTHING] if isinstance(numbers, Tensor) else numbers["smoothing"]
        return _of_probabilities(logits, labels, smoothing, spread, counting)
    total, parts, hits = by_row.losses(f"smoothing_{spread}", logits, [], labels, numbers, counting)
    return CETerms(total, parts[0], hits[0])


def _of_probabilities(
    logits: Tensor, labels: Tensor, smoothing: Scalar, spread: SmoothingSpread, counting: Counting
) -> CETerms:
    classes, how = logits.shape[class_axis(logits)], counting._asdict()
    from_all = 1 if spread == "all" else 1 - labels
    share = smoothing / (classes if spread == "all" else max(classes - 1, 1))
    smoothed = (1 - smoothing) * labels + share * from_all
    total = ce_loss(logits, smoothed, **how).total
    return ce_loss(logits, labels, **how)._replace(total=total)
