"""Self-distillation with customised soft labels (USKD, also tf-NKD; Yang, Zeng, Li, Zhang, Yuan, Li: "From knowledge
distillation to self-knowledge distillation: a unified approach with normalized loss and customized soft labels", ICCV
2023, arXiv 2303.13005): NKD's losses without a teacher."""

from typing import Literal

import torch
from torch import Tensor, nn

from fastkd.losses.checks import check_choice
from fastkd.losses.module import TensorLoss
from fastkd.losses.precision import full_precision
from fastkd.losses.row_checks import labels_are_classes
from fastkd.support.ranges import Images, Weight, Width

SMOOTHING = 0.1
"""Label smoothing of the weak head's loss."""
EPSILON = 1e-6


class USKDLoss(TensorLoss):
    """alpha · target + beta · others + mu · weak, without the cross-entropy.

    target: −P log p[y], P = p[y]² + 1 − the batch's mean of p[y]². others: the cross-entropy of the other classes with
    weights by Zipf's law, in the order of how much the network and its weak head say for them. weak: the smoothed
    cross-entropy of the weak head, a linear layer on features of an earlier block, for your optimiser.

    ranking: what the network itself says in that order: "code", its log-probabilities, as a variable is overwritten in
        the authors' code; "paper", its probabilities, as those of the weak head.

    Soft labels are constants. P depends on the batch of a process, and may exceed 1.
    """

    def __init__(
        self,
        channels: Width,
        classes: Images,
        *,
        alpha: Weight = 1.0,
        beta: Weight = 0.1,
        mu: Weight = 0.005,
        ranking: Literal["code", "paper"] = "code",
    ):
        check_choice("ranking", ranking, ("code", "paper"))
        super().__init__(channels=channels, classes=classes, alpha=alpha, beta=beta, mu=mu)
        self.alpha, self.beta, self.mu, self.ranking = alpha, beta, mu, ranking
        self.weak = nn.Linear(channels, classes)

    def forward(self, logits: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        """logits: [B,K]; features: [B,C] or a map [B,C,H,W], which is averaged; labels: [B] int64, or probabilities
        [B,K], the two greatest of which are labels, as those of a mixed image."""
        target, others, weak = self.parts(logits, features, *labels_and_values(labels, logits))
        return self.alpha * target + self.beta * others + self.mu * weak

    def parts(self, logits: Tensor, features: Tensor, labels: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(target, others, weak), each without its weight. labels, values: [B,n], n labels of each image."""
        weak = self.weak(features.flatten(2).mean(2) if features.ndim > 2 else features)
        others = others_loss(logits, weak, labels, in_logs=self.ranking == "code")
        return target_loss(logits, labels, values), others, smoothed_cross_entropy(weak, labels, values)


def labels_and_values(labels: Tensor, logits_BK: Tensor) -> tuple[Tensor, Tensor]:
    """[B,n] labels and their values: one label, or the two greatest of probabilities, the lower class first of equals.

    A row of a single class has a second one of value 0 all the same, which is then none of the others: the authors'
    code.
    """
    if labels_are_classes(labels):
        dtype = torch.promote_types(logits_BK.dtype, torch.float32)
        return labels[:, None], torch.ones_like(logits_BK[:, :1], dtype=dtype)
    first = labels.argmax(1, keepdim=True)
    classes = torch.cat([first, labels.scatter(1, first, -1).argmax(1, keepdim=True)], 1)
    return classes, labels.gather(1, classes)


@full_precision
def target_loss(logits_BK: Tensor, labels_Bn: Tensor, values_Bn: Tensor) -> Tensor:
    log_p = logits_BK.log_softmax(1).gather(1, labels_Bn)
    return -(soft_labels(log_p.detach(), values_Bn) * log_p).sum(1).mean()


def soft_labels(log_p_Bn: Tensor, values_Bn: Tensor) -> Tensor:
    """[B,n]: P of each label, 0 for one of value 0, which is none."""
    squares = log_p_Bn.exp().square()
    return torch.where(values_Bn > 0, squares + values_Bn - squares.mean(0), 0)


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
