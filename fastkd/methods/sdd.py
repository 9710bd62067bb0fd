"""Scale decoupled distillation (Wei, Luo, Luo: "Scale decoupled distillation", CVPR 2024, arXiv 2403.13512): KD, DKD or
NKD on the logits of parts of the image. The authors' tables print the best epoch."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from fastkd.data.base import Batch
from fastkd.losses import SDDLoss, ce_loss
from fastkd.losses.sdd import Scales, check_scales, parts_of
from fastkd.methods.base import Context, Method, MethodLoss, warm_up_share
from fastkd.methods.class_maps import Classifiers
from fastkd.networks.base import Output
from fastkd.support.errors import UserError
from fastkd.support.fields import OnlyWhere, OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import EpochsOrNone, Temperature, Weight


def compares(settings: Any) -> bool:
    """Whether the networks are compared at all."""
    return bool(settings.alpha or (settings.beta and settings.base != "kd"))


def softens(settings: Any) -> bool:
    """Whether something is compared at the temperature, at which the label's term of NKD is not."""
    return bool((settings.alpha and settings.base != "nkd") or (settings.beta and settings.base != "kd"))


COMPARED = OnlyWhere("alpha above 0, or beta where base is dkd or nkd", compares)
SOFTENED = OnlyWhere("alpha above 0 where base is kd or dkd, or beta where it is dkd or nkd", softens)


@dataclass(frozen=True, kw_only=True)
class SDDSettings(Checked):
    """ce_weight · CE + min(epoch / warmup, 1) · the mean over samples and parts of w · loss of the part's logits.

    A part counts twice where the teacher is right on exactly one of the part and the whole image. The defaults are the
    authors' for SDD-DKD on CIFAR-100.
    """

    ce_weight: Weight = 1.0
    base: Annotated[Literal["kd", "dkd", "nkd"], OnlyWith(("alpha", "beta"))] = "dkd"
    """kd: alpha · τ² KL. dkd: τ² (alpha · TCKD + beta · NCKD). nkd: alpha · target + beta · τ² others."""
    alpha: Weight = 1.0
    beta: Annotated[Weight, OnlyWith("base", ("dkd", "nkd"))] = 8.0
    """The authors set gamma of NKD by it."""
    temperature: Annotated[Temperature, SOFTENED] = 4.0
    scales: Annotated[Scales, COMPARED] = (1, 2, 4)
    """Parts along a side: 1 is the whole image, and always among them; (1, 2) for some of the authors' pairs."""
    warmup_epochs: Annotated[EpochsOrNone, COMPARED] = 20
    arithmetic: Annotated[Literal["code", "paper"], OnlyWith("base", "nkd"), OnlyWith("beta")] = "code"
    """How base nkd is meant. code: "the other classes" are all classes, the label among them, as the authors' code
    masks none; paper: those of NKD."""
    standardise: Annotated[bool, COMPARED] = False
    """The networks are compared by standardised logits (see kd)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            check_scales(self.scales)
        except ValueError as error:
            raise UserError(f"sdd: {error}") from None


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
        self.loss = SDDLoss(
            base=settings.base,
            alpha=settings.alpha,
            beta=settings.beta,
            temperature=settings.temperature,
            scales=settings.scales,
            arithmetic=settings.arithmetic,
            standardise=settings.standardise,
        )
        self.register_buffer("warmup", torch.ones(()), persistent=False)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        ce = ce_loss(student.logits, batch.labels)
        parts, taught = (parts_of(one.final_map, self.settings.scales) for one in (student, teachers[0]))
        source = self.classifiers.of_student(parts.flatten(0, 1)).unflatten(0, parts.shape[:2])
        target = self.classifiers.of_teacher(taught.flatten(0, 1)).unflatten(0, parts.shape[:2])
        loss = self.loss.of_parts(source, target, batch.labels)
        total = self.settings.ce_weight * ce.total + self.warmup * loss
        return MethodLoss(total, {"ce": ce.ce, "sdd": loss.detach()}, ce.hits)

    def begin_epoch(self, epoch: int) -> None:
        self.warmup.fill_(warm_up_share(epoch, self.settings.warmup_epochs))
