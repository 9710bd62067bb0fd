"""Decoupled knowledge distillation (Zhao, Cui, Song, Qiu, Liang: "Decoupled knowledge distillation", CVPR 2022,
arXiv 2203.08679)."""

from dataclasses import dataclass
from typing import Annotated

from fastkd.data.base import Batch
from fastkd.losses import DKDLoss
from fastkd.methods.base import Context, Method, MethodLoss, warm_up_share
from fastkd.networks.base import Output
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import EpochsOrNone, Temperature, Weight


@dataclass(frozen=True, kw_only=True)
class DKDSettings(Checked):
    """ce_weight · CE + min(epoch / warmup, 1) · τ² (alpha · TCKD + beta · NCKD), with the authors' warm-up."""

    ce_weight: Weight = 1.0
    alpha: Weight = 1.0
    """Weight of KL between (label, all other classes)."""
    beta: Weight = 8.0
    """Weight of KL within the other classes (mdistiller on CIFAR-100: 2, 6 or 8, by the pair)."""
    temperature: Annotated[Temperature, OnlyWith(("alpha", "beta"))] = 4.0
    warmup_epochs: Annotated[EpochsOrNone, OnlyWith(("alpha", "beta"))] = 20
    """Epochs over which KL's weights rise: epoch e, from 1, has e / warmup of them (20 on CIFAR, 1 on ImageNet)."""
    standardise: Annotated[bool, OnlyWith(("alpha", "beta"))] = False
    """Both KLs compare standardised logits (see kd): its authors have alpha 9, 9 times the beta of the
    pair, and temperature 2 with it."""


class DKD(Method):
    Settings = DKDSettings
    about = "softened logits, the target apart"
    is_logit_method = True
    teachers_needed = (1, 1)
    reads = ("logits",)
    takes_sparse = True
    mixed_labels = "greater"

    def __init__(self, settings: DKDSettings, context: Context):
        super().__init__(settings, context)
        self.loss = DKDLoss(
            temperature=settings.temperature,
            alpha=settings.alpha,
            beta=settings.beta,
            ce_weight=settings.ce_weight,
            standardise=settings.standardise,
        )

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        terms = self.loss(student.logits, teachers[0].logits, batch.labels)
        return MethodLoss(terms.total, {"ce": terms.ce, "tckd": terms.tckd, "nckd": terms.nckd}, terms.hits)

    def begin_epoch(self, epoch: int) -> None:
        share = warm_up_share(epoch, self.settings.warmup_epochs)
        self.loss.alpha = share * self.settings.alpha
        self.loss.beta = share * self.settings.beta
