"""The alpha-beta divergence (Wang et al.: "ABKD: pursuing a proper allocation of the probability mass in knowledge
distillation via α-β-divergence", ICML 2025, arXiv 2505.04560)."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastkd.data.base import Batch
from fastkd.losses import ABDivergenceLoss
from fastkd.methods.base import Context, Method, MethodLoss
from fastkd.networks.base import Output
from fastkd.support.fields import OnlyWhere, OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import Temperature, Weight, between

ENDS = "alpha, beta or alpha + beta at 0, where code and paper differ"


def ends_differ(settings: Any) -> bool:
    """Whether the authors' code multiplies the limit by something."""
    alpha, beta = settings.alpha, settings.beta
    at_an_end = beta == 0 or alpha + beta == 0
    return ((beta or 1) if alpha == 0 else alpha if at_an_end else 1) != 1


@dataclass(frozen=True, kw_only=True)
class ABKDSettings(Checked):
    """ce_weight · CE + weight · D(teacher ‖ student), without τ². (1, 0) is KL of the teacher to the student.

    The defaults are those of the authors' example, resnet56 → resnet20 on CIFAR-100.
    """

    ce_weight: Weight = 1.0
    weight: Weight = 32.0
    """Weight of the divergence (32 or 64 in the authors' scripts)."""
    alpha: Annotated[float, between(-100, 100), OnlyWith("weight")] = 0.8
    """Power of the teacher's probabilities: greater, it looks more at the classes that the networks differ in."""
    beta: Annotated[float, between(-100, 100), OnlyWith("weight")] = 0.3
    """Power of the student's."""
    temperature: Annotated[Temperature, OnlyWith("weight")] = 4.0
    arithmetic: Annotated[Literal["code", "paper"], OnlyWith("weight"), OnlyWhere(ENDS, ends_differ)] = "code"
    """What stands in the limits, where alpha, beta or alpha + beta is 0: paper, the limit itself; code, as the authors
    computed it, the limit times alpha, or times beta where alpha is 0. Elsewhere they agree."""
    standardise: Annotated[bool, OnlyWith("weight")] = False
    """The networks are compared by standardised logits (see kd)."""


class ABKD(Method):
    Settings = ABKDSettings
    about = "softened logits, α-β divergence"
    is_logit_method = True
    teachers_needed = (1, 1)
    reads = ("logits",)
    takes_sparse = True

    def __init__(self, settings: ABKDSettings, context: Context):
        super().__init__(settings, context)
        self.loss = ABDivergenceLoss(
            temperature=settings.temperature,
            alpha=settings.alpha,
            beta=settings.beta,
            weight=settings.weight,
            ce_weight=settings.ce_weight,
            continuous=settings.arithmetic == "paper",
            standardise=settings.standardise,
        )

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        terms = self.loss(student.logits, teachers[0].logits, batch.labels)
        return MethodLoss(terms.total, {"ce": terms.ce, "divergence": terms.divergence}, terms.hits)
