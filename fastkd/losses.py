"""The distillation losses for use in any project; needs torch and numpy alone.

    from fastkd.losses import KDLoss
    loss = KDLoss(temperature=4.0, kl_weight=0.9, ce_weight=0.1)
    loss(student_logits, teacher_logits, labels).total.backward()

Every function returns a small named tuple: `total`, the one differentiable value, its parts detached, and the hit
counts; all stay on the device of the logits and nothing waits for it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastkd.ops import distill_loss
from fastkd.ops.crd import CRDTerms
from fastkd.ops.crd.memory import CRDLoss
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


def ce_loss(logits_BK: Tensor, labels_B: Tensor, *, ignore_index: int = -100) -> CETerms:
    """Cross-entropy with hit counts, in nats, averaged over the rows whose label is not `ignore_index`.

    Raises ValueError for logits that are not a [B,K] floating-point matrix or labels that are not [B] integers, and
    RuntimeError on the CPU for a label outside 0..K-1 (on a GPU, FASTKD_CHECK_LABELS=1 turns on a device assertion).
    """
    _check(logits_BK, labels_B)
    return distill_loss.ce_loss(logits_BK, labels_B, ignore_index=ignore_index)


def kd_loss(
    student_logits_BK: Tensor,
    teacher_logits_BK: Tensor,
    labels_B: Tensor,
    *,
    temperature: Scalar,
    kl_weight: Scalar,
    ce_weight: Scalar,
    ignore_index: int = -100,
) -> KDTerms:
    """Knowledge distillation (Hinton et al. 2015): ce_weight · CE + kl_weight · τ² KL(teacher ‖ student).

    CE is taken at temperature 1, KL at `temperature`; no gradient reaches the teacher. Errors as in `ce_loss`.
    """
    _check(student_logits_BK, labels_B, teacher_logits_BK)
    _check_temperature(temperature)
    settings = (temperature, kl_weight, ce_weight)
    return distill_loss.kd_loss(student_logits_BK, [teacher_logits_BK], labels_B, settings, ignore_index=ignore_index)


def multi_teacher_loss(
    student_logits_BK: Tensor,
    teacher_logits: Tensor | Sequence[Tensor],
    labels_B: Tensor,
    *,
    temperature: Scalar,
    kl_weight: Scalar,
    ce_weight: Scalar,
    teacher_weights: Tensor | None = None,
    ignore_index: int = -100,
) -> KDTerms:
    """`kd_loss` from several teachers: KL is the sum over them of weight · τ² KL(teacher ‖ student).

    Its gradient is that of KL to the teachers' (weighted) mean probability; the value is greater by what the teachers
    disagree among themselves.

    teacher_logits: [M,B,K], or a sequence of M tensors [B,K]; M >= 1.
    teacher_weights: [M], or [M,B] for weights of each sample; 1/M by default. They are used as they are.
    """
    teachers = _several(teacher_logits, "multi_teacher_loss needs the logits of at least one teacher, got none")
    _check(student_logits_BK, labels_B, *teachers)
    _check_temperature(temperature)
    _check_teacher_weights(teacher_weights, len(teachers), len(labels_B))
    settings = (temperature, kl_weight, ce_weight)
    return distill_loss.kd_loss(
        student_logits_BK, teachers, labels_B, settings, teacher_weights=teacher_weights, ignore_index=ignore_index
    )


def sftn_loss(
    teacher_logits_BK: Tensor,
    branch_logits: Tensor | Sequence[Tensor],
    labels_B: Tensor,
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

    branch_logits: [N,B,K], or a sequence of N tensors [B,K]; N >= 1.
    kl: "forward" is KL(teacher ‖ branch), "reverse" KL(branch ‖ teacher). The paper's Eq. 5 prints the reverse; its
        training loop was not found, and the loss class its code family uses gives the forward one: the default here is
        our choice.
    detach_teacher: the KL term sends no gradient to the teacher.
    ce_temperature, tau_squared: the paper prints CE at temperature τ and no τ²; at its τ = 1 all readings agree.

    Errors as in `ce_loss`.
    """
    branches = _branches(teacher_logits_BK, branch_logits, labels_B, kl)
    _check_temperature(temperature)
    _check_temperature(ce_temperature)
    return distill_loss.sftn_loss(
        teacher_logits_BK,
        branches,
        labels_B,
        (temperature, kl_weight, teacher_weight, ce_weight, ce_temperature),
        kl=kl,
        detach_teacher=detach_teacher,
        tau_squared=tau_squared,
        ignore_index=ignore_index,
    )


