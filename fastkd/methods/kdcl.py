"""Online distillation (Guo et al.: "Online knowledge distillation via collaborative learning", CVPR 2020): several
networks learn from one target that is made of their logits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastkd.data.base import Batch
from fastkd.losses import KDLoss
from fastkd.methods.base import MethodLoss, above_zero
from fastkd.methods.precision import full_precision
from fastkd.networks.base import Output


@dataclass(frozen=True, kw_only=True)
class KDCLSettings:
    """For each network CE + kl_weight · τ² KL(target ‖ network)."""

    target: Literal["naive", "min_logit"] = "naive"
    """naive: for each sample the logits of the network with the least cross-entropy; min_logit: for each class
    the least distance from the label's logit that any network gives it."""
    kl_weight: float = 1.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        above_zero("kdcl", temperature=self.temperature)


class KDCL(nn.Module):
    """The target is a constant. In the paper each network sees its own augmentation of the same images."""

    Settings = KDCLSettings

    def __init__(self, settings: KDCLSettings):
        super().__init__()
        self.make_target = naive_target if settings.target == "naive" else min_logit_target
        self.loss = KDLoss(temperature=settings.temperature, kl_weight=settings.kl_weight, ce_weight=1.0)

    def forward(self, networks: Sequence[Output], batch: Batch) -> list[MethodLoss]:
        target = self.make_target(torch.stack([own.logits.detach() for own in networks]), batch.labels)
        losses = []
        for own in networks:
            terms = self.loss(own.logits, target.to(own.logits.dtype), batch.labels)
            losses.append(MethodLoss(terms.total, {"ce": terms.ce, "kl": terms.kl}, terms.hits))
        return losses


@full_precision
def naive_target(logits_MBK: Tensor, labels_B: Tensor) -> Tensor:
    errors_MB = F.cross_entropy(logits_MBK.mT, labels_B.expand(logits_MBK.shape[:2]), reduction="none")
    best_B = errors_MB.argmin(0)
    return logits_MBK.gather(0, best_B[None, :, None].expand(1, *logits_MBK.shape[1:]))[0]


@full_precision
def min_logit_target(logits_MBK: Tensor, labels_B: Tensor) -> Tensor:
    own = logits_MBK.gather(2, labels_B[None, :, None].expand(len(logits_MBK), -1, 1))
    return (logits_MBK - own).amin(0)
