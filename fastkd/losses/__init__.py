"""The distillation losses for use in any project; needs torch and numpy alone.

    from fastkd.losses import KDLoss
    loss = KDLoss(temperature=4.0, kl_weight=0.9, ce_weight=0.1)
    loss(student_logits, teacher_logits, labels).total.backward()

Logits are [B,K], floating point, of one device; labels [B] int64 on it. Every function returns a small named tuple:
`total`, the one differentiable value, its parts detached, and the hit counts; all stay on that device and nothing waits
for it. Temperatures and weights are numbers, or tensors of one number on that device, to which no gradient goes.

The modules take numbers, and those may be set by their names at any time: `loss.temperature = 2.0`. A captured graph
and a compiled one follow.
"""

from collections.abc import Sequence
from typing import cast

from torch import Tensor

from fastkd.losses.checks import (
    check_batch,
    check_choice,
    check_decoupled,
    check_scalar,
    check_scalars,
    check_several,
    check_teacher_weights,
)
from fastkd.losses.crd import CRDLoss
from fastkd.losses.module import Adjustable, Setting, above_zero, from_0_to_1
from fastkd.ops import distill_loss
from fastkd.ops.crd import CRDTerms
from fastkd.ops.distill_loss import CETerms, DKDTerms, KDTerms, KLDirection, Scalar, SFTNTerms, SmoothingSpread

__all__ = [
    "CETerms",
    "CRDLoss",
    "CRDTerms",
    "DKDLoss",
    "DKDTerms",
    "KDLoss",
    "KDTerms",
    "LabelSmoothingLoss",
    "MultiTeacherLoss",
    "SFTNLoss",
    "SFTNTerms",
    "VirtualTeacherLoss",
    "ce_loss",
    "dkd_loss",
    "kd_loss",
    "label_smoothing_loss",
    "multi_teacher_loss",
    "sftn_loss",
    "virtual_teacher_loss",
]

DIRECTIONS = ("forward", "reverse")
SPREADS = ("all", "others")


def ce_loss(logits: Tensor, labels: Tensor, *, ignore_index: int = -100) -> CETerms:
    """Cross-entropy with hit counts, in nats, averaged over the rows whose label is not `ignore_index`.

    logits: [B,K]; labels: [B] int64.

    Raises ValueError or TypeError for logits that are not a [B,K] floating-point matrix or labels that are not [B]
    int64 beside them, and RuntimeError on the CPU for a label outside 0..K-1 (on a GPU, FASTKD_CHECK_LABELS=1 turns on
    a device assertion).
    """
    check_batch(labels, logits=logits)
    return distill_loss.ce_loss(logits, labels, ignore_index=ignore_index)


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: Scalar,
    kl_weight: Scalar,
    ce_weight: Scalar,
    ignore_index: int = -100,
) -> KDTerms:
    """Knowledge distillation (Hinton et al. 2015): ce_weight · CE + kl_weight · τ² KL(teacher ‖ student).

    student_logits, teacher_logits: [B,K]; labels: [B] int64.

    CE is taken at temperature 1, KL at `temperature`; no gradient reaches the teacher. Errors as in `ce_loss`.
    """
    check_batch(labels, student_logits=student_logits, teacher_logits=teacher_logits)
    check_scalar("temperature", temperature, student_logits, above_zero)
    check_scalars(student_logits, kl_weight=kl_weight, ce_weight=ce_weight)
    settings = (temperature, kl_weight, ce_weight)
    return distill_loss.kd_loss(student_logits, [teacher_logits], labels, settings, ignore_index=ignore_index)


