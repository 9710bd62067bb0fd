"""Transformed teacher matching (Zheng, Yang: "Knowledge distillation based on transformed teacher matching", ICLR 2024,
arXiv 2402.11148): TTM, and WTTM, which weighs each sample.

resnet32x4 → resnet8x4 on CIFAR-100: 76.17 (TTM) and 76.06 (WTTM); ResNet34 → ResNet18 on ImageNet: 72.19 (WTTM). These
are the authors' README's figures, those of CIFAR-100 of the best epoch.
"""

from dataclasses import dataclass
from typing import Annotated

from fastkd.data.base import Batch
from fastkd.losses import TTMLoss
from fastkd.methods.base import Context, Method, MethodLoss
from fastkd.networks.base import Output
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import Weight, between


@dataclass(frozen=True, kw_only=True)
class TTMSettings(Checked):
    """ce_weight · CE + kl_weight · KL(p_t^exponent, normalised ‖ p_s), the student at temperature 1.

    The defaults are those of the authors' example, vgg13 → vgg8.
    """

    ce_weight: Weight = 1.0
    kl_weight: Weight = 45.0
    """Weight of KL; large, as no τ² stands in front of it."""
    exponent: Annotated[float, between(0, 1_000), OnlyWith("kl_weight")] = 0.1
    """γ of the paper: the power of the teacher's probabilities, 1 over its temperature."""
    standardise: Annotated[bool, OnlyWith("kl_weight")] = False
    """The networks are compared by standardised logits (see kd)."""


@dataclass(frozen=True, kw_only=True)
class WTTMSettings(TTMSettings):
    """The same, KL of each sample times Σ p_t^exponent: up to K where the teacher is unsure.

    The defaults are those with which the authors join it to CRD (`--method wttm+crd`).
    """

    kl_weight: Weight = 4.0
    exponent: Annotated[float, between(0, 1_000), OnlyWith("kl_weight")] = 0.2


class TTM(Method):
    Settings = TTMSettings
    about = "the teacher's power transform"
    is_logit_method = True
    teachers_needed = (1, 1)
    reads = ("logits",)
    weighted = False

    def __init__(self, settings: TTMSettings, context: Context):
        super().__init__(settings, context)
        self.loss = TTMLoss(
            exponent=settings.exponent,
            kl_weight=settings.kl_weight,
            ce_weight=settings.ce_weight,
            weighted=self.weighted,
            standardise=settings.standardise,
        )
        self.takes_sparse = settings.exponent > 0

    @property
    def sparse_temperature(self) -> float:
        return 1 / self.settings.exponent

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        terms = self.loss(student.logits, teachers[0].logits, batch.labels)
        return MethodLoss(terms.total, {"ce": terms.ce, "kl": terms.kl}, terms.hits)


class WTTM(TTM):
    Settings = WTTMSettings
    about = "ttm, samples weighted by smoothness"
    weighted = True
