"""Deep mutual learning (Zhang, Xiang, Hospedales, Lu: "Deep mutual learning", CVPR 2018, arXiv 1706.00384): several
networks learn together, each from all the others."""

from dataclasses import dataclass
from typing import Annotated

from fastkd.data.base import Batch
from fastkd.losses import MultiTeacherLoss
from fastkd.methods.base import Context, Method, MethodLoss
from fastkd.networks.base import Output
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import Temperature, Weight


@dataclass(frozen=True, kw_only=True)
class DMLSettings(Checked):
    """The loss of each network is CE + kl_weight · mean over the others of τ² KL(other ‖ network)."""

    kl_weight: Weight = 1.0
    temperature: Annotated[Temperature, OnlyWith("kl_weight")] = 1.0
    standardise: Annotated[bool, OnlyWith("kl_weight")] = False
    """KL compares standardised logits (see kd)."""


class DML(Method):
    """Each network takes the others as constants, with the weights that they have before the step.

    The paper alternates instead: the second network sees what the first says after its step.
    """

    Settings = DMLSettings
    about = "peers, each from all others"
    is_logit_method = True
    among_peers = True
    reads = ("logits",)

    def __init__(self, settings: DMLSettings, context: Context):
        super().__init__(settings, context)
        self.loss = MultiTeacherLoss(
            temperature=settings.temperature,
            kl_weight=settings.kl_weight,
            ce_weight=1.0,
            standardise=settings.standardise,
        )

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        terms = self.loss(student.logits, [teacher.logits for teacher in teachers], batch.labels)
        return MethodLoss(terms.total, {"ce": terms.ce, "kl": terms.kl}, terms.hits)
