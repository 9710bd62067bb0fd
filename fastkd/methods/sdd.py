"""Scale decoupled distillation (Wei, Luo, Luo: "Scale decoupled distillation", CVPR 2024, arXiv 2403.13512): KD, DKD or
NKD on the logits of parts of the image. The authors' tables print the best epoch."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from fastkd.data.base import Batch
from fastkd.losses import DKDLoss, MultiTeacherLoss, NKDLoss, ce_loss, standardised_logits
from fastkd.methods.base import Context, Method, MethodLoss, warm_up_share
from fastkd.methods.class_maps import Classifiers
from fastkd.networks.base import Output
from fastkd.support.errors import UserError
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.pooling import pooled_to
from fastkd.support.ranges import EpochsOrNone, Temperature, Weight, whole

FINEST = 4
"""Parts along a side at the finest scale, from which the authors' code pools the others too."""


@dataclass(frozen=True, kw_only=True)
class SDDSettings(Checked):
    """ce_weight · CE + min(epoch / warmup, 1) · the mean over samples and parts of w · loss of the part's logits.

    A part counts twice where the teacher is right on exactly one of the part and the whole image. The defaults are the
    authors' for SDD-DKD on CIFAR-100.
    """

    ce_weight: Weight = 1.0
    base: Literal["kd", "dkd", "nkd"] = "dkd"
    """kd: alpha · τ² KL. dkd: τ² (alpha · TCKD + beta · NCKD). nkd: alpha · target + beta · τ² others."""
    alpha: Weight = 1.0
    beta: Annotated[Weight, OnlyWith("base", ("dkd", "nkd"))] = 8.0
    """The authors set gamma of NKD by it."""
    temperature: Temperature = 4.0
    scales: tuple[Annotated[int, whole(1, 4)], ...] = (1, 2, 4)
    """Parts along a side: 1 is the whole image, and always among them; (1, 2) for some of the authors' pairs."""
    warmup_epochs: EpochsOrNone = 20
    arithmetic: Annotated[Literal["code", "paper"], OnlyWith("base", "nkd")] = "code"
    """How base nkd is meant. code: "the other classes" are all classes, the label among them, as the authors' code
    masks none; paper: those of NKD."""
    standardise: bool = False
    """The networks are compared by standardised logits (see kd)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scales[:1] != (1,) or list(self.scales) != sorted({*self.scales} & {1, 2, FINEST}):
            raise UserError(f"sdd: scales are 1 and after it some of 2 and 4, got {list(self.scales)}")


class SDD(Method):
    """The networks' maps are pooled, and their classifiers applied to each part."""

    Settings = SDDSettings
    about = "logits of parts of the image"
    is_logit_method = True
    teachers_needed = (1, 1)
    mixed_labels = "greater"
    warmup: Tensor

    def __init__(self, settings: SDDSettings, context: Context):
        super().__init__(settings, context)
        self.classifiers = Classifiers("sdd", context)
        self.loss = _loss_of_parts(settings)
        self.register_buffer("warmup", torch.ones(()), persistent=False)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        ce = ce_loss(student.logits, batch.labels)
        parts = parts_of(student.final_map, self.settings.scales)
        source = self.classifiers.of_student(parts.flatten(0, 1))
        target = self.classifiers.of_teacher(parts_of(teachers[0].final_map, self.settings.scales).flatten(0, 1))
        labels = batch.labels.repeat_interleave(parts.shape[1])
        weights = part_weights(target.unflatten(0, parts.shape[:2]), batch.labels).flatten().to(source.dtype)
        loss = self.loss(source, target, labels, weights)
        total = self.settings.ce_weight * ce.total + self.warmup * loss
        return MethodLoss(total, {"ce": ce.ce, "sdd": loss.detach()}, ce.hits)

    def begin_epoch(self, epoch: int) -> None:
        self.warmup.fill_(warm_up_share(epoch, self.settings.warmup_epochs))


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


def _loss_of_parts(settings: SDDSettings) -> nn.Module:
    common: dict[str, Any] = {"temperature": settings.temperature, "standardise": settings.standardise}
    if settings.base == "kd":
        return OfParts(MultiTeacherLoss(kl_weight=settings.alpha, ce_weight=0.0, **common))
    if settings.base == "dkd":
        return OfParts(DKDLoss(alpha=settings.alpha, beta=settings.beta, ce_weight=0.0, **common))
    if settings.arithmetic == "paper":
        return OfParts(NKDLoss(alpha=settings.alpha, gamma=settings.beta, ce_weight=0.0, **common))
    return EveryClass(settings.alpha, settings.beta, **common)


def parts_of(map_BCHW: Tensor, scales: tuple[Annotated[int, whole(1, 4)], ...]) -> Tensor:
    """[B,N,C]: the mean of each part; the whole image comes first, parts of a scale row by row."""
    finest = pooled_to(map_BCHW, (FINEST, FINEST))
    return torch.cat([pooled_to(finest, (scale, scale)).flatten(2) for scale in scales], 2).mT


def part_weights(logits_BNK: Tensor, labels_B: Tensor) -> Tensor:
    """[B,N] int64: 2 where the teacher is right on exactly one of the part and the whole image (part 0), else 1."""
    right = logits_BNK.argmax(2) == labels_B[:, None]
    return 1 + (right != right[:, :1]).long()
