"""Deep mutual learning (Zhang, Xiang, Hospedales, Lu: "Deep mutual learning", CVPR 2018, arXiv 1706.00384): what each
of several networks that learn together learns from the others."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from fastkd.data.base import Batch
from fastkd.losses import MultiTeacherLoss
from fastkd.methods.base import MethodLoss, above_zero
from fastkd.networks.base import Output


@dataclass(frozen=True, kw_only=True)
class DMLSettings:
    """For each network CE + kl_weight · mean over the others of τ² KL(other ‖ network)."""

    kl_weight: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        above_zero("dml", temperature=self.temperature)


class DML(nn.Module):
    """The losses of all networks from one forward pass of each; the others are constants to a network.

    (The paper alternates: the second network sees what the first says after its step.)
    """

    Settings = DMLSettings

    def __init__(self, settings: DMLSettings):
        super().__init__()
        self.loss = MultiTeacherLoss(temperature=settings.temperature, kl_weight=settings.kl_weight, ce_weight=1.0)

    def forward(self, networks: Sequence[Output], batch: Batch) -> list[MethodLoss]:
        losses = []
        for place, own in enumerate(networks):
            others = [other.logits for other in (*networks[:place], *networks[place + 1 :])]
            terms = self.loss(own.logits, others, batch.labels)
            losses.append(MethodLoss(terms.total, {"ce": terms.ce, "kl": terms.kl}, terms.hits))
        return losses