def dkd_loss(
    student_logits_BK: Tensor,
    teacher_logits_BK: Tensor,
    labels_B: Tensor,
    *,
    temperature: Scalar,
    alpha: Scalar,
    beta: Scalar,
    ce_weight: Scalar,
    ignore_index: int = -100,
) -> DKDTerms:
    """Decoupled knowledge distillation (Zhao et al. 2022): ce_weight · CE + τ² (alpha · TCKD + beta · NCKD).

    TCKD is KL between (label, all other classes), NCKD that within the other classes. The paper's warm-up multiplies
    both by min(epoch / 20, 1): a change of alpha and beta. K >= 2. No gradient reaches the teacher. Errors as in
    `ce_loss`.
    """
    _check_decoupled(student_logits_BK, teacher_logits_BK, labels_B)
    _check_temperature(temperature)
    settings = (temperature, alpha, ce_weight, beta)
    return distill_loss.dkd_loss(student_logits_BK, teacher_logits_BK, labels_B, settings, ignore_index=ignore_index)


def virtual_teacher_loss(
    student_logits_BK: Tensor,
    labels_B: Tensor,
    *,
    label_probability: Scalar,
    kl_weight: Scalar,
    ce_weight: Scalar,
    temperature: Scalar | None = None,
    ignore_index: int = -100,
) -> KDTerms:
    """ce_weight · CE + kl_weight · KL(virtual teacher ‖ student), the student at temperature 1; nothing is stored.

    The virtual teacher u (Tf-KD, Yuan et al. 2020) gives `label_probability` to the label and the rest evenly to the
    other classes. With a `temperature` it is softmax(u / τ), a second softmax, as in the paper's released code (whose
    KL is also a mean over the classes: kl_weight = α · multiplier / K). Errors as in `ce_loss`.
    """
    _check(student_logits_BK, labels_B)
    if temperature is not None:
        _check_temperature(temperature)
    _check_probability("label_probability", label_probability)
    settings = (1.0 if temperature is None else temperature, kl_weight, ce_weight, label_probability)
    return distill_loss.virtual_teacher_loss(
        student_logits_BK, labels_B, settings, softened=temperature is not None, ignore_index=ignore_index
    )


def label_smoothing_loss(
    logits_BK: Tensor,
    labels_B: Tensor,
    *,
    smoothing: Scalar,
    spread: SmoothingSpread = "all",
    ignore_index: int = -100,
) -> CETerms:
    """Cross-entropy with smoothed labels; the part `ce` is that with the labels themselves.

    spread: `smoothing` goes evenly to "all" classes, the label's too (as in torch.nn.functional.cross_entropy), or to
        the "others" (as in Tf-KD's code). Errors as in `ce_loss`.
    """
    _check(logits_BK, labels_B)
    _check_smoothing(smoothing, spread)
    settings = (1.0, 1.0, 0.0, 1.0 - smoothing)
    return distill_loss.label_smoothing_loss(logits_BK, labels_B, settings, spread=spread, ignore_index=ignore_index)


class _Loss(nn.Module):
    """Temperature and weights live in a float32 buffer on the device, so that a schedule may change them in place.

    A captured graph follows; so does a compiled one, without compiling again.
    """

    settings: Tensor

    def __init__(self, settings: Sequence[float], ignore_index: int):
        super().__init__()
        self.register_buffer("settings", torch.tensor(settings, dtype=torch.float32), persistent=False)
        self.ignore_index = ignore_index


