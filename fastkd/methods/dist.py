"""DIST (Huang, You, Wang, Qian, Xu: "Knowledge distillation from a stronger teacher", NeurIPS 2022, arXiv 2205.10536).

resnet32x4 → resnet8x4 on CIFAR-100: 76.31±0.19; ResNet34 → ResNet18 on ImageNet: 72.07 (authors' README).
"""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from fastkd.data.base import Batch
from fastkd.losses import ce_loss, standardised_logits
from fastkd.losses.correlation import DISTLoss
from fastkd.methods.base import Context, Method, MethodLoss
from fastkd.networks.base import Output
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import Temperature, Weight


@dataclass(frozen=True, kw_only=True)
class DISTSettings(Checked):
    """ce_weight · CE + weight · τ² (beta · inter + gamma · intra), both terms 1 − Pearson's correlation.

    The defaults are the authors' for CIFAR-100; on ImageNet their temperature is 1.
    """

    ce_weight: Weight = 1.0
    weight: Annotated[Weight, OnlyWith(("beta", "gamma"))] = 2.0
    beta: Annotated[Weight, OnlyWith("weight")] = 1.0
    """Weight of the correlation over the classes, averaged over the samples."""
    gamma: Annotated[Weight, OnlyWith("weight")] = 1.0
    """Weight of the correlation over the samples, averaged over the classes."""
    temperature: Annotated[Temperature, OnlyWith("weight"), OnlyWith(("beta", "gamma"))] = 4.0
    tau_squared: Annotated[bool, OnlyWith("weight"), OnlyWith(("beta", "gamma"))] = True
    """Multiply by τ², as the authors' code does; the paper's listing does not."""
    standardise: Annotated[bool, OnlyWith("weight"), OnlyWith(("beta", "gamma"))] = False
    """The networks are compared by standardised logits (see kd)."""


class DIST(Method):
    """Compares probabilities, not logits. Each process correlates the samples of its own batch."""

    Settings = DISTSettings
    about = "correlations of classes and samples"
    relates_samples = True
    is_logit_method = True
    teachers_needed = (1, 1)
    reads = ("logits",)

    def __init__(self, settings: DISTSettings, context: Context):
        super().__init__(settings, context)
        self.loss = DISTLoss(temperature=settings.temperature, tau_squared=settings.tau_squared)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        ce = ce_loss(student.logits, batch.labels)
        inter, intra = self.loss.parts(self._compared(student.logits), self._compared(teachers[0].logits))
        distance = self.settings.beta * inter + self.settings.gamma * intra
        total = self.settings.ce_weight * ce.total + self.settings.weight * distance
        return MethodLoss(total, {"ce": ce.ce, "inter": inter.detach(), "intra": intra.detach()}, ce.hits)

    def _compared(self, logits_BK: Tensor) -> Tensor:
        return standardised_logits(logits_BK) if self.settings.standardise else logits_BK
