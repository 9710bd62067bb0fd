"""The numbers of the losses: temperatures and weights, which may change from step to step. This is their one table.

A row here declares each number of a loss with its default, its range and its role. The modules and functions of
`fastkd.losses` take these names as keywords, a reference gets them by name, and a kernel reads each where its role
says, in one float32 tensor on the device: a captured graph follows a change.
"""

import math
from enum import IntEnum
from typing import Annotated, Any, NamedTuple, TypedDict, get_type_hints

from torch import Tensor

from fastkd.support.ranges import ABOVE_ZERO, AT_LEAST_ZERO, FINITE, FROM_0_TO_1, FROM_0_TO_BELOW_1, Range

Scalar = float | Tensor


class Role(IntEnum):
    """What the kernels of the distillation loss take a number for, and its place in their tensor."""

    TEMPERATURE = 0
    PAIR_WEIGHT = 1  # on what compares the anchor with its partners, or with a virtual teacher
    ANCHOR_CE_WEIGHT = 2
    PARTNER_CE_WEIGHT = 3
    CE_TEMPERATURE = 4
    OTHERS_WEIGHT = 5  # on KL within the classes other than the label's
    LABEL_PROBABILITY = 6
    SMOOTHING = 7
    TARGET_TEMPERATURE = 8  # of the binary part of RLD
    TEACHER_EXPONENT = 9  # on the teacher's probabilities
    STUDENT_EXPONENT = 10
    MIXTURE = 11  # the teacher's share of a mixture of both
    LOGIT_SCALE = 12
    SOFTCAP = 13
    TEACHER_LOGIT_SCALE = 14
    TEACHER_SOFTCAP = 15


class CRDRole(IntEnum):
    """The places of CRD's numbers, as csrc/ reads them."""

    TEMPERATURE = 0
    MOMENTUM = 1


class Number(NamedTuple):
    """One number of a loss."""

    role: IntEnum
    default: float
    range: Range = FINITE


class KDNumbers(TypedDict, total=False):
    """ce_weight · CE + kl_weight · τ² KL(teacher ‖ student)."""

    temperature: Annotated[Scalar, Number(Role.TEMPERATURE, 4.0, ABOVE_ZERO)]
    """τ. Only KL is taken at it."""
    kl_weight: Annotated[Scalar, Number(Role.PAIR_WEIGHT, 0.9, AT_LEAST_ZERO)]
    ce_weight: Annotated[Scalar, Number(Role.ANCHOR_CE_WEIGHT, 0.1, AT_LEAST_ZERO)]


class LogitNumbers(TypedDict, total=False):
    """What becomes of logits before they are compared: softcap · tanh(logit_scale · z / softcap)."""

    logit_scale: Annotated[Scalar, Number(Role.LOGIT_SCALE, 1.0)]
    softcap: Annotated[Scalar, Number(Role.SOFTCAP, math.inf, ABOVE_ZERO)]
    """inf stands for none, and cannot be set: a loss is made with a soft-cap or without."""
    teacher_logit_scale: Annotated[Scalar, Number(Role.TEACHER_LOGIT_SCALE, 1.0)]
    teacher_softcap: Annotated[Scalar, Number(Role.TEACHER_SOFTCAP, math.inf, ABOVE_ZERO)]


class KDRowNumbers(KDNumbers, LogitNumbers, total=False):
    """Those of KD, and of the logits."""


class SFTNNumbers(TypedDict, total=False):
    """teacher_weight · CE(teacher) + mean over branches of (kl_weight · τ² KL + ce_weight · CE(branch))."""

    temperature: Annotated[Scalar, Number(Role.TEMPERATURE, 1.0, ABOVE_ZERO)]
    """τ of KL."""
    ce_temperature: Annotated[Scalar, Number(Role.CE_TEMPERATURE, 1.0, ABOVE_ZERO)]
    """The cross-entropies are taken at it; the paper prints them at τ."""
    teacher_weight: Annotated[Scalar, Number(Role.ANCHOR_CE_WEIGHT, 1.0, AT_LEAST_ZERO)]
    """λ_T."""
    kl_weight: Annotated[Scalar, Number(Role.PAIR_WEIGHT, 3.0, AT_LEAST_ZERO)]
    """λ_KL; 3 on CIFAR-100, 1 on ImageNet."""
    ce_weight: Annotated[Scalar, Number(Role.PARTNER_CE_WEIGHT, 1.0, AT_LEAST_ZERO)]
    """λ_CE."""


