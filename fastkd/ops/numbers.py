"""The numbers of the losses: temperatures and weights, which may change from step to step. This is their one table.

A row here declares each number of a loss with its default, its range and its role. The modules and functions of
`fastkd.losses` take these names as keywords, a reference gets them by name, and a kernel reads each where its role
says, in one float32 tensor on the device: a captured graph follows a change.
"""

from enum import IntEnum
from typing import Annotated, Any, NamedTuple, TypedDict, get_type_hints

from torch import Tensor

from fastkd.support.ranges import ABOVE_ZERO, FINITE, FROM_0_TO_1, FROM_0_TO_BELOW_1, Range

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
    kl_weight: Annotated[Scalar, Number(Role.PAIR_WEIGHT, 0.9)]
    ce_weight: Annotated[Scalar, Number(Role.ANCHOR_CE_WEIGHT, 0.1)]


class SFTNNumbers(TypedDict, total=False):
    """teacher_weight · CE(teacher) + mean over branches of (kl_weight · τ² KL + ce_weight · CE(branch))."""

    temperature: Annotated[Scalar, Number(Role.TEMPERATURE, 1.0, ABOVE_ZERO)]
    """τ of KL."""
    ce_temperature: Annotated[Scalar, Number(Role.CE_TEMPERATURE, 1.0, ABOVE_ZERO)]
    """The cross-entropies are taken at it; the paper prints them at τ."""
    teacher_weight: Annotated[Scalar, Number(Role.ANCHOR_CE_WEIGHT, 1.0)]
    """λ_T."""
    kl_weight: Annotated[Scalar, Number(Role.PAIR_WEIGHT, 3.0)]
    """λ_KL; 3 on CIFAR-100, 1 on ImageNet."""
    ce_weight: Annotated[Scalar, Number(Role.PARTNER_CE_WEIGHT, 1.0)]
    """λ_CE."""


class DKDNumbers(TypedDict, total=False):
    """ce_weight · CE + τ² (alpha · TCKD + beta · NCKD)."""

    temperature: Annotated[Scalar, Number(Role.TEMPERATURE, 4.0, ABOVE_ZERO)]
    alpha: Annotated[Scalar, Number(Role.PAIR_WEIGHT, 1.0)]
    beta: Annotated[Scalar, Number(Role.OTHERS_WEIGHT, 8.0)]
    ce_weight: Annotated[Scalar, Number(Role.ANCHOR_CE_WEIGHT, 1.0)]


class VirtualTeacherNumbers(TypedDict, total=False):
    """ce_weight · CE + kl_weight · KL(virtual teacher ‖ student)."""

    label_probability: Annotated[Scalar, Number(Role.LABEL_PROBABILITY, 0.99, FROM_0_TO_1)]
    kl_weight: Annotated[Scalar, Number(Role.PAIR_WEIGHT, 0.1)]
    ce_weight: Annotated[Scalar, Number(Role.ANCHOR_CE_WEIGHT, 0.9)]


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


NUMBERS: dict[str, Row] = {
    "ce": {},
    "kd": _row(KDNumbers),
    "sftn": _row(SFTNNumbers),
    "sftn_reverse": _row(SFTNNumbers),
    "dkd": _row(DKDNumbers),
    "virtual": _row(VirtualTeacherNumbers),
    "virtual_softened": _row(SoftenedTeacherNumbers),
    "smoothing_all": _row(SmoothingNumbers),
    "smoothing_others": _row(SmoothingNumbers),
    "crd": _row(CRDNumbers),
}
"""The numbers of every form of the losses, by name."""


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
