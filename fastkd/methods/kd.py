"""Knowledge distillation (Hinton, Vinyals, Dean: "Distilling the knowledge in a neural network", arXiv 1503.02531)."""

from dataclasses import dataclass
from typing import Annotated

from fastkd.data.base import Batch
from fastkd.losses import KDLoss
from fastkd.methods.base import Context, Method, MethodLoss
from fastkd.networks.base import Output
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import Temperature, Weight


@dataclass(frozen=True, kw_only=True)
class KDSettings(Checked):
    """ce_weight · CE + kl_weight · τ² KL(teacher ‖ student)."""

    kl_weight: Weight = 0.9
    """Weight of the KL term (RepDistiller: 0.9 on CIFAR-100)."""
    ce_weight: Weight = 0.1
    """Weight of the cross-entropy with the labels."""
    temperature: Annotated[Temperature, OnlyWith("kl_weight")] = 4.0
    """τ of the KL term; the cross-entropy is taken at 1."""
    standardise: Annotated[bool, OnlyWith("kl_weight")] = False
    """KL compares the logits of each sample as multiples of their deviation (Sun et al.: "Logit standardization in
    knowledge distillation", CVPR 2024, arXiv 2403.01427). Their tables have temperature 2, kl-weight 9 and ce-weight
    0.1 with it: 76.62 for resnet32x4 → resnet8x4 on CIFAR-100, of the best epoch."""


class KD(Method):
    Settings = KDSettings
    about = "softened logits"
    is_logit_method = True
    teachers_needed = (1, 1)
    reads = ("logits",)
    takes_sparse = True

    def __init__(self, settings: KDSettings, context: Context):
        super().__init__(settings, context)
        self.loss = KDLoss(
            temperature=settings.temperature,
            kl_weight=settings.kl_weight,
            ce_weight=settings.ce_weight,
            standardise=settings.standardise,
        )

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        terms = self.loss(student.logits, teachers[0].logits, batch.labels)
        return MethodLoss(terms.total, {"ce": terms.ce, "kl": terms.kl}, terms.hits)
