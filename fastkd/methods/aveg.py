"""Several teachers with equal weights, AVEG in the SimKD paper (You, Xu, Xu, Tao: "Learning from multiple teacher
networks", KDD 2017)."""

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
class AVEGSettings(Checked):
    """ce_weight · CE + kl_weight · mean over the teachers of τ² KL(teacher ‖ student).

    Its gradient is that of KL to the teachers' mean probability.
    """

    ce_weight: Weight = 1.0
    """CA-MKD's code has this default and the next two."""
    kl_weight: Weight = 1.0
    temperature: Annotated[Temperature, OnlyWith("kl_weight")] = 4.0
    standardise: Annotated[bool, OnlyWith("kl_weight")] = False
    """KL compares standardised logits (see kd)."""


class AVEG(Method):
    Settings = AVEGSettings
    about = "several teachers, equally weighted"
    is_logit_method = True
    reads = ("logits",)
    takes_sparse = True

    def __init__(self, settings: AVEGSettings, context: Context):
        super().__init__(settings, context)
        self.loss = MultiTeacherLoss(
            temperature=settings.temperature,
            kl_weight=settings.kl_weight,
            ce_weight=settings.ce_weight,
            standardise=settings.standardise,
        )

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        terms = self.loss(student.logits, [teacher.logits for teacher in teachers], batch.labels)
        return MethodLoss(terms.total, {"ce": terms.ce, "kl": terms.kl}, terms.hits)