class KDLoss(_Loss):
    """`kd_loss` as a module. Its `settings`: temperature, KL weight, CE weight."""

    def __init__(
        self,
        *,
        temperature: float = 4.0,
        kl_weight: float = 0.9,
        ce_weight: float = 0.1,
        ignore_index: int = -100,
    ):
        _check_temperature(temperature)
        super().__init__((temperature, kl_weight, ce_weight), ignore_index)

    def forward(self, student_logits_BK: Tensor, teacher_logits_BK: Tensor, labels_B: Tensor) -> KDTerms:
        _check(student_logits_BK, labels_B, teacher_logits_BK)
        return distill_loss.kd_loss(
            student_logits_BK, [teacher_logits_BK], labels_B, self.settings, ignore_index=self.ignore_index
        )


class MultiTeacherLoss(_Loss):
    """`multi_teacher_loss` as a module. Its `settings`: temperature, KL weight, CE weight."""

    def __init__(
        self,
        *,
        temperature: float = 4.0,
        kl_weight: float = 0.9,
        ce_weight: float = 0.1,
        ignore_index: int = -100,
    ):
        _check_temperature(temperature)
        super().__init__((temperature, kl_weight, ce_weight), ignore_index)

    def forward(
        self,
        student_logits_BK: Tensor,
        teacher_logits: Tensor | Sequence[Tensor],
        labels_B: Tensor,
        teacher_weights: Tensor | None = None,
    ) -> KDTerms:
        teachers = _several(teacher_logits, "MultiTeacherLoss needs the logits of at least one teacher, got none")
        _check(student_logits_BK, labels_B, *teachers)
        _check_teacher_weights(teacher_weights, len(teachers), len(labels_B))
        return distill_loss.kd_loss(
            student_logits_BK,
            teachers,
            labels_B,
            self.settings,
            teacher_weights=teacher_weights,
            ignore_index=self.ignore_index,
        )


class SFTNLoss(_Loss):
    """`sftn_loss` as a module, with the paper's CIFAR weights by default.

    Its `settings`: temperature, KL weight, teacher weight, CE weight, CE temperature.
    """

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
        _check_temperature(temperature)
        _check_temperature(ce_temperature)
        super().__init__((temperature, kl_weight, teacher_weight, ce_weight, ce_temperature), ignore_index)
        self.kl: KLDirection = kl
        self.detach_teacher = detach_teacher
        self.tau_squared = tau_squared

    def forward(
        self, teacher_logits_BK: Tensor, branch_logits: Tensor | Sequence[Tensor], labels_B: Tensor
    ) -> SFTNTerms:
        return distill_loss.sftn_loss(
            teacher_logits_BK,
            _branches(teacher_logits_BK, branch_logits, labels_B, self.kl),
            labels_B,
            self.settings,
            kl=self.kl,
            detach_teacher=self.detach_teacher,
            tau_squared=self.tau_squared,
            ignore_index=self.ignore_index,
        )


class DKDLoss(_Loss):
    """`dkd_loss` as a module, with the reference's defaults. Its `settings`: temperature, alpha, CE weight, beta."""

    def __init__(
        self,
        *,
        temperature: float = 4.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        ce_weight: float = 1.0,
        ignore_index: int = -100,
    ):
        _check_temperature(temperature)
        super().__init__((temperature, alpha, ce_weight, beta), ignore_index)

    def forward(self, student_logits_BK: Tensor, teacher_logits_BK: Tensor, labels_B: Tensor) -> DKDTerms:
        _check_decoupled(student_logits_BK, teacher_logits_BK, labels_B)
        return distill_loss.dkd_loss(
            student_logits_BK, teacher_logits_BK, labels_B, self.settings, ignore_index=self.ignore_index
        )


