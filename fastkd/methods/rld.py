"""Refined logit distillation (Sun et al.: "Knowledge distillation with refined logits", arXiv 2408.07703).

The authors' tables print the best epoch.
"""

from dataclasses import dataclass
from typing import Annotated

from fastkd.data.base import Batch
from fastkd.losses import RLDLoss
from fastkd.methods.base import Context, Method, MethodLoss, warm_up_share
from fastkd.networks.base import Output
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import EpochsOrNone, Temperature, Weight


@dataclass(frozen=True, kw_only=True)
class RLDSettings(Checked):
    """ce_weight · CE + min(epoch / warmup, 1) · (alpha · τ_a² SCD + beta · τ² MCD), with the authors' warm-up.

    The defaults are the authors' for CIFAR-100; on ImageNet the temperatures are 1, beta is 0.5 (ResNet34 → ResNet18)
    or 2, and the warm-up one epoch. With standardise they multiply alpha and beta by 9 and set both temperatures to 2.
    """

    ce_weight: Weight = 1.0
    alpha: Weight = 1.0
    """Weight of SCD: the teacher's greatest probability against the student's of the label."""
    beta: Weight = 8.0
    """Weight of MCD: KL within the classes to which the teacher gives less than to the label."""
    temperature: Annotated[Temperature, OnlyWith("beta")] = 4.0
    """Temperature of MCD."""
    target_temperature: Annotated[Temperature, OnlyWith("alpha")] = 1.0
    """Temperature of SCD; the authors' option --same-t makes it that of MCD."""
    warmup_epochs: Annotated[EpochsOrNone, OnlyWith(("alpha", "beta"))] = 20
    """Epochs over which both weights rise: epoch e, from 1, has e / warmup of them."""
    standardise: Annotated[bool, OnlyWith(("alpha", "beta"))] = False
    """The networks are compared by standardised logits (see kd)."""


class RLD(Method):
    Settings = RLDSettings
    about = "softened logits, refined by labels"
    is_logit_method = True
    teachers_needed = (1, 1)
    reads = ("logits",)
    mixed_labels = "greater"

    def __init__(self, settings: RLDSettings, context: Context):
        super().__init__(settings, context)
        self.loss = RLDLoss(
            temperature=settings.temperature,
            target_temperature=settings.target_temperature,
            alpha=settings.alpha,
            beta=settings.beta,
            ce_weight=settings.ce_weight,
            standardise=settings.standardise,
        )

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        terms = self.loss(student.logits, teachers[0].logits, batch.labels)
        return MethodLoss(terms.total, {"ce": terms.ce, "scd": terms.scd, "mcd": terms.mcd}, terms.hits)

    def begin_epoch(self, epoch: int) -> None:
        share = warm_up_share(epoch, self.settings.warmup_epochs)
        self.loss.alpha = share * self.settings.alpha
        self.loss.beta = share * self.settings.beta
