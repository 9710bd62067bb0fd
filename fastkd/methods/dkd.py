"""Decoupled knowledge distillation (Zhao, Cui, Song, Qiu, Liang: "Decoupled knowledge distillation", CVPR 2022,
arXiv 2203.08679)."""

from dataclasses import dataclass

from fastkd.data.base import Batch
from fastkd.losses import DKDLoss
from fastkd.methods.base import Context, Method, MethodLoss, above_zero, at_least
from fastkd.networks.base import Output


@dataclass(frozen=True, kw_only=True)
class DKDSettings:
    """ce_weight · CE + min(epoch / warmup, 1) · τ² (alpha · TCKD + beta · NCKD), with the authors' warm-up."""

    ce_weight: float = 1.0
    alpha: float = 1.0
    """Weight of KL between (label, all other classes)."""
    beta: float = 8.0
    """Weight of KL within the other classes (mdistiller on CIFAR-100: 2, 6 or 8, by the pair)."""
    temperature: float = 4.0
    warmup_epochs: int = 20
    """Epochs over which KL's weights rise: epoch e, from 1, has e / warmup of them (20 on CIFAR, 1 on ImageNet)."""

    def __post_init__(self) -> None:
        above_zero("dkd", temperature=self.temperature)
        at_least("dkd", 0, warmup_epochs=self.warmup_epochs)


class DKD(Method):
    Settings = DKDSettings
    is_logit_method = True
    teachers_needed = (1, 1)

    def __init__(self, settings: DKDSettings, context: Context):
        super().__init__(settings, context)
        self.loss = DKDLoss(
            temperature=settings.temperature, alpha=settings.alpha, beta=settings.beta, ce_weight=settings.ce_weight
        )

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        terms = self.loss(student.logits, teachers[0].logits, batch.labels)
        return MethodLoss(terms.total, {"ce": terms.ce, "tckd": terms.tckd, "nckd": terms.nckd}, terms.hits)

    def begin_epoch(self, epoch: int) -> None:
        share = min((epoch + 1) / max(self.settings.warmup_epochs, 1), 1.0)
        self.loss.alpha = share * self.settings.alpha
        self.loss.beta = share * self.settings.beta
