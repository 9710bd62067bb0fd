"""Multi-level logit distillation (Jin, Wang, Lin: "Multi-level logit distillation", CVPR 2023).

resnet32x4 → resnet8x4 on CIFAR-100: 77.08, and 78.28 with standardised logits (README of the latter's authors; both of
the best epoch). The default is what the authors' code computes, which is not what the paper says; `arithmetic` chooses.
In the code
- its masks select nothing. A loss is a scalar when it is multiplied by a mask, which scales it by the share of samples
  (or classes) whose confidence is at most the median: about a half.
- among the "strong" KLs, those at temperatures 2 and 6 are of the weak view.
- Gram matrices are of the weak view alone; they are not divided by B, nor do they carry τ².
- the temperature of the recipe is one entry beside 2, 3, 5 and 6: it may stand there twice.
In the paper's form every temperature has KL and both Gram terms, of each view by itself, and nothing is masked.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from fastkd.data.base import WEAK_AND_STRONG, Batch
from fastkd.losses import KDLoss, ce_loss
from fastkd.losses.precision import full_precision
from fastkd.methods.base import Context, Method, MethodLoss
from fastkd.networks.base import Output
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import Temperature, Weight

TEMPERATURES = (3.0, 5.0, 2.0, 6.0)
"""Temperatures beside the recipe's own."""
OF_THE_WEAK_VIEW = (2.0, 6.0)
"""Temperatures at which the authors' code takes the weak view among the strong ones."""


@dataclass(frozen=True, kw_only=True)
class MLLDSettings(Checked):
    """ce_weight · (CE of both views) + kd_weight · (KL, batch and class Gram terms, each over five temperatures).

    The defaults are the authors' for CIFAR-100; on ImageNet temperature 1 and weights 0.5 and 0.5. With standardise
    they have temperature 2 and kd-weight 9.
    """

    ce_weight: Weight = 0.1
    kd_weight: Weight = 0.9
    temperature: Annotated[Temperature, OnlyWith("kd_weight")] = 4.0
    """The first of the five temperatures."""
    arithmetic: Literal["code", "paper"] = "code"
    """paper: no loss is scaled by the shares, the strong view's KLs are its own at all temperatures, and it has Gram
    terms, too."""
    standardise: Annotated[bool, OnlyWith("kd_weight")] = False
    """KL compares standardised logits (see kd); the Gram terms do not."""


class MLLD(Method):
    """Needs a weak and a strong view. Each process compares the samples of its own batch."""

    Settings = MLLDSettings
    about = "logits at samples, classes, batches"
    is_logit_method = True
    teachers_needed = (1, 1)
    reads = ("logits",)
    views = WEAK_AND_STRONG

    def __init__(self, settings: MLLDSettings, context: Context):
        super().__init__(settings, context)
        self.temperatures = (settings.temperature, *TEMPERATURES)
        self.kl = torch.nn.ModuleList(
            KDLoss(temperature=temperature, kl_weight=1.0, ce_weight=0.0, standardise=settings.standardise)
            for temperature in self.temperatures
        )

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        labels = batch.labels
        weak, strong = student.logits.unflatten(0, (2, len(labels)))
        weak_target, strong_target = teachers[0].logits.detach().unflatten(0, (2, len(labels)))
        ce, strong_ce = ce_loss(weak, labels), ce_loss(strong, labels)
        by_code = self.settings.arithmetic == "code"
        of_samples, of_classes = shares_up_to_the_median(weak_target) if by_code else (1.0, 1.0)
        on_weak = [kl(weak, weak_target, labels).total for kl in self.kl]
        on_strong = [
            own if by_code and own_is_weak else kl(strong, strong_target, labels).total
            for kl, own, own_is_weak in zip(self.kl, on_weak, self._taken_weak(), strict=True)
        ]
        kl = of_samples * torch.stack(on_weak).sum() + torch.stack(on_strong).sum()
        views = [(weak, weak_target)] if by_code else [(weak, weak_target), (strong, strong_target)]
        grams = [gram_distances(*view, temperature) for view in views for temperature in self.temperatures]
        class_grams, batch_grams = (torch.stack(each).sum() for each in zip(*grams, strict=True))
        cc, bc = of_classes * class_grams, of_samples * batch_grams
        total_ce = ce.total + strong_ce.total
        total = self.settings.ce_weight * total_ce + self.settings.kd_weight * (kl + cc + bc)
        terms = {"ce": total_ce.detach(), "kl": kl.detach(), "cc": cc.detach(), "bc": bc.detach()}
        return MethodLoss(total, terms, ce.hits)

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
