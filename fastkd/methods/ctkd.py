"""Curriculum temperature (Li, Li, Yang, Zhao, Song, Luo, Li, Yang: "Curriculum temperature for knowledge distillation",
AAAI 2023, arXiv 2211.16231), with the global temperature.

resnet32x4 → resnet8x4 on CIFAR-100: 73.39; ResNet34 → ResNet18 on ImageNet: 71.32 with KD, 71.51 with DKD (authors'
README, best epochs).
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from fastkd.data.base import Batch
from fastkd.losses import kd_loss, standardised_logits
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
    """The factor τ² is part of what is ascended: a greater τ always pays, and τ ends near its greatest value."""

    Settings = CTKDSettings
    about = "kd, the temperature is learned"
    is_logit_method = True
    teachers_needed = (1, 1)
    reads = ("logits",)
    factor: Tensor

    def __init__(self, settings: CTKDSettings, context: Context):
        super().__init__(settings, context)
        self.global_T = nn.Parameter(torch.ones(1))
        self.register_buffer("factor", torch.zeros(()), persistent=False)
        self.begin_epoch(0)

    def temperature(self) -> Tensor:
        """A scalar on the device."""
        return self.settings.start + self.settings.span * self.global_T.sigmoid().squeeze()

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        settings, temperature = self.settings, self.temperature()
        fixed, logits = temperature.detach(), (student.logits, teachers[0].logits)
        numbers = {"temperature": fixed, "kl_weight": settings.kl_weight, "ce_weight": settings.ce_weight}
        terms = kd_loss(*logits, batch.labels, standardise=settings.standardise, **numbers)
        slope = settings.kl_weight * self.factor * temperature_slope(*logits, fixed, standardise=settings.standardise)
        # Adds 0; its derivative is the slope, which the operation does not give.
        total = terms.total + slope.to(fixed.dtype) * (temperature - fixed)
        return MethodLoss(total, {"ce": terms.ce, "kl": terms.kl, "temperature": fixed}, terms.hits)

    def begin_epoch(self, epoch: int) -> None:
        done = min(epoch + 1, self.settings.epochs_of_rise) / self.settings.epochs_of_rise
        self.factor.fill_(-0.5 * (1 - math.cos(math.pi * done)))


@torch.no_grad()
def temperature_slope(student_BK: Tensor, teacher_BK: Tensor, temperature: Tensor, *, standardise: bool) -> Tensor:
    """The derivative of mean τ² KL(teacher ‖ student) by τ.

    It is a small difference of large terms, of which float32 leaves few digits at many classes: float64.
    """
    student, teacher, tau = student_BK.double(), teacher_BK.double(), temperature.double()
    if standardise:
        student, teacher = standardised_logits(student), standardised_logits(teacher)
    log_q, log_p = (student / tau).log_softmax(1), (teacher / tau).log_softmax(1)
    p, q = log_p.exp(), log_q.exp()
    gaps = torch.where(p == 0, 0, log_p - log_q)
    kl = (p * gaps).sum(1, keepdim=True)
    by_student = torch.where(p == q, 0, (q - p) * student)
    by_teacher = torch.where(p == 0, 0, p * (gaps - kl) * teacher)
    return (2 * tau * kl[:, 0] - (by_student + by_teacher).sum(1)).mean()
