"""Normalised knowledge distillation (Yang, Zeng, Li, Zhang, Yuan, Li: "From knowledge distillation to self-knowledge
distillation: a unified approach with normalized loss and customized soft labels", ICCV 2023, arXiv 2303.13005).

ResNet34 → ResNet18 on ImageNet: 71.96 (authors' README). Its form without a teacher is `uskd`.
"""

from dataclasses import dataclass
from typing import Annotated

from fastkd.data.base import Batch
from fastkd.losses import NKDLoss
from fastkd.methods.base import Context, Method, MethodLoss
from fastkd.networks.base import Output
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import Temperature, Weight


@dataclass(frozen=True, kw_only=True)
class NKDSettings(Checked):
    """ce_weight · CE − alpha · p_t[y] log p_s[y] − gamma · τ² Σ q_t log q_s over the other classes.

    The defaults are the authors' for ResNets on ImageNet; on CIFAR-100 they have gamma 3.5 and temperature 3.
    """

    ce_weight: Weight = 1.0
    alpha: Weight = 1.0
    """Weight of the label's term, which is at temperature 1."""
    gamma: Weight = 1.5
    """Weight of the other classes' term."""
    temperature: Annotated[Temperature, OnlyWith("gamma")] = 1.0
    """Temperature among the other classes."""
    standardise: Annotated[bool, OnlyWith(("alpha", "gamma"))] = False
    """The networks are compared by standardised logits (see kd)."""


class NKD(Method):
    """Under mixup and cutmix only the greater label counts, as in the authors' code."""

    Settings = NKDSettings
    about = "softened logits, normalised apart"
    is_logit_method = True
    teachers_needed = (1, 1)
    reads = ("logits",)
    takes_sparse = True
    mixed_labels = "greater"

    def __init__(self, settings: NKDSettings, context: Context):
        super().__init__(settings, context)
        self.loss = NKDLoss(
            temperature=settings.temperature,
            alpha=settings.alpha,
            gamma=settings.gamma,
            ce_weight=settings.ce_weight,
            standardise=settings.standardise,
        )

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        terms = self.loss(student.logits, teachers[0].logits, batch.labels)
        return MethodLoss(terms.total, {"ce": terms.ce, "target": terms.target, "others": terms.others}, terms.hits)
