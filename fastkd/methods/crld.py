"""Cross-view consistency (Zhang, Liu, Cai, Ma: "Cross-view consistency regularisation for knowledge distillation", ACM
MM 2024, arXiv 2412.16493). The authors' tables print the best epoch."""

from dataclasses import dataclass
from typing import Annotated

from fastkd.data.base import WEAK_AND_STRONG, Batch
from fastkd.losses import CRLDLoss
from fastkd.methods.base import Context, Method, MethodLoss
from fastkd.networks.base import Output
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import Share, Temperature, Weight


@dataclass(frozen=True, kw_only=True)
class CRLDSettings(Checked):
    """KD within and across a weak and a strong view, of the samples of which the teacher is sure.

    The defaults are the authors' for CIFAR-100; on ImageNet ce-weight 2 and temperature 1, on Tiny-ImageNet temperature
    2 (and for resnet32x4 → resnet8x4 weights 4 and 1).
    """

    ce_weight: Weight = 1.0
    """Weight of the cross-entropies of both views."""
    within_weight: Weight = 2.0
    """Weight of KL between the networks on the same view."""
    across_weight: Weight = 0.5
    """Weight of KL from the teacher on one view to the student on the other."""
    temperature: Annotated[Temperature, OnlyWith(("within_weight", "across_weight"))] = 4.0
    weak_threshold: Annotated[Share, OnlyWith("within_weight")] = 0.9
    """The teacher's least confidence on the weak view for KL within both views: not, as one might expect, on each."""
    strong_threshold: Annotated[Share, OnlyWith("across_weight")] = 0.2
    """The teacher's least confidence on the strong view for KL across the views."""
    standardise: Annotated[bool, OnlyWith(("within_weight", "across_weight"))] = False
    """KL compares standardised logits (see kd)."""


class CRLD(Method):
    """Means are over all samples: those of which the teacher is not sure add nothing, and are counted."""

    Settings = CRLDSettings
    about = "logits, consistent across views"
    is_logit_method = True
    teachers_needed = (1, 1)
    reads = ("logits",)
    views = WEAK_AND_STRONG

    def __init__(self, settings: CRLDSettings, context: Context):
        super().__init__(settings, context)
        self.loss = CRLDLoss(
            ce_weight=settings.ce_weight,
            within_weight=settings.within_weight,
            across_weight=settings.across_weight,
            temperature=settings.temperature,
            weak_threshold=settings.weak_threshold,
            strong_threshold=settings.strong_threshold,
            standardise=settings.standardise,
        )

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        own, taught = (one.logits.unflatten(0, (2, len(batch.labels))) for one in (student, teachers[0]))
        found = self.loss(*own, *taught, batch.labels)
        return MethodLoss(found.total, {"ce": found.ce, "kl": found.kl}, found.hits)