class DKDNumbers(TypedDict, total=False):
    """ce_weight · CE + τ² (alpha · TCKD + beta · NCKD)."""

    temperature: Annotated[Scalar, Number(Role.TEMPERATURE, 4.0, ABOVE_ZERO)]
    alpha: Annotated[Scalar, Number(Role.PAIR_WEIGHT, 1.0, AT_LEAST_ZERO)]
    beta: Annotated[Scalar, Number(Role.OTHERS_WEIGHT, 8.0, AT_LEAST_ZERO)]
    ce_weight: Annotated[Scalar, Number(Role.ANCHOR_CE_WEIGHT, 1.0, AT_LEAST_ZERO)]


class NKDNumbers(TypedDict, total=False):
    """ce_weight · CE − alpha · p_t[y] log p_s[y] − gamma · τ² Σ_{k≠y} q_t log q_s."""

    temperature: Annotated[Scalar, Number(Role.TEMPERATURE, 1.0, ABOVE_ZERO)]
    """τ of the second part, among the classes other than the label's."""
    alpha: Annotated[Scalar, Number(Role.PAIR_WEIGHT, 1.0, AT_LEAST_ZERO)]
    gamma: Annotated[Scalar, Number(Role.OTHERS_WEIGHT, 1.5, AT_LEAST_ZERO)]
    ce_weight: Annotated[Scalar, Number(Role.ANCHOR_CE_WEIGHT, 1.0, AT_LEAST_ZERO)]


class RLDNumbers(TypedDict, total=False):
    """ce_weight · CE + alpha · τ_a² SCD + beta · τ² MCD."""

    temperature: Annotated[Scalar, Number(Role.TEMPERATURE, 4.0, ABOVE_ZERO)]
    """τ of MCD."""
    target_temperature: Annotated[Scalar, Number(Role.TARGET_TEMPERATURE, 1.0, ABOVE_ZERO)]
    """τ_a of SCD."""
    alpha: Annotated[Scalar, Number(Role.PAIR_WEIGHT, 1.0, AT_LEAST_ZERO)]
    beta: Annotated[Scalar, Number(Role.OTHERS_WEIGHT, 8.0, AT_LEAST_ZERO)]
    ce_weight: Annotated[Scalar, Number(Role.ANCHOR_CE_WEIGHT, 1.0, AT_LEAST_ZERO)]


class TTMNumbers(TypedDict, total=False):
    """ce_weight · CE + kl_weight · KL(transformed teacher ‖ student), the student at temperature 1."""

    exponent: Annotated[Scalar, Number(Role.TEACHER_EXPONENT, 0.1, AT_LEAST_ZERO)]
    """γ: the power of the teacher's probabilities, 1 over its temperature."""
    kl_weight: Annotated[Scalar, Number(Role.PAIR_WEIGHT, 45.0, AT_LEAST_ZERO)]
    ce_weight: Annotated[Scalar, Number(Role.ANCHOR_CE_WEIGHT, 1.0, AT_LEAST_ZERO)]


class ABNumbers(TypedDict, total=False):
    """ce_weight · CE + weight · the alpha-beta divergence at τ."""

    temperature: Annotated[Scalar, Number(Role.TEMPERATURE, 4.0, ABOVE_ZERO)]
    alpha: Annotated[Scalar, Number(Role.TEACHER_EXPONENT, 0.8)]
    """(1, 0) is KL(teacher ‖ student), (0, 1) is KL(student ‖ teacher)."""
    beta: Annotated[Scalar, Number(Role.STUDENT_EXPONENT, 0.3)]
    weight: Annotated[Scalar, Number(Role.PAIR_WEIGHT, 32.0, AT_LEAST_ZERO)]
    ce_weight: Annotated[Scalar, Number(Role.ANCHOR_CE_WEIGHT, 1.0, AT_LEAST_ZERO)]