def multi_teacher_loss(
    student_logits: Tensor,
    teacher_logits: Tensor | Sequence[Tensor],
    labels: Tensor,
    *,
    temperature: Scalar,
    kl_weight: Scalar,
    ce_weight: Scalar,
    teacher_weights: Tensor | None = None,
    ignore_index: int = -100,
) -> KDTerms:
    """`kd_loss` from several teachers: KL is the sum over them of weight · τ² KL(teacher ‖ student).

    This is KL(mean teacher ‖ student), the mean teacher being the weighted mean of the teachers' probabilities at
    `temperature`, plus what the teachers disagree among themselves (with weights that sum to 1, their Jensen-Shannon
    divergence times τ²). That does not depend on the student: the gradient is the mean teacher's. The value is that of
    the sum, as in the code of the multi-teacher papers.

    student_logits: [B,K]; labels: [B] int64.
    teacher_logits: [M,B,K], or a sequence of M tensors [B,K]; M >= 1. No gradient reaches them.
    teacher_weights: [M], or [M,B] for weights of each sample; 1/M by default. They are used as they are, detached.

    Errors as in `ce_loss`.
    """
    teachers = check_several(labels, "teacher_logits", teacher_logits, student_logits=student_logits)
    check_scalar("temperature", temperature, student_logits, above_zero)
    check_scalars(student_logits, kl_weight=kl_weight, ce_weight=ce_weight)
    check_teacher_weights(teacher_weights, teachers)
    settings = (temperature, kl_weight, ce_weight)
    return distill_loss.kd_loss(
        student_logits, teachers, labels, settings, teacher_weights=teacher_weights, ignore_index=ignore_index
    )


def sftn_loss(
    teacher_logits: Tensor,
    branch_logits: Tensor | Sequence[Tensor],
    labels: Tensor,
    *,
    temperature: Scalar,
    teacher_weight: Scalar,
    kl_weight: Scalar,
    ce_weight: Scalar,
    kl: KLDirection = "forward",
    detach_teacher: bool = False,
    ce_temperature: Scalar = 1.0,
    tau_squared: bool = True,
    ignore_index: int = -100,
) -> SFTNTerms:
    """The loss of a student-friendly teacher and its branches (SFTN, Park et al. 2021, Eqs. 3-6).

    teacher_weight · CE(teacher) + mean over branches of (kl_weight · τ² KL + ce_weight · CE(branch)), with gradients to
    the teacher and to every branch.

    teacher_logits: [B,K]; labels: [B] int64.
    branch_logits: [N,B,K], or a sequence of N tensors [B,K]; N >= 1.
    kl: "forward" is KL(teacher ‖ branch), "reverse" KL(branch ‖ teacher). The paper's Eq. 5 prints the reverse; its
        training loop was not found, and the loss class its code family uses gives the forward one: the default here is
        our choice.
    detach_teacher: the KL term sends no gradient to the teacher.
    ce_temperature, tau_squared: the paper prints CE at temperature τ and no τ²; at its τ = 1 all readings agree.

    Errors as in `ce_loss`.
    """
    check_choice("kl", kl, DIRECTIONS)
    branches = check_several(labels, "branch_logits", branch_logits, teacher_logits=teacher_logits)
    check_scalar("temperature", temperature, teacher_logits, above_zero)
    check_scalar("ce_temperature", ce_temperature, teacher_logits, above_zero)
    check_scalars(teacher_logits, teacher_weight=teacher_weight, kl_weight=kl_weight, ce_weight=ce_weight)
    return distill_loss.sftn_loss(
        teacher_logits,
        branches,
        labels,
        (temperature, kl_weight, teacher_weight, ce_weight, ce_temperature),
        kl=kl,
        detach_teacher=detach_teacher,
        tau_squared=tau_squared,
        ignore_index=ignore_index,
    )


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: Scalar,
    alpha: Scalar,
    beta: Scalar,
    ce_weight: Scalar,
    ignore_index: int = -100,
) -> DKDTerms:
    """Decoupled knowledge distillation (Zhao et al. 2022): ce_weight · CE + τ² (alpha · TCKD + beta · NCKD).

    student_logits, teacher_logits: [B,K], K >= 2; labels: [B] int64.

    TCKD is KL between (label, all other classes), NCKD that within the other classes. The paper's warm-up multiplies
    both by min(epoch / 20, 1): a change of alpha and beta. No gradient reaches the teacher. Errors as in `ce_loss`.
    """
    check_decoupled(labels, student_logits=student_logits, teacher_logits=teacher_logits)
    check_scalar("temperature", temperature, student_logits, above_zero)
    check_scalars(student_logits, alpha=alpha, beta=beta, ce_weight=ce_weight)
    settings = (temperature, alpha, ce_weight, beta)
    return distill_loss.dkd_loss(student_logits, teacher_logits, labels, settings, ignore_index=ignore_index)


