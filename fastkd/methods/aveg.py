"""Several teachers with equal weights, AVEG in the SimKD paper (You, Xu, Xu, Tao: "Learning from multiple teacher
networks", KDD 2017)."""

from dataclasses import dataclass

from fastkd.data.base import Batch
from fastkd.losses import MultiTeacherLoss
from fastkd.methods.base import Context, Method, MethodLoss, above_zero
from fastkd.networks.base import Output


@dataclass(frozen=True, kw_only=True)
class AVEGSettings:
    """ce_weight · CE + kl_weight · mean over the teachers of τ² KL(teacher ‖ student).

    Its gradient is that of KL to the teachers' mean probability.
    """

    ce_weight: float = 1.0
    """CA-MKD's code has this default and the next two."""
    kl_weight: float = 1.0
    temperature: float = 4.0

    def __post_init__(self) -> None:
        above_zero("aveg", temperature=self.temperature)


class AVEG(Method):
    Settings = AVEGSettings
    is_logit_method = True

    def __init__(self, settings: AVEGSettings, context: Context):
        super().__init__(settings, context)
        self.loss = MultiTeacherLoss(
            temperature=settings.temperature, kl_weight=settings.kl_weight, ce_weight=settings.ce_weight
        )

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        terms = self.loss(student.logits, [teacher.logits for teacher in teachers], batch.labels)
        return MethodLoss(terms.total, {"ce": terms.ce, "kl": terms.kl}, terms.hits)
