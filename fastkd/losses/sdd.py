"""Scale decoupled distillation (Wei, Luo, Luo: "Scale decoupled distillation", CVPR 2024, arXiv 2403.13512)."""

from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from fastkd.losses.checks import check_choice
from fastkd.losses.dkd import DKDLoss
from fastkd.losses.kd import MultiTeacherLoss
from fastkd.losses.module import TensorLoss
from fastkd.losses.nkd import NKDLoss
from fastkd.ops.distill_loss.reference_parts import standardised_logits
from fastkd.support.pooling import pooled_to
from fastkd.support.ranges import Temperature, Weight, whole

FINEST = 4
"""Parts along a side at the finest scale, from which the authors' code pools the others too."""
BASES = ("kd", "dkd", "nkd")
Scales = tuple[Annotated[int, whole(1, 4)], ...]


class SDDLoss(TensorLoss):
    """The mean over samples and parts of the image of w · loss of the part's logits, without the cross-entropy.

    A part counts twice where the teacher is right on exactly one of the part and the whole image.

    base: "kd", alpha · τ² KL; "dkd", τ² (alpha · TCKD + beta · NCKD); "nkd", alpha · target + beta · τ² others.
    scales: parts along a side; 1 is the whole image, and always among them.
    arithmetic: how "nkd" is meant. "code": "the other classes" are all classes, the label among them, as the authors'
        code masks none; "paper": those of `NKDLoss`.
    standardise: the networks are compared by standardised logits (see `kd_loss`).
    """

    def __init__(
        self,
        *,
        base: Literal["kd", "dkd", "nkd"] = "dkd",
        alpha: Weight = 1.0,
        beta: Weight = 8.0,
        temperature: Temperature = 4.0,
        scales: Scales = (1, 2, 4),
        arithmetic: Literal["code", "paper"] = "code",
        standardise: bool = False,
    ):
        check_choice("base", base, BASES)
        check_choice("arithmetic", arithmetic, ("code", "paper"))
        check_scales(scales)
        super().__init__(alpha=alpha, beta=beta, temperature=temperature)
        self.scales = scales
        common: dict[str, Any] = {"temperature": temperature, "standardise": standardise}
        self.loss = _loss_of_parts(base if arithmetic == "code" or base != "nkd" else "nkd_paper", alpha, beta, common)

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """student, teacher: class maps [B,K,H,W], a linear classifier at every place of a map; labels: [B] int64."""
        return self.of_parts(parts_of(student, self.scales), parts_of(teacher, self.scales), labels)

    def of_parts(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """student, teacher: [B,N,K], the logits of the parts of `parts_of`, the whole image first."""
        teacher = teacher.detach()
        weights = part_weights(teacher, labels).flatten().to(student.dtype)
        repeated = labels.repeat_interleave(student.shape[1])
        return self.loss(student.flatten(0, 1), teacher.flatten(0, 1), repeated, weights)


class EveryClass(nn.Module):
    """alpha · target + gamma · τ² cross-entropy with all of the teacher: NKD as SDD's authors released it."""

    def __init__(self, alpha: float, gamma: float, temperature: float, standardise: bool):
        super().__init__()
        given = {"temperature": temperature, "ce_weight": 0.0, "standardise": standardise}
        self.label = NKDLoss(alpha=alpha, gamma=0.0, **given)
        self.kl = MultiTeacherLoss(kl_weight=gamma, **given)
        self.gamma, self.temperature, self.standardise = gamma, temperature, standardise

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        entropy = self.entropies(standardised_logits(teacher) if self.standardise else teacher)
        constant = self.gamma * self.temperature**2 * (weights * entropy).mean()
        label = self.label(student, teacher, labels, weights).total
        return label + self.kl(student, [teacher], labels, weights[None]).total + constant

    def entropies(self, logits_BK: Tensor) -> Tensor:
        log_p = (logits_BK.to(torch.promote_types(logits_BK.dtype, torch.float32)) / self.temperature).log_softmax(1)
        return torch.special.entr(log_p.exp()).sum(1)


class OfParts(nn.Module):
    """A loss of pairs of logits with a weight for each row; its total alone."""

    def __init__(self, loss: nn.Module):
        super().__init__()
        self.loss = loss

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        several = isinstance(self.loss, MultiTeacherLoss)
        given = ([teacher], labels, weights[None]) if several else (teacher, labels, weights)
        return self.loss(student, *given).total


def _loss_of_parts(base: str, alpha: float, beta: float, common: dict[str, Any]) -> nn.Module:
    if base == "kd":
        return OfParts(MultiTeacherLoss(kl_weight=alpha, ce_weight=0.0, **common))
    if base == "dkd":
        return OfParts(DKDLoss(alpha=alpha, beta=beta, ce_weight=0.0, **common))
    if base == "nkd_paper":
        return OfParts(NKDLoss(alpha=alpha, gamma=beta, ce_weight=0.0, **common))
    return EveryClass(alpha, beta, **common)


def check_scales(scales: Scales) -> None:
    if scales[:1] != (1,) or list(scales) != sorted({*scales} & {1, 2, FINEST}):
        raise ValueError(f"scales are 1 and after it some of 2 and 4, got {list(scales)}")


def parts_of(map_BCHW: Tensor, scales: Scales) -> Tensor:
    """[B,N,C]: the mean of each part; the whole image comes first, parts of a scale row by row."""
    finest = pooled_to(map_BCHW, (FINEST, FINEST))
    return torch.cat([pooled_to(finest, (scale, scale)).flatten(2) for scale in scales], 2).mT


def part_weights(logits_BNK: Tensor, labels_B: Tensor) -> Tensor:
    """[B,N] int64: 2 where the teacher is right on exactly one of the part and the whole image (part 0), else 1."""
    right = logits_BNK.argmax(2) == labels_B[:, None]
    return 1 + (right != right[:, :1]).long()
