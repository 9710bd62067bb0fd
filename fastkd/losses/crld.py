"""Cross-view consistency (Zhang, Liu, Cai, Ma: "Cross-view consistency regularisation for knowledge distillation", ACM
MM 2024, arXiv 2412.16493)."""

import torch
from torch import Tensor

from fastkd.losses.kd import KDTerms, MultiTeacherLoss
from fastkd.losses.module import TensorLoss
from fastkd.losses.precision import full_precision
from fastkd.support.ranges import Share, Temperature, Weight


class CRLDLoss(TensorLoss):
    """Cross-entropy of both views + KD within and across a weak and a strong view, of what the teacher is sure of.

    within_weight: that of KL between the networks on the same view.
    across_weight: that of KL from the teacher on one view to the student on the other.
    weak_threshold: the teacher's least confidence on the weak view for KL within both views: not, as one might expect,
        on each.
    strong_threshold: its least confidence on the strong view for KL across the views.
    standardise: KL compares standardised logits (see `kd_loss`).

    Means are over all samples: those of which the teacher is not sure add nothing, and are counted.
    """

    def __init__(
        self,
        *,
        ce_weight: Weight = 1.0,
        within_weight: Weight = 2.0,
        across_weight: Weight = 0.5,
        temperature: Temperature = 4.0,
        weak_threshold: Share = 0.9,
        strong_threshold: Share = 0.2,
        standardise: bool = False,
    ):
        weights = {"ce_weight": ce_weight, "within_weight": within_weight, "across_weight": across_weight}
        thresholds = {"weak_threshold": weak_threshold, "strong_threshold": strong_threshold}
        super().__init__(temperature=temperature, **weights, **thresholds)
        self.within_weight, self.across_weight = within_weight, across_weight
        self.weak_threshold, self.strong_threshold = weak_threshold, strong_threshold
        self.kl = MultiTeacherLoss(temperature=temperature, kl_weight=1.0, ce_weight=ce_weight, standardise=standardise)

    def forward(
        self, weak: Tensor, strong: Tensor, teacher_weak: Tensor, teacher_strong: Tensor, labels: Tensor
    ) -> KDTerms:
        """weak, strong, teacher_weak, teacher_strong: logits [B,K] of the two views; labels: [B] int64.

        The parts are sums over both views, KL with the weights within and across; the hits are those of the weak one.
        """
        teacher_weak, teacher_strong = teacher_weak.detach(), teacher_strong.detach()
        within = self.within_weight * is_sure(teacher_weak, self.weak_threshold)
        across = self.across_weight * is_sure(teacher_strong, self.strong_threshold)
        weights = torch.stack([within, across])
        on_weak = self.kl(weak, [teacher_weak, teacher_strong], labels, weights)
        on_strong = self.kl(strong, [teacher_strong, teacher_weak], labels, weights)
        total, ce, kl = (one + other for one, other in zip(on_weak[:3], on_strong[:3], strict=True))
        return KDTerms(total, ce, kl, on_weak.hits)


@torch.no_grad()
@full_precision
def is_sure(logits_BK: Tensor, threshold: float) -> Tensor:
    """[B]: 1 where the greatest probability is at least the threshold, else 0."""
    p = logits_BK.softmax(1)
    return (p.amax(1) >= threshold).to(p.dtype)
