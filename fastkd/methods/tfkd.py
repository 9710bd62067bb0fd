"""Teacher-free knowledge distillation (Yuan, Tay, Li, Wang, Feng: "Revisiting knowledge distillation via label
smoothing regularization", CVPR 2020, arXiv 1909.11723).

The paper's formulas (Eqs. 7 and 9) are not what the authors' code computes, with the published numbers:
- self: the code multiplies KL by τ², the formula does not.
- reg: the formula softens the virtual teacher's distribution p^d, as KD does it: log p^d divided by τ; and the student
  too. The code divides the probabilities themselves by τ and takes a softmax of that, which makes them almost uniform
  (K = 100, τ = 20: 0.0105 for the label, 0.0100 for each other class; the formula's: 0.0157 and 0.0099), and leaves the
  student at τ = 1, without τ².
- both: the code's KL is a mean over the batch and the K classes, the 1/K of the usual one, which its `multiplier` of 1,
  50 or 100 makes up for, or not. With α = .95, multiplier 1 and K = 100 what remains is 0.05 CE: in effect another
  learning rate beside the weight decay. To reproduce the published tables take arithmetic "code".
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastkd.data.base import Batch
from fastkd.losses import KDLoss, VirtualTeacherLoss
from fastkd.methods.base import Context, Method, MethodLoss
from fastkd.networks.base import Output
from fastkd.support.errors import UserError
from fastkd.support.fields import OnlyWhere, OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import BETWEEN_0_AND_1, Share, Temperature, Weight

Arithmetic = Literal["paper", "code"]


def is_taught(settings: Any) -> bool:
    """Whether KL counts."""
    return settings.alpha > 0 and (settings.arithmetic == "paper" or settings.multiplier > 0)


TAUGHT = OnlyWhere("alpha, and with arithmetic code multiplier, above 0", is_taught)


@dataclass(frozen=True, kw_only=True)
class TfKDSelfSettings(Checked):
    """(1 - alpha) · CE + alpha · KL(teacher ‖ student) at τ, the teacher being the same network trained before (Eq. 7).

    The defaults are the code's for MobileNetV2 and ShuffleNetV2 on CIFAR-100 (its params.json, as in Table 13).
    """

    alpha: Share = 0.95
    temperature: Annotated[Temperature, TAUGHT] = 20.0
    arithmetic: Annotated[Arithmetic, OnlyWith("alpha")] = "paper"
    """paper: the formula as printed; code: what the authors' code computes, alpha · multiplier · τ² KL / K."""
    multiplier: Annotated[Weight, OnlyWith("alpha"), OnlyWith("arithmetic", "code")] = 1.0
    """What the authors' code multiplies KL by (1, 50 or 100, by the network); the paper's formula has none."""
    standardise: Annotated[bool, TAUGHT] = False
    """KL compares standardised logits (see kd)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("tfkd_self", self.arithmetic, self.multiplier)


@dataclass(frozen=True, kw_only=True)
class TfKDRegSettings(Checked):
    """(1 - alpha) · CE + alpha · KL(virtual teacher ‖ student), Eq. 9; no teacher is needed.

    The defaults are those of ResNet18 on CIFAR-100 (Table 14); the code's multiplier there is 100.
    """

    alpha: Share = 0.1
    temperature: Annotated[Temperature, TAUGHT] = 20.0
    label_probability: Annotated[float, BETWEEN_0_AND_1, TAUGHT] = 0.99
    """What the virtual teacher gives to the label; the rest goes evenly to the other classes (Eq. 8)."""
    arithmetic: Annotated[Arithmetic, OnlyWith("alpha")] = "paper"
    """paper: the formula as printed; code: the authors' code, alpha · multiplier · KL / K, softened twice."""
    multiplier: Annotated[Weight, OnlyWith("alpha"), OnlyWith("arithmetic", "code")] = 1.0
    """What the authors' code multiplies KL by; the paper's formula has none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("tfkd_reg", self.arithmetic, self.multiplier)


def _check(name: str, arithmetic: Arithmetic, multiplier: float) -> None:
    if arithmetic == "paper" and multiplier != 1:
        raise UserError(f"{name}: the paper's formula has no multiplier: it needs arithmetic code")


class TfKDSelf(Method):
    Settings = TfKDSelfSettings
    about = "its own earlier training"
    is_logit_method = True
    teachers_needed = (1, 1)
    reads = ("logits",)

    def __init__(self, settings: TfKDSelfSettings, context: Context):
        super().__init__(settings, context)
        kl_weight = settings.alpha / settings.temperature**2  # KDLoss multiplies by τ²
        if settings.arithmetic == "code":
            kl_weight = settings.alpha * settings.multiplier / context.classes
        self.loss = KDLoss(
            temperature=settings.temperature,
            kl_weight=kl_weight,
            ce_weight=1 - settings.alpha,
            standardise=settings.standardise,
        )

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        terms = self.loss(student.logits, teachers[0].logits, batch.labels)
        return MethodLoss(terms.total, {"ce": terms.ce, "kl": terms.kl}, terms.hits)


class TfKDReg(Method):
    Settings = TfKDRegSettings
    about = "a virtual teacher"
    is_logit_method = True
    teachers_needed = (0, None)
    reads = ()

    def __init__(self, settings: TfKDRegSettings, context: Context):
        super().__init__(settings, context)
        ce_weight, temperature = 1 - settings.alpha, settings.temperature
        if settings.arithmetic == "code":
            self.loss = VirtualTeacherLoss(
                label_probability=settings.label_probability,
                kl_weight=settings.alpha * settings.multiplier / context.classes,
                ce_weight=ce_weight,
                temperature=temperature,
            )
        else:
            self.loss = KDLoss(temperature=temperature, kl_weight=settings.alpha / temperature**2, ce_weight=ce_weight)
        other = (1 - settings.label_probability) / (context.classes - 1)
        self.log_label, self.log_other = math.log(settings.label_probability), math.log(other)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        if isinstance(self.loss, VirtualTeacherLoss):
            terms = self.loss(student.logits, batch.labels)
        else:
            virtual = student.logits.detach().new_full(student.logits.shape, self.log_other)
            virtual = virtual.scatter(1, batch.labels[:, None], self.log_label)
            terms = self.loss(student.logits, virtual, batch.labels)
        return MethodLoss(terms.total, {"ce": terms.ce, "kl": terms.kl}, terms.hits)
