"""Adaptive ensemble knowledge distillation (Du et al.: "Agree to disagree: adaptive ensemble knowledge distillation in
gradient space", NeurIPS 2020), on logits."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastkd.losses.kd import KDTerms, MultiTeacherLoss
from fastkd.losses.module import TensorLoss
from fastkd.losses.smallest_combination import MOST, smallest_combination
from fastkd.ops.distill_loss.reference_parts import standardised_logits
from fastkd.support.ranges import Positive, Temperature, Weight


class AEKDLoss(TensorLoss):
    """ce_weight · CE + kl_weight · Σ w_m τ² KL(teacher m ‖ student), w the shortest combination of their gradients.

    Gradients are those with respect to the student's logits, averaged over the batch; they have a closed form, so that
    no extra backward pass is needed.

    cap: the most that one teacher may have. unit_length: the gradients are normalised first.
    standardise: KL compares standardised logits (see `kd_loss`), and the gradients are those with respect to them.
    """

    def __init__(
        self,
        *,
        ce_weight: Weight = 1.0,
        kl_weight: Weight = 1.0,
        temperature: Temperature = 4.0,
        cap: Positive = 0.6,
        unit_length: bool = False,
        standardise: bool = False,
    ):
        super().__init__(ce_weight=ce_weight, kl_weight=kl_weight, temperature=temperature, cap=cap)
        self.temperature, self.cap, self.unit_length, self.standardise = temperature, cap, unit_length, standardise
        self.kl = MultiTeacherLoss(
            temperature=temperature, kl_weight=kl_weight, ce_weight=ce_weight, standardise=standardise
        )

    def forward(self, student_logits: Tensor, teacher_logits: Sequence[Tensor], labels: Tensor) -> KDTerms:
        """student_logits: [B,K]; teacher_logits: one to seven of the same shape; labels: [B] int64."""
        if not 1 <= len(teacher_logits) <= MOST:
            raise ValueError(f"teacher_logits are those of 1 to {MOST} teachers, got {len(teacher_logits)}")
        weights = self.teacher_weights(student_logits, teacher_logits)
        return self.kl(student_logits, teacher_logits, labels, weights.to(student_logits.dtype))

    def teacher_weights(self, student_BK: Tensor, teachers_BK: Sequence[Tensor]) -> Tensor:
        """[M] float64: how much each teacher counts."""
        if self.standardise:
            student_BK, *teachers_BK = (standardised_logits(logits) for logits in (student_BK, *teachers_BK))
        gradients = mean_gradients(student_BK, teachers_BK, self.temperature)
        return smallest_combination(gradients, self.cap, unit_length=self.unit_length)


@torch.no_grad()
def mean_gradients(student_BK: Tensor, teachers_BK: Sequence[Tensor], temperature: float) -> Tensor:
    """[M,K]: the gradients of τ² KL(teacher ‖ student) with respect to the student's logits, averaged over the batch.

    At one sample the gradient is τ / B (p_student - p_teacher).
    """
    logits_NBK = torch.stack([student_BK, *teachers_BK])
    logits_NBK = logits_NBK.to(torch.promote_types(logits_NBK.dtype, torch.float32))
    means = (logits_NBK / temperature).softmax(2).mean(1)
    return temperature / len(student_BK) * (means[0] - means[1:])
