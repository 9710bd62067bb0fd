"""Cross-entropy alone: the student without a teacher, and the logit part of methods that distil features only."""

from dataclasses import dataclass

from fastkd.data.base import Batch
from fastkd.losses import ce_loss
from fastkd.methods.base import Method, MethodLoss
from fastkd.networks.base import Output
from fastkd.support.plain import Checked
from fastkd.support.ranges import Weight


@dataclass(frozen=True, kw_only=True)
class CESettings(Checked):
    weight: Weight = 1.0
    """Weight of the cross-entropy with the labels."""


class CE(Method):
    Settings = CESettings
    about = "the labels alone"
    is_logit_method = True
    teachers_needed = (0, None)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        terms = ce_loss(student.logits, batch.labels)
        return MethodLoss(self.settings.weight * terms.total, {"ce": terms.ce}, terms.hits)
