"""Multi-level logit distillation (Jin, Wang, Lin: "Multi-level logit distillation", CVPR 2023).

resnet32x4 → resnet8x4 on CIFAR-100: 77.08, and 78.28 with standardised logits (README of the latter's authors; both of
the best epoch). The default is what the authors' code computes, which is not what the paper says; `arithmetic` chooses.
In the code
- its masks select nothing. A loss is a scalar when it is multiplied by a mask, which scales it by the share of samples
  (or classes) whose confidence is at most the median: about a half.
- among the "strong" KLs, those at temperatures 2 and 6 are of the weak view.
- Gram matrices are of the weak view alone; they are not divided by B, nor do they carry τ².
- the temperature of the recipe is one entry beside 2, 3, 5 and 6: it may stand there twice.
In the paper's form every temperature has KL and both Gram terms, of each view by itself, and nothing is masked.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from fastkd.data.base import WEAK_AND_STRONG, Batch
from fastkd.losses import MLLDLoss
from fastkd.methods.base import Context, Method, MethodLoss
from fastkd.networks.base import Output
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import Temperature, Weight


@dataclass(frozen=True, kw_only=True)
class MLLDSettings(Checked):
    """ce_weight · (CE of both views) + kd_weight · (KL, batch and class Gram terms, each over five temperatures).

    The defaults are the authors' for CIFAR-100; on ImageNet temperature 1 and weights 0.5 and 0.5. With standardise
    they have temperature 2 and kd-weight 9.
    """

    ce_weight: Weight = 0.1
    kd_weight: Weight = 0.9
    temperature: Annotated[Temperature, OnlyWith("kd_weight")] = 4.0
    """The first of the five temperatures."""
    arithmetic: Annotated[Literal["code", "paper"], OnlyWith("kd_weight")] = "code"
    """paper: no loss is scaled by the shares, the strong view's KLs are its own at all temperatures, and it has Gram
    terms, too."""
    standardise: Annotated[bool, OnlyWith("kd_weight")] = False
    """KL compares standardised logits (see kd); the Gram terms do not."""


class MLLD(Method):
    """Needs a weak and a strong view. Each process compares the samples of its own batch."""

    Settings = MLLDSettings
    about = "logits at samples, classes, batches"
    relates_samples = True
    is_logit_method = True
    teachers_needed = (1, 1)
    reads = ("logits",)
    views = WEAK_AND_STRONG

    def __init__(self, settings: MLLDSettings, context: Context):
        super().__init__(settings, context)
        self.loss = MLLDLoss(
            ce_weight=settings.ce_weight,
            kd_weight=settings.kd_weight,
            temperature=settings.temperature,
            arithmetic=settings.arithmetic,
            standardise=settings.standardise,
        )

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        own, taught = (one.logits.unflatten(0, (2, len(batch.labels))) for one in (student, teachers[0]))
        found = self.loss(*own, *taught, batch.labels)
        terms = {"ce": found.ce, "kl": found.kl, "cc": found.cc, "bc": found.bc}
        return MethodLoss(found.total, terms, found.hits)
