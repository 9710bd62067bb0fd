"""Curriculum temperature (Li, Li, Yang, Zhao, Song, Luo, Li, Yang: "Curriculum temperature for knowledge distillation",
AAAI 2023, arXiv 2211.16231), with the global temperature.

resnet32x4 → resnet8x4 on CIFAR-100: 73.39; ResNet34 → ResNet18 on ImageNet: 71.32 with KD, 71.51 with DKD (authors'
README, best epochs).
"""

from dataclasses import dataclass
from typing import Annotated

from fastkd.data.base import Batch
from fastkd.losses import CTKDLoss
from fastkd.methods.base import Context, Method, MethodLoss
from fastkd.networks.base import Output
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import Epochs, Temperature, Weight, between


@dataclass(frozen=True, kw_only=True)
class CTKDSettings(Checked):
    """ce_weight · CE + kl_weight · τ² KL(teacher ‖ student), τ learned against the student: it ascends the loss.

    τ = start + span · sigmoid(g), where g is one trained number, which begins at 1. Its gradient is multiplied by a
    factor that falls from 0 to −1 over the first epochs, by a cosine.
    """

    ce_weight: Weight = 0.1
    kl_weight: Weight = 0.9
    start: Annotated[Temperature, OnlyWith("kl_weight")] = 1.0
    span: Annotated[float, between(0, 1_000), OnlyWith("kl_weight")] = 20.0
    """τ lies between start and start + span: up to 21, where the paper says 20."""
    epochs_of_rise: Annotated[Epochs, OnlyWith("kl_weight"), OnlyWith("span")] = 10
    """Epochs until the factor is −1; epoch e, counted from 1, is e of them."""
    standardise: Annotated[bool, OnlyWith("kl_weight")] = False
    """KL compares standardised logits (see kd); their authors have kl-weight 9."""


class CTKD(Method):
    Settings = CTKDSettings
    about = "kd, the temperature is learned"
    is_logit_method = True
    teachers_needed = (1, 1)
    reads = ("logits",)

    def __init__(self, settings: CTKDSettings, context: Context):
        super().__init__(settings, context)
        self.loss = CTKDLoss(
            ce_weight=settings.ce_weight,
            kl_weight=settings.kl_weight,
            start=settings.start,
            span=settings.span,
            epochs_of_rise=settings.epochs_of_rise,
            standardise=settings.standardise,
        )

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        temperature = self.loss.temperature().detach()
        found = self.loss(student.logits, teachers[0].logits, batch.labels)
        return MethodLoss(found.total, {"ce": found.ce, "kl": found.kl, "temperature": temperature}, found.hits)

    def begin_epoch(self, epoch: int) -> None:
        self.loss.begin_epoch(epoch)