def virtual_teacher_loss(
    student_logits: Tensor,
    labels: Tensor,
    *,
    label_probability: Scalar,
    kl_weight: Scalar,
    ce_weight: Scalar,
    temperature: Scalar | None = None,
    ignore_index: int = -100,
) -> KDTerms:
    """ce_weight · CE + kl_weight · KL(virtual teacher ‖ student), the student at temperature 1; nothing is stored.

    student_logits: [B,K]; labels: [B] int64.

    The virtual teacher u (Tf-KD, Yuan et al. 2020) gives `label_probability` to the label and the rest evenly to the
    other classes. With a `temperature` it is softmax(u / τ), a second softmax, as in the paper's released code (whose
    KL is also a mean over the classes: kl_weight = α · multiplier / K). Errors as in `ce_loss`.
    """
    check_batch(labels, student_logits=student_logits)
    softening = 1.0 if temperature is None else temperature
    check_scalar("temperature", softening, student_logits, above_zero)
    check_scalar("label_probability", label_probability, student_logits, from_0_to_1)
    check_scalars(student_logits, kl_weight=kl_weight, ce_weight=ce_weight)
    settings = (softening, kl_weight, ce_weight, label_probability)
    return distill_loss.virtual_teacher_loss(
        student_logits, labels, settings, softened=temperature is not None, ignore_index=ignore_index
    )


def label_smoothing_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    smoothing: Scalar,
    spread: SmoothingSpread = "all",
    ignore_index: int = -100,
) -> CETerms:
    """Cross-entropy with smoothed labels; the part `ce` is that with the labels themselves.

    logits: [B,K]; labels: [B] int64.
    spread: `smoothing` goes evenly to "all" classes, the label's too (as in torch.nn.functional.cross_entropy), or to
        the "others" (as in Tf-KD's code). Errors as in `ce_loss`.
    """
    check_batch(labels, logits=logits)
    check_scalar("smoothing", smoothing, logits, from_0_to_1)
    check_choice("spread", spread, SPREADS)
    settings = (1.0, 1.0, 0.0, 1.0 - smoothing)
    return distill_loss.label_smoothing_loss(logits, labels, settings, spread=spread, ignore_index=ignore_index)


class _Loss(Adjustable):
    def __init__(self, settings: int, ignore_index: int):
        super().__init__(settings)
        self.ignore_index = ignore_index


class KDLoss(_Loss):
    """`kd_loss` as a module. Its numbers may be set at any time."""

    temperature = Setting(0, above_zero)
    kl_weight = Setting(1)
    ce_weight = Setting(2)

    def __init__(
        self,
        *,
        temperature: float = 4.0,
        kl_weight: float = 0.9,
        ce_weight: float = 0.1,
        ignore_index: int = -100,
    ):
        super().__init__(3, ignore_index)
        self.temperature, self.kl_weight, self.ce_weight = temperature, kl_weight, ce_weight

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> KDTerms:
        check_batch(labels, student_logits=student_logits, teacher_logits=teacher_logits)
        return distill_loss.kd_loss(
            student_logits, [teacher_logits], labels, self.settings, ignore_index=self.ignore_index
        )


class MultiTeacherLoss(_Loss):
    """`multi_teacher_loss` as a module. Its numbers may be set at any time."""

    temperature = Setting(0, above_zero)
    kl_weight = Setting(1)
    ce_weight = Setting(2)

    def __init__(
        self,
        *,
        temperature: float = 4.0,
        kl_weight: float = 0.9,
        ce_weight: float = 0.1,
        ignore_index: int = -100,
    ):
        super().__init__(3, ignore_index)
        self.temperature, self.kl_weight, self.ce_weight = temperature, kl_weight, ce_weight

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor | Sequence[Tensor],
        labels: Tensor,
        teacher_weights: Tensor | None = None,
    ) -> KDTerms:
        teachers = check_several(labels, "teacher_logits", teacher_logits, student_logits=student_logits)
        check_teacher_weights(teacher_weights, teachers)
        return distill_loss.kd_loss(
            student_logits,
            teachers,
            labels,
            self.settings,
            teacher_weights=teacher_weights,
            ignore_index=self.ignore_index,
        )


