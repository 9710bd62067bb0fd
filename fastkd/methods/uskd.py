"""Self-distillation with customised soft labels (USKD, also tf-NKD; Yang, Zeng, Li, Zhang, Yuan, Li: "From knowledge
distillation to self-knowledge distillation: a unified approach with normalized loss and customized soft labels", ICCV
2023, arXiv 2303.13005): NKD's losses without a teacher."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from fastkd.data.base import Batch
from fastkd.losses import ce_loss
from fastkd.losses.precision import full_precision
from fastkd.methods.base import Context, Method, MethodLoss
from fastkd.methods.fitnet import hint_place
from fastkd.networks.base import Output
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import Place, Weight

SMOOTHING = 0.1
"""Label smoothing of the weak head's loss."""
EPSILON = 1e-6


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
    """Soft labels are constants. P depends on the batch of a process, and may exceed 1."""

    Settings = USKDSettings
    about = "labels the student itself softens"
    is_logit_method = True
    teachers_needed = (0, None)
    reads = ()
    mixed_labels = "own"

    def __init__(self, settings: USKDSettings, context: Context):
        super().__init__(settings, context)
        features = context.student_shapes.features
        self.place = hint_place("uskd", settings.block or max(len(features) - 1, 1), len(features))
        self.weak = nn.Linear(features[self.place].shape[1], context.classes)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        ce = ce_loss(student.logits, batch.labels)
        weak = self.weak(student.features[self.place].flatten(2).mean(2))
        labels, values = label_values(batch, student.logits)
        target = target_loss(student.logits, labels, values)
        others = others_loss(student.logits, weak, labels, in_logs=self.settings.ranking == "code")
        smoothed = smoothed_cross_entropy(weak, labels, values)
        settings = self.settings
        total = settings.ce_weight * ce.total
        total = total + settings.alpha * target + settings.beta * others + settings.mu * smoothed
        terms = {"ce": ce.ce, "target": target.detach(), "others": others.detach(), "weak": smoothed.detach()}
        return MethodLoss(total, terms, ce.hits)


def label_values(batch: Batch, logits_BK: Tensor) -> tuple[Tensor, Tensor]:
    """[B,n] labels and their values: one label, or the two of a mixed image."""
    dtype = torch.promote_types(logits_BK.dtype, torch.float32)
    if batch.mixed is None:
        return batch.labels[:, None], torch.ones_like(logits_BK[:, :1], dtype=dtype)
    share = batch.mixed.share.to(dtype)
    return torch.stack([batch.labels, batch.mixed.labels], 1), torch.stack([share, 1 - share], 1)


@full_precision
def target_loss(logits_BK: Tensor, labels_Bn: Tensor, values_Bn: Tensor) -> Tensor:
    log_p = logits_BK.log_softmax(1).gather(1, labels_Bn)
    squares = log_p.detach().exp().square()
    soft = torch.where(values_Bn > 0, squares + values_Bn - squares.mean(0), 0)  # a label of value 0 is none
    return -(soft * log_p).sum(1).mean()


@full_precision
def others_loss(logits_BK: Tensor, weak_BK: Tensor, labels_Bn: Tensor, *, in_logs: bool) -> Tensor:
    target = soft_others(logits_BK.detach(), weak_BK.detach(), labels_Bn, in_logs=in_logs)
    log_q = logits_BK.scatter(1, labels_Bn, -torch.inf).log_softmax(1)
    return -torch.where(target > 0, target * log_q, 0).sum(1).mean()


def soft_others(logits_BK: Tensor, weak_BK: Tensor, labels_Bn: Tensor, *, in_logs: bool) -> Tensor:
    """[B,K]: what each class other than the labels is given, 0 for these."""
    weak = weak_BK.softmax(1)
    own = logits_BK.log_softmax(1) if in_logs else logits_BK.softmax(1)
    order = _of_the_rest(weak, labels_Bn) + _of_the_rest(own, labels_Bn)
    place = order.argsort(dim=1, descending=True, stable=True)
    ranks = torch.arange(1, place.shape[1] + 1, dtype=weak.dtype, device=weak.device)
    zipf = torch.zeros_like(weak).scatter(1, place, (1 / ranks).expand_as(weak)).scatter(1, labels_Bn, 0)
    return zipf / zipf.sum(1, keepdim=True)


def _of_the_rest(says_BK: Tensor, labels_Bn: Tensor) -> Tensor:
    return says_BK / (1 - says_BK.gather(1, labels_Bn).sum(1, keepdim=True) + EPSILON)


@full_precision
def smoothed_cross_entropy(logits_BK: Tensor, labels_Bn: Tensor, values_Bn: Tensor) -> Tensor:
    log_p = logits_BK.log_softmax(1)
    labels = (values_Bn * log_p.gather(1, labels_Bn)).sum(1)
    return -((1 - SMOOTHING) * labels + SMOOTHING * log_p.mean(1)).mean()
