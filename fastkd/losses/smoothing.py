"""Losses without a teacher's logits: a virtual teacher, which is two numbers, and smoothed labels."""

from typing import Unpack

from torch import Tensor

from fastkd.losses.checks import check_batch, check_choice, check_scalar
from fastkd.losses.kd import CETerms, KDTerms
from fastkd.losses.module import Loss, checked_numbers, takes_numbers
from fastkd.losses.shapes import as_matrix
from fastkd.ops.distill_loss import Numbers, compute
from fastkd.ops.distill_loss.reference import SmoothingSpread
from fastkd.ops.numbers import NUMBERS, Scalar, SmoothingNumbers, VirtualTeacherNumbers

SPREADS = ("all", "others")


@takes_numbers("virtual")
def virtual_teacher_loss(
    student_logits: Tensor,
    labels: Tensor,
    *,
    temperature: Scalar | None = None,
    ignore_index: int = -100,
    **numbers: Unpack[VirtualTeacherNumbers],
) -> KDTerms:
    """ce_weight · CE + kl_weight · KL(virtual teacher ‖ student), the student at temperature 1; nothing is stored.

    student_logits: [B,K], [B,T,K] or [B,K,H,W]; labels: int64, a label a row.

    The virtual teacher u (Tf-KD, Yuan et al. 2020) gives `label_probability` to the label and the rest evenly to the
    other classes. With a `temperature` it is softmax(u / τ), a second softmax, as in the authors' code (whose
    KL is also a mean over the classes: kl_weight = α · multiplier / K). Errors as in `ce_loss`.
    """
    check_batch(labels, student_logits=student_logits)
    checked = checked_numbers("virtual_teacher_loss", "virtual", numbers, student_logits)
    if temperature is not None:
        check_scalar("temperature", temperature, student_logits, NUMBERS["virtual_softened"]["temperature"].range)
        checked["temperature"] = temperature
    form = "virtual" if temperature is None else "virtual_softened"
    return _virtual(form, student_logits, labels, checked, ignore_index)


class VirtualTeacherLoss(Loss):
    """`virtual_teacher_loss` as a module. Its numbers may be set at any time, `temperature` where it was given one."""

    form = "virtual_softened"

    def __init__(
        self,
        *,
        temperature: float | None = None,
        ignore_index: int = -100,
        **numbers: Unpack[VirtualTeacherNumbers],
    ):
        if temperature is None:
            super().__init__(numbers, "virtual")
        else:
            super().__init__({**numbers, "temperature": temperature})
        self.ignore_index = ignore_index

    def lacks(self, name: str) -> str:
        return f"{name}: this virtual teacher was made without one, and is not softened"

    def forward(self, student_logits: Tensor, labels: Tensor) -> KDTerms:
        check_batch(labels, student_logits=student_logits)
        return _virtual(self._form, student_logits, labels, self.numbers, self.ignore_index)


@takes_numbers("smoothing_all")
def label_smoothing_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    spread: SmoothingSpread = "all",
    ignore_index: int = -100,
    **numbers: Unpack[SmoothingNumbers],
) -> CETerms:
    """Cross-entropy with smoothed labels; the part `ce` is that with the labels themselves.

    logits: [B,K], [B,T,K] or [B,K,H,W]; labels: int64, a label a row.
    spread: `smoothing` goes evenly to "all" classes, the label's too (as in torch.nn.functional.cross_entropy), or to
        the "others" (as in Tf-KD's code). Errors as in `ce_loss`.
    """
    check_batch(labels, logits=logits)
    check_choice("spread", spread, SPREADS)
    checked = checked_numbers("label_smoothing_loss", f"smoothing_{spread}", numbers, logits)
    return _smoothing(logits, labels, checked, spread, ignore_index)


class LabelSmoothingLoss(Loss):
    """`label_smoothing_loss` as a module. `smoothing` may be set at any time."""

    form = "smoothing_all"

    def __init__(
        self, *, spread: SmoothingSpread = "all", ignore_index: int = -100, **numbers: Unpack[SmoothingNumbers]
    ):
        check_choice("spread", spread, SPREADS)
        super().__init__(numbers)
        self.ignore_index = ignore_index
        self.spread: SmoothingSpread = spread

    def forward(self, logits: Tensor, labels: Tensor) -> CETerms:
        check_batch(labels, logits=logits)
        return _smoothing(logits, labels, self.numbers, self.spread, self.ignore_index)


def _virtual(form: str, student_logits: Tensor, labels: Tensor, numbers: Numbers, ignore_index: int) -> KDTerms:
    student, labels = as_matrix(student_logits), labels.flatten()
    total, parts, hits = compute(form, student, [], labels, numbers, ignore_index=ignore_index)
    return KDTerms(total, parts[0], parts[1], hits[0])


def _smoothing(logits: Tensor, labels: Tensor, numbers: Numbers, spread: SmoothingSpread, ignore_index: int) -> CETerms:
    form, rows, labels = f"smoothing_{spread}", as_matrix(logits), labels.flatten()
    total, parts, hits = compute(form, rows, [], labels, numbers, ignore_index=ignore_index)
    return CETerms(total, parts[0], hits[0])