class SFTNLoss(_Loss):
    """`sftn_loss` as a module, with the paper's CIFAR weights by default. Its numbers may be set at any time."""

    temperature = Setting(0, above_zero)
    kl_weight = Setting(1)
    teacher_weight = Setting(2)
    ce_weight = Setting(3)
    ce_temperature = Setting(4, above_zero)

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        teacher_weight: float = 1.0,
        kl_weight: float = 3.0,
        ce_weight: float = 1.0,
        kl: KLDirection = "forward",
        detach_teacher: bool = False,
        ce_temperature: float = 1.0,
        tau_squared: bool = True,
        ignore_index: int = -100,
    ):
        check_choice("kl", kl, DIRECTIONS)
        super().__init__(5, ignore_index)
        self.temperature, self.ce_temperature = temperature, ce_temperature
        self.teacher_weight, self.kl_weight, self.ce_weight = teacher_weight, kl_weight, ce_weight
        self.kl: KLDirection = kl
        self.detach_teacher = detach_teacher
        self.tau_squared = tau_squared

    def forward(self, teacher_logits: Tensor, branch_logits: Tensor | Sequence[Tensor], labels: Tensor) -> SFTNTerms:
        return distill_loss.sftn_loss(
            teacher_logits,
            check_several(labels, "branch_logits", branch_logits, teacher_logits=teacher_logits),
            labels,
            self.settings,
            kl=self.kl,
            detach_teacher=self.detach_teacher,
            tau_squared=self.tau_squared,
            ignore_index=self.ignore_index,
        )


class DKDLoss(_Loss):
    """`dkd_loss` as a module, with the reference's defaults. Its numbers may be set at any time."""

    temperature = Setting(0, above_zero)
    alpha = Setting(1)
    ce_weight = Setting(2)
    beta = Setting(3)

    def __init__(
        self,
        *,
        temperature: float = 4.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        ce_weight: float = 1.0,
        ignore_index: int = -100,
    ):
        super().__init__(4, ignore_index)
        self.temperature, self.alpha, self.beta, self.ce_weight = temperature, alpha, beta, ce_weight

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> DKDTerms:
        check_decoupled(labels, student_logits=student_logits, teacher_logits=teacher_logits)
        return distill_loss.dkd_loss(
            student_logits, teacher_logits, labels, self.settings, ignore_index=self.ignore_index
        )


class _Softening(Setting):
    def __set__(self, module: Adjustable, value: float) -> None:
        if not cast(VirtualTeacherLoss, module).softened:
            raise ValueError("temperature: this virtual teacher was made without one, and is not softened")
        super().__set__(module, value)


class VirtualTeacherLoss(_Loss):
    """`virtual_teacher_loss` as a module. Its numbers may be set at any time, `temperature` where it was given one."""

    temperature = _Softening(0, above_zero)
    kl_weight = Setting(1)
    ce_weight = Setting(2)
    label_probability = Setting(3, from_0_to_1)

    def __init__(
        self,
        *,
        label_probability: float = 0.99,
        kl_weight: float = 0.1,
        ce_weight: float = 0.9,
        temperature: float | None = None,
        ignore_index: int = -100,
    ):
        super().__init__(4, ignore_index)
        self.label_probability, self.kl_weight, self.ce_weight = label_probability, kl_weight, ce_weight
        self.softened = temperature is not None
        if temperature is not None:
            self.temperature = temperature

    def forward(self, student_logits: Tensor, labels: Tensor) -> KDTerms:
        check_batch(labels, student_logits=student_logits)
        return distill_loss.virtual_teacher_loss(
            student_logits, labels, self.settings, softened=self.softened, ignore_index=self.ignore_index
        )


class _Smoothing(Setting):
    def stored(self, value: float) -> float:
        return 1.0 - value


class LabelSmoothingLoss(_Loss):
    """`label_smoothing_loss` as a module. `smoothing` may be set at any time."""

    smoothing = _Smoothing(3, from_0_to_1)

    def __init__(self, *, smoothing: float = 0.1, spread: SmoothingSpread = "all", ignore_index: int = -100):
        check_choice("spread", spread, SPREADS)
        super().__init__(4, ignore_index)
        self.settings[2].fill_(0.0)  # the plain cross-entropy's weight
        self.smoothing = smoothing
        self.spread: SmoothingSpread = spread

    def forward(self, logits: Tensor, labels: Tensor) -> CETerms:
        check_batch(labels, logits=logits)
        return distill_loss.label_smoothing_loss(
            logits, labels, self.settings, spread=self.spread, ignore_index=self.ignore_index
        )
