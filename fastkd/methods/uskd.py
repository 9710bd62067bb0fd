"""Self-distillation with customised soft labels (USKD, also tf-NKD; Yang, Zeng, Li, Zhang, Yuan, Li: "From knowledge
distillation to self-knowledge distillation: a unified approach with normalized loss and customized soft labels", ICCV
2023, arXiv 2303.13005): NKD's losses without a teacher."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from fastkd.data.base import Batch
from fastkd.losses import USKDLoss, ce_loss
from fastkd.losses.uskd import labels_and_values
from fastkd.methods.base import Context, Method, MethodLoss
from fastkd.methods.fitnet import hint_place
from fastkd.networks.base import Output
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import Place, Weight


@dataclass(frozen=True, kw_only=True)
class USKDSettings(Checked):
    """ce_weight · CE + alpha · target + beta · others + mu · weak.

    target: −P log p[y], P = p[y]² + 1 − the batch's mean of p[y]². others: the cross-entropy of the other classes with
    weights by Zipf's law, in the order of how much the network and its weak head say for them. weak: the smoothed
    cross-entropy of the weak head, a linear layer behind the last block but one. The defaults are the authors' for
    convolutional networks on ImageNet.
    """

    ce_weight: Weight = 1.0
    alpha: Weight = 1.0
    beta: Weight = 0.1
    mu: Weight = 0.005
    block: Place | None = None
    """Block, from 1, behind which the weak head stands; None: the last but one."""
    ranking: Annotated[Literal["code", "paper"], OnlyWith("beta")] = "code"
    """What the network itself says in the order of the classes: code, its log-probabilities, as a variable is
    overwritten in the authors' code; paper, its probabilities, as those of the weak head."""


class USKD(Method):
    Settings = USKDSettings
    about = "labels the student itself softens"
    relates_samples = True
    is_logit_method = True
    teachers_needed = (0, None)
    reads = ()
    mixed_labels = "own"

    def __init__(self, settings: USKDSettings, context: Context):
        super().__init__(settings, context)
        features = context.student_shapes.features
        self.place = hint_place("uskd", settings.block or max(len(features) - 1, 1), len(features))
        given = {"alpha": settings.alpha, "beta": settings.beta, "mu": settings.mu, "ranking": settings.ranking}
        self.loss = USKDLoss(features[self.place].shape[1], context.classes, **given)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        settings, ce = self.settings, ce_loss(student.logits, batch.labels)
        labels = label_values(batch, student.logits)
        target, others, weak = self.loss.parts(student.logits, student.features[self.place], *labels)
        total = settings.ce_weight * ce.total
        total = total + settings.alpha * target + settings.beta * others + settings.mu * weak
        terms = {"ce": ce.ce, "target": target.detach(), "others": others.detach(), "weak": weak.detach()}
        return MethodLoss(total, terms, ce.hits)


def label_values(batch: Batch, logits_BK: Tensor) -> tuple[Tensor, Tensor]:
    """[B,n] labels and their values: one label, or the two of a mixed image."""
    if batch.mixed is None:
        return labels_and_values(batch.labels, logits_BK)
    share = batch.mixed.share.to(torch.promote_types(logits_BK.dtype, torch.float32))
    return torch.stack([batch.labels, batch.mixed.labels], 1), torch.stack([share, 1 - share], 1)
