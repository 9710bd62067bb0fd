"""Softmax, KL and CE over a teacher's logits and its branches' (or a student's and its teachers') in one operation.

reference.py      plain PyTorch: the CPU path, the oracle, the definition
kernel_rows.py    Triton, rows in registers
kernel_wide.py    the same for rows that are too wide
kernel_finish.py  the sum over the batch, and the scaling of gradients
kernel_parts.py   what the kernels share
launch.py         grids and tiles
operation.py      registration with torch.library

This file is the choice between them. `settings` are the numbers that may change from step to step, in the order that
the functions name: a float32 tensor on the device goes to the kernel as it is, so that a captured graph follows it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastkd.ops import select
from fastkd.ops.distill_loss import reference
from fastkd.ops.distill_loss.reference import (
    CETerms,
    DKDTerms,
    KDTerms,
    KLDirection,
    Scalar,
    SFTNTerms,
    SmoothingSpread,
)
from fastkd.support.errors import UserError

__all__ = [
    "CETerms",
    "DKDTerms",
    "KDTerms",
    "KLDirection",
    "SFTNTerms",
    "Scalar",
    "Settings",
    "SmoothingSpread",
    "ce_loss",
    "dkd_loss",
    "kd_loss",
    "label_smoothing_loss",
    "sftn_loss",
    "virtual_teacher_loss",
]

Settings = Tensor | Sequence[Scalar]


def ce_loss(logits_BK: Tensor, labels_B: Tensor, *, ignore_index: int) -> CETerms:
    settings = (1.0,) * 3 if _reference_is_chosen(logits_BK) else torch.ones(3, device=logits_BK.device)
    terms = kd_loss(logits_BK, [], labels_B, settings, ignore_index=ignore_index)
    return CETerms(terms.total, terms.ce, terms.hits)


def sftn_loss(
    teacher_BK: Tensor,
    branches_BK: Sequence[Tensor],
    labels_B: Tensor,
    settings: Settings,
    *,
    kl: KLDirection,
    detach_teacher: bool,
    tau_squared: bool,
    ignore_index: int,
) -> SFTNTerms:
    """Settings: temperature, KL weight, teacher weight, CE weight, CE temperature."""
    options = {"tau_squared": tau_squared, "ignore_index": ignore_index}
    if _reference_is_chosen(teacher_BK):
        return reference.sftn_loss(
            teacher_BK, branches_BK, labels_B, *settings, kl=kl, detach_teacher=detach_teacher, **options
        )
    form = "sftn" if kl == "forward" else "sftn_reverse"
    total, parts, hits = _fused(form, teacher_BK, branches_BK, labels_B, settings, detached=detach_teacher, **options)
    teacher_ce, mean_kl, branch_ce = parts.unbind()
    return SFTNTerms(total, teacher_ce, mean_kl, branch_ce, hits)


def kd_loss(
    student_BK: Tensor,
    teachers_BK: Sequence[Tensor],
    labels_B: Tensor,
    settings: Settings,
    *,
    teacher_weights: Tensor | None = None,
    ignore_index: int,
) -> KDTerms:
    """Settings: temperature, KL weight, CE weight. Without teachers, cross-entropy."""
    if _reference_is_chosen(student_BK):
        return reference.kd_loss(
            student_BK, teachers_BK, labels_B, *settings, teacher_weights=teacher_weights, ignore_index=ignore_index
        )
    if teacher_weights is not None:  # [M] or [M,B]
        shape = (len(teachers_BK), len(labels_B))
        teacher_weights = teacher_weights.detach().float().reshape(shape[0], -1).expand(shape)
    frozen = [teacher.detach() for teacher in teachers_BK]
    total, parts, hits = _fused(
        "kd", student_BK, frozen, labels_B, settings, shares_MB=teacher_weights, ignore_index=ignore_index
    )
    ce, kl, _ = parts.unbind()
    return KDTerms(total, ce, kl, hits[0])


def dkd_loss(
    student_BK: Tensor, teacher_BK: Tensor, labels_B: Tensor, settings: Settings, *, ignore_index: int
) -> DKDTerms:
    """Settings: temperature, alpha, CE weight, beta."""
    if _reference_is_chosen(student_BK):
        return reference.dkd_loss(student_BK, teacher_BK, labels_B, *settings, ignore_index=ignore_index)
    total, parts, hits = _fused("dkd", student_BK, [teacher_BK.detach()], labels_B, settings, ignore_index=ignore_index)
    ce, tckd, nckd = parts.unbind()
    return DKDTerms(total, ce, tckd, nckd, hits[0])


def virtual_teacher_loss(
    student_BK: Tensor, labels_B: Tensor, settings: Settings, *, softened: bool, ignore_index: int
) -> KDTerms:
    """Settings: temperature (of the teacher, where it is softened), KL weight, CE weight, label probability."""
    if _reference_is_chosen(student_BK):
        return reference.virtual_teacher_loss(
            student_BK, labels_B, *settings, softened=softened, ignore_index=ignore_index
        )
    form = "virtual_softened" if softened else "virtual"
    total, parts, hits = _fused(form, student_BK, [], labels_B, settings, ignore_index=ignore_index)
    ce, kl, _ = parts.unbind()
    return KDTerms(total, ce, kl, hits[0])


def label_smoothing_loss(
    logits_BK: Tensor, labels_B: Tensor, settings: Settings, *, spread: SmoothingSpread, ignore_index: int
) -> CETerms:
    """Settings: (unused), weight of the smoothed CE, weight of the plain CE, what is left to the label."""
    if _reference_is_chosen(logits_BK):
        return reference.label_smoothing_loss(logits_BK, labels_B, *settings, spread=spread, ignore_index=ignore_index)
    total, parts, hits = _fused(f"smoothing_{spread}", logits_BK, [], labels_B, settings, ignore_index=ignore_index)
    return CETerms(total, parts[0], hits[0])


def _reference_is_chosen(logits_BK: Tensor) -> bool:
    implementation, reason = select.choose("distill_loss", logits_BK.device.type)
    if implementation == "triton" and logits_BK.dtype == torch.float64:
        if reason == select.FORCED:
            raise UserError("FASTKD_OPS=distill_loss=triton: the kernel computes in float32, the logits are float64")
        return True
    return implementation == "reference"


def _fused(
    form: str,
    anchor_BK: Tensor,
    partners_BK: Sequence[Tensor],
    labels_B: Tensor,
    settings: Settings,
    *,
    shares_MB: Tensor | None = None,
    detached: bool = False,
    tau_squared: bool = True,
    ignore_index: int,
) -> tuple[Tensor, Tensor, Tensor]:
    from fastkd.ops.distill_loss.operation import distill_loss  # imports Triton

    if labels_B.device.type == "cpu":  # for its assertion; on a GPU it asserts nothing, and would launch kernels
        reference.counted_rows(labels_B, anchor_BK.shape[1], ignore_index)
    wanted = [torch.is_grad_enabled() and tensor.requires_grad for tensor in (anchor_BK, *partners_BK)]
    total, parts, hits, *_ = distill_loss(
        anchor_BK,
        list(partners_BK),
        labels_B,
        _packed(settings, anchor_BK.device),
        shares_MB,
        form,
        wanted,
        detached,
        tau_squared,
        ignore_index,
    )
    return total, parts.detach(), hits


def _packed(settings: Settings, device: torch.device) -> Tensor:
    if isinstance(settings, Tensor):
        if settings.device != device:
            raise ValueError(
                f"the loss is on {settings.device}, the logits are on {device}: move it with .to({str(device)!r})"
            )
        return settings
    # Filled on the device: a copy from the host would wait for it, and could not be captured.
    scalars = (
        value.float() if isinstance(value, Tensor) else torch.full((), value, dtype=torch.float32, device=device)
        for value in settings
    )
    return torch.stack(list(scalars))
