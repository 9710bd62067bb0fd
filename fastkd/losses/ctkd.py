"""Curriculum temperature (Li, Li, Yang, Zhao, Song, Luo, Li, Yang: "Curriculum temperature for knowledge distillation",
AAAI 2023, arXiv 2211.16231), with the global temperature."""

import math

import torch
from torch import Tensor, nn

from fastkd.losses.kd import KDTerms, kd_loss
from fastkd.losses.module import TensorLoss
from fastkd.ops.distill_loss.reference_parts import standardised_logits
from fastkd.support.ranges import Epochs, NotNegative, Temperature, Weight


class CTKDLoss(TensorLoss):
    """ce_weight · CE + kl_weight · τ² KL(teacher ‖ student), τ learned against the student: it ascends the loss.

    τ = start + span · sigmoid(g), where g is one parameter, `global_T`, for your optimiser, which begins at 1. Its
    gradient is multiplied by a factor that falls from 0 to −1 over the first `epochs_of_rise` epochs, by a cosine:
    call `begin_epoch` with each. The factor τ² is part of what is ascended: a greater τ always pays, and τ ends near
    its greatest value.

    standardise: KL compares standardised logits (see `kd_loss`).
    """

    factor: Tensor

    def __init__(
        self,
        *,
        ce_weight: Weight = 0.1,
        kl_weight: Weight = 0.9,
        start: Temperature = 1.0,
        span: NotNegative = 20.0,
        epochs_of_rise: Epochs = 10,
        standardise: bool = False,
    ):
        super().__init__(
            ce_weight=ce_weight, kl_weight=kl_weight, start=start, span=span, epochs_of_rise=epochs_of_rise
        )
        self.ce_weight, self.kl_weight = ce_weight, kl_weight
        self.start, self.span, self.epochs_of_rise = start, span, epochs_of_rise
        self.standardise = standardise
        self.global_T = nn.Parameter(torch.ones(1))
        self.register_buffer("factor", torch.zeros(()), persistent=False)
        self.begin_epoch(0)

    def temperature(self) -> Tensor:
        """A scalar on the device."""
        return self.start + self.span * self.global_T.sigmoid().squeeze()

    def begin_epoch(self, epoch: int) -> None:
        """Sets the factor of an epoch, counted from 0, in place."""
        done = min(epoch + 1, self.epochs_of_rise) / self.epochs_of_rise
        self.factor.fill_(-0.5 * (1 - math.cos(math.pi * done)))

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> KDTerms:
        """student_logits, teacher_logits: [B,K]; labels: [B] int64."""
        temperature, logits = self.temperature(), (student_logits, teacher_logits)
        fixed = temperature.detach()
        numbers = {"temperature": fixed, "kl_weight": self.kl_weight, "ce_weight": self.ce_weight}
        terms = kd_loss(*logits, labels, standardise=self.standardise, **numbers)
        slope = self.kl_weight * self.factor * temperature_slope(*logits, fixed, standardise=self.standardise)
        # Adds 0; its derivative is the slope, which the operation does not give.
        return terms._replace(total=terms.total + slope.to(fixed.dtype) * (temperature - fixed))


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
