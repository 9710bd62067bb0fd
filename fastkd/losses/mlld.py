"""Multi-level logit distillation (Jin, Wang, Lin: "Multi-level logit distillation", CVPR 2023)."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from fastkd.losses.checks import check_choice
from fastkd.losses.kd import KDLoss, ce_loss
from fastkd.losses.module import TensorLoss
from fastkd.losses.precision import full_precision
from fastkd.support.ranges import Temperature, Weight

TEMPERATURES = (3.0, 5.0, 2.0, 6.0)
"""Temperatures beside the recipe's own."""
OF_THE_WEAK_VIEW = (2.0, 6.0)
"""Temperatures at which the authors' code takes the weak view among the strong ones."""
ARITHMETICS = ("code", "paper")


class MLLDTerms(NamedTuple):
    """ce_weight · ce + kd_weight · (kl + cc + bc)."""

    total: Tensor
    """The one differentiable value."""
    ce: Tensor
    """The sum of both views'."""
    kl: Tensor
    cc: Tensor
    """The Gram terms of the classes."""
    bc: Tensor
    """The Gram terms of the batch."""
    hits: Tensor
    """[2] int64: top-1 and top-5 hits of the weak view."""


class MLLDLoss(TensorLoss):
    """Cross-entropy, KL, and Gram terms of classes and of the batch, of a weak and a strong view, at five temperatures.

    temperature: the first of the five, beside 3, 5, 2 and 6.
    arithmetic: "code", what the authors' code computes, "paper", what the paper says. In the code
        - masks select nothing. A loss is a scalar when it is multiplied by a mask, which scales it by the share of
          samples (or classes) whose confidence is at most the median: about a half.
        - among the "strong" KLs, those at temperatures 2 and 6 are of the weak view.
        - Gram matrices are of the weak view alone.
        In the paper every temperature has KL and both Gram terms, of each view by itself, and nothing is masked.
    standardise: KL compares standardised logits (see `kd_loss`); the Gram terms do not.

    Gram matrices are not divided by B, nor do they carry τ². The samples compared are those of one process.
    """

    def __init__(
        self,
        *,
        ce_weight: Weight = 0.1,
        kd_weight: Weight = 0.9,
        temperature: Temperature = 4.0,
        arithmetic: Literal["code", "paper"] = "code",
        standardise: bool = False,
    ):
        check_choice("arithmetic", arithmetic, ARITHMETICS)
        super().__init__(ce_weight=ce_weight, kd_weight=kd_weight, temperature=temperature)
        self.ce_weight, self.kd_weight = ce_weight, kd_weight
        self.arithmetic = arithmetic
        self.temperatures = (temperature, *TEMPERATURES)
        self.kl = nn.ModuleList(
            KDLoss(temperature=one, kl_weight=1.0, ce_weight=0.0, standardise=standardise) for one in self.temperatures
        )

    def forward(
        self, weak: Tensor, strong: Tensor, teacher_weak: Tensor, teacher_strong: Tensor, labels: Tensor
    ) -> MLLDTerms:
        """weak, strong, teacher_weak, teacher_strong: logits [B,K] of the two views; labels: [B] int64."""
        ce, strong_ce = ce_loss(weak, labels), ce_loss(strong, labels)
        kl, cc, bc = self.parts(weak, strong, teacher_weak.detach(), teacher_strong.detach(), labels)
        both = ce.total + strong_ce.total
        total = self.ce_weight * both + self.kd_weight * (kl + cc + bc)
        return MLLDTerms(total, both.detach(), kl.detach(), cc.detach(), bc.detach(), ce.hits)

    def parts(
        self, weak: Tensor, strong: Tensor, teacher_weak: Tensor, teacher_strong: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(KL, Gram terms of the classes, of the batch), differentiable, without their weight."""
        by_code = self.arithmetic == "code"
        of_samples, of_classes = shares_up_to_the_median(teacher_weak) if by_code else (1.0, 1.0)
        on_weak = [kl(weak, teacher_weak, labels).total for kl in self.kl]
        on_strong = [
            own if by_code and own_is_weak else kl(strong, teacher_strong, labels).total
            for kl, own, own_is_weak in zip(self.kl, on_weak, self._taken_weak(), strict=True)
        ]
        kl = of_samples * torch.stack(on_weak).sum() + torch.stack(on_strong).sum()
        views = [(weak, teacher_weak)] if by_code else [(weak, teacher_weak), (strong, teacher_strong)]
        grams = [gram_distances(*view, temperature) for view in views for temperature in self.temperatures]
        class_grams, batch_grams = (torch.stack(each).sum() for each in zip(*grams, strict=True))
        return kl, of_classes * class_grams, of_samples * batch_grams

    def _taken_weak(self) -> list[bool]:
        return [False, *(temperature in OF_THE_WEAK_VIEW for temperature in TEMPERATURES)]


@torch.no_grad()
@full_precision
def shares_up_to_the_median(logits_BK: Tensor) -> tuple[Tensor, Tensor]:
    """The shares of samples whose greatest probability, and of classes whose summed one, is at most the median."""
    p = logits_BK.softmax(1)
    return share_up_to_the_median(p.amax(1)), share_up_to_the_median(p.sum(0))


def share_up_to_the_median(values_N: Tensor) -> Tensor:
    return (values_N <= median(values_N)).to(values_N.dtype).mean()


def median(values_N: Tensor) -> Tensor:
    """The mean of both middle values of an even number: numpy's, where torch's is the lower one."""
    ordered = values_N.sort().values
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


@full_precision
def gram_distances(student_BK: Tensor, teacher_BK: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The squared distances of PᵀP, divided by K, and of PPᵀ, divided by B; P are the probabilities [B,K].

    With D = P_s − P_t the differences are DᵀP_s + P_tᵀD and DP_sᵀ + P_tDᵀ, which rounding does not take away where the
    networks nearly agree.
    """
    student, teacher = (student_BK / temperature).softmax(1), (teacher_BK / temperature).softmax(1)
    apart = student - teacher
    of_classes = apart.T @ student + teacher.T @ apart
    of_samples = apart @ student.T + teacher @ apart.T
    return of_classes.square().sum() / student.shape[1], of_samples.square().sum() / len(student)
