"""No loss on the logits: for students that learn from features alone, such as in the first stage of FitNets."""

from dataclasses import dataclass

from torch import nn

from fastkd.data.base import Batch
from fastkd.losses import ce_loss
from fastkd.methods.base import Method, MethodLoss
from fastkd.networks.base import Network, Output
from fastkd.support.plain import Checked


@dataclass(frozen=True, kw_only=True)
class NoneSettings(Checked):
    """There is nothing to set."""


class NoLogitLoss(Method):
    """The hits are still counted, and the cross-entropy reported."""

    Settings = NoneSettings
    about = "no loss on the logits"
    is_logit_method = True
    teachers_needed = (0, None)

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        return ()

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        terms = ce_loss(student.logits.detach(), batch.labels)
        return MethodLoss(terms.ce.new_zeros(()), {"ce": terms.ce}, terms.hits)