class JSDNumbers(TypedDict, total=False):
    """ce_weight · CE + weight · the generalised Jensen-Shannon divergence at τ."""

    temperature: Annotated[Scalar, Number(Role.TEMPERATURE, 1.0, ABOVE_ZERO)]
    beta: Annotated[Scalar, Number(Role.MIXTURE, 0.5, FROM_0_TO_1)]
    """The teacher's share of the mixture; at 0 it is KL(teacher ‖ student), at 1 KL(student ‖ teacher)."""
    weight: Annotated[Scalar, Number(Role.PAIR_WEIGHT, 1.0, AT_LEAST_ZERO)]
    ce_weight: Annotated[Scalar, Number(Role.ANCHOR_CE_WEIGHT, 0.0, AT_LEAST_ZERO)]


class JSDRowNumbers(JSDNumbers, LogitNumbers, total=False):
    """Those of the divergence, and of the logits."""


class VirtualTeacherNumbers(TypedDict, total=False):
    """ce_weight · CE + kl_weight · KL(virtual teacher ‖ student)."""

    label_probability: Annotated[Scalar, Number(Role.LABEL_PROBABILITY, 0.99, FROM_0_TO_1)]
    kl_weight: Annotated[Scalar, Number(Role.PAIR_WEIGHT, 0.1, AT_LEAST_ZERO)]
    ce_weight: Annotated[Scalar, Number(Role.ANCHOR_CE_WEIGHT, 0.9, AT_LEAST_ZERO)]


class SoftenedTeacherNumbers(VirtualTeacherNumbers, total=False):
    """A virtual teacher whose probabilities go through a second softmax at τ."""

    temperature: Annotated[Scalar, Number(Role.TEMPERATURE, 20.0, ABOVE_ZERO)]


class SmoothingNumbers(TypedDict, total=False):
    """Cross-entropy with labels that give up some of their probability."""

    smoothing: Annotated[Scalar, Number(Role.SMOOTHING, 0.1, FROM_0_TO_1)]


class CRDNumbers(TypedDict, total=False):
    temperature: Annotated[Scalar, Number(CRDRole.TEMPERATURE, 0.07, ABOVE_ZERO)]
    momentum: Annotated[Scalar, Number(CRDRole.MOMENTUM, 0.5, FROM_0_TO_BELOW_1)]
    """The share of the old embedding in the bank's new one."""


Row = dict[str, Number]


def _row(numbers: type[Any]) -> Row:
    return {name: hint.__metadata__[0] for name, hint in get_type_hints(numbers, include_extras=True).items()}


STANDARDISED = "_standardised"
"""The end of a form's name whose two networks are compared by standardised logits."""

_COMPARING: dict[str, Row] = {
    "kd": _row(KDNumbers),
    "dkd": _row(DKDNumbers),
    "nkd": _row(NKDNumbers),
    "rld": _row(RLDNumbers),
    "ttm": _row(TTMNumbers),
    "wttm": _row(TTMNumbers),
    "ab": _row(ABNumbers),
    "ab_continuous": _row(ABNumbers),
    "jsd": _row(JSDNumbers),
}

NUMBERS: dict[str, Row] = {
    "ce": {},
    **_COMPARING,
    **{name + STANDARDISED: row for name, row in _COMPARING.items()},
    "kd_rows": _row(KDRowNumbers),
    "jsd_rows": _row(JSDRowNumbers),
    "sftn": _row(SFTNNumbers),
    "sftn_reverse": _row(SFTNNumbers),
    "virtual": _row(VirtualTeacherNumbers),
    "virtual_softened": _row(SoftenedTeacherNumbers),
    "smoothing_all": _row(SmoothingNumbers),
    "smoothing_others": _row(SmoothingNumbers),
    "crd": _row(CRDNumbers),
}
"""The numbers of every form of the losses, by name."""

ROW_FORMS = ("kd_rows", "jsd_rows")
"""Those that `fastkd.ops.row_loss` computes."""


def partners_learn(form: str) -> bool:
    """Whether the partners have a cross-entropy and hits of their own, and may want gradients."""
    return any(number.role is Role.PARTNER_CE_WEIGHT for number in NUMBERS[form].values())


def neutral(form: str) -> list[float]:
    """The tensor's values before any number is set; a role that the form has no number for keeps its value."""
    roles = CRDRole if form == "crd" else Role
    values = [1.0] * len(roles)
    if form.startswith("smoothing"):
        values[Role.ANCHOR_CE_WEIGHT] = 0.0  # the smoothed cross-entropy stands in the pair term's place
    return values