class VirtualTeacherLoss(_Loss):
    """`virtual_teacher_loss` as a module. Its `settings`: temperature, KL weight, CE weight, label probability."""

    def __init__(
        self,
        *,
        label_probability: float = 0.99,
        kl_weight: float = 0.1,
        ce_weight: float = 0.9,
        temperature: float | None = None,
        ignore_index: int = -100,
    ):
        if temperature is not None:
            _check_temperature(temperature)
        _check_probability("label_probability", label_probability)
        settings = (1.0 if temperature is None else temperature, kl_weight, ce_weight, label_probability)
        super().__init__(settings, ignore_index)
        self.softened = temperature is not None

    def forward(self, student_logits_BK: Tensor, labels_B: Tensor) -> KDTerms:
        _check(student_logits_BK, labels_B)
        return distill_loss.virtual_teacher_loss(
            student_logits_BK, labels_B, self.settings, softened=self.softened, ignore_index=self.ignore_index
        )


class LabelSmoothingLoss(_Loss):
    """`label_smoothing_loss` as a module. The last of its `settings` is 1 - smoothing."""

    def __init__(self, *, smoothing: float = 0.1, spread: SmoothingSpread = "all", ignore_index: int = -100):
        _check_smoothing(smoothing, spread)
        super().__init__((1.0, 1.0, 0.0, 1.0 - smoothing), ignore_index)
        self.spread: SmoothingSpread = spread

    def forward(self, logits_BK: Tensor, labels_B: Tensor) -> CETerms:
        _check(logits_BK, labels_B)
        return distill_loss.label_smoothing_loss(
            logits_BK, labels_B, self.settings, spread=self.spread, ignore_index=self.ignore_index
        )


def _check(logits_BK: Tensor, labels_B: Tensor, *others_BK: Tensor) -> None:
    if logits_BK.ndim != 2 or not logits_BK.is_floating_point():
        raise ValueError(f"logits are a floating-point matrix [B,K], got {logits_BK.dtype} {list(logits_BK.shape)}")
    if labels_B.shape != logits_BK.shape[:1] or labels_B.dtype != torch.int64:
        expected = f"int64 [{logits_BK.shape[0]}]"
        raise ValueError(f"labels are {expected}, got {labels_B.dtype} {list(labels_B.shape)}")
    for other in others_BK:
        if other.shape != logits_BK.shape:
            raise ValueError(f"logits must agree in shape, got {list(logits_BK.shape)} and {list(other.shape)}")


def _check_temperature(temperature: Scalar) -> None:
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise ValueError(f"the temperature is a number above 0, got {temperature}")


def _several(logits: Tensor | Sequence[Tensor], none: str) -> list[Tensor]:
    several = list(logits.unbind(0)) if isinstance(logits, Tensor) else list(logits)
    if not several:
        raise ValueError(none)
    return several


def _branches(
    teacher_BK: Tensor, branch_logits: Tensor | Sequence[Tensor], labels_B: Tensor, kl: KLDirection
) -> list[Tensor]:
    branches = _several(branch_logits, "sftn_loss needs the logits of at least one branch, got none")
    if kl not in ("forward", "reverse"):
        raise ValueError(f"kl is 'forward' or 'reverse', got {kl!r}")
    _check(teacher_BK, labels_B, *branches)
    return branches


def _check_decoupled(student_BK: Tensor, teacher_BK: Tensor, labels_B: Tensor) -> None:
    _check(student_BK, labels_B, teacher_BK)
    if student_BK.shape[1] < 2:
        raise ValueError("dkd_loss needs classes other than the label's: K is at least 2, got 1")


def _check_teacher_weights(weights: Tensor | None, teachers: int, samples: int) -> None:
    if weights is not None and list(weights.shape) not in ([teachers], [teachers, samples]):
        raise ValueError(f"teacher_weights are [{teachers}] or [{teachers}, {samples}], got {list(weights.shape)}")


def _check_probability(name: str, value: Scalar) -> None:
    if not isinstance(value, Tensor) and not 0 <= value <= 1:
        raise ValueError(f"{name} is a number from 0 to 1, got {value}")


def _check_smoothing(smoothing: Scalar, spread: str) -> None:
    _check_probability("smoothing", smoothing)
    if spread not in ("all", "others"):
        raise ValueError(f"spread is 'all' or 'others', got {spread!r}")
