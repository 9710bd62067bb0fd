"""The distillation losses in plain PyTorch: short, right in float64, and what every kernel is judged against.

All of them take raw logits: those of an anchor (a student, or SFTN's teacher) and of its partners (its teachers, or
the branches). The arithmetic is in log-space, in float32 at least, with no epsilon. Sums run over the classes, means
over the counted rows (those whose label is not `ignore_index`); an empty batch has zero loss.

    KL(p ‖ q) = Σ_k p_k (log p_k − log q_k),   p = softmax(z_p / τ),   q = softmax(z_q / τ),   times τ²

τ² keeps the size of the gradient independent of the temperature (Hinton et al. 2015, arXiv 1503.02531).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from fastkd.ops.distill_loss import reference_pairs
from fastkd.ops.distill_loss.reference_parts import (
    Losses,
    as_tensor,
    counted_rows,
    cross_entropy,
    divergence,
    hard_and_soft_cross_entropy,
    hit_counts,
    is_transforming,
    mean_of,
    standardised_logits,
)
from fastkd.ops.numbers import Scalar

__all__ = ["FORMS", "KLDirection", "Losses", "SmoothingSpread", "counted_rows", "hit_counts", "is_transforming"]

KLDirection = Literal["forward", "reverse"]
SmoothingSpread = Literal["all", "others"]


def ce(anchor_BK: Tensor, _partners_BK: Sequence[Tensor], labels_B: Tensor, *, ignore_index: int) -> Losses:
    """Cross-entropy. Parts: the same."""
    counted = counted_rows(labels_B, anchor_BK.shape[1], ignore_index)
    loss = mean_of(cross_entropy(anchor_BK, labels_B, counted, 1.0), counted)
    return Losses(loss, (loss.detach(),), hit_counts(anchor_BK, labels_B, counted)[None])


def kd(
    student_BK: Tensor,
    teachers_BK: Sequence[Tensor],
    labels_B: Tensor,
    *,
    temperature: Scalar,
    kl_weight: Scalar,
    ce_weight: Scalar,
    shares: Tensor | None = None,
    standardised: bool = False,
    ignore_index: int,
) -> Losses:
    """ce_weight · CE + kl_weight · τ² KL, the sum over the teachers of share · KL(teacher ‖ student). Parts: CE, τ² KL.

    shares: [M] or [M,B], the teachers' weights; 1/M by default. standardised: whether KL compares the logits of each
    row as multiples of their deviation.
    """
    counted = counted_rows(labels_B, student_BK.shape[1], ignore_index)
    ce = mean_of(cross_entropy(student_BK, labels_B, counted, 1.0), counted)
    source_BK = standardised_logits(student_BK) if standardised else student_BK
    kl = ce.new_zeros(())
    for i, teacher_BK in enumerate(teachers_BK):
        share = 1 / len(teachers_BK) if shares is None else shares[i].detach()
        target_BK = standardised_logits(teacher_BK) if standardised else teacher_BK
        kl = kl + mean_of(share * divergence(target_BK.detach(), source_BK, temperature), counted)
    kl = kl * temperature**2
    total = ce_weight * ce + kl_weight * kl
    return Losses(total, (ce.detach(), kl.detach()), hit_counts(student_BK, labels_B, counted)[None])


def sftn(
    teacher_BK: Tensor,
    branches_BK: Sequence[Tensor],
    labels_B: Tensor,
    *,
    temperature: Scalar,
    ce_temperature: Scalar,
    teacher_weight: Scalar,
    kl_weight: Scalar,
    ce_weight: Scalar,
    direction: KLDirection = "forward",
    detached: bool,
    tau_squared: bool,
    ignore_index: int,
) -> Losses:
    """teacher_weight · CE(teacher) + mean over branches of (kl_weight · τ² KL + ce_weight · CE(branch)).

    Parts: CE of the teacher, mean τ² KL, mean CE of the branches. detached: KL sends no gradient to the teacher.
    """
    counted = counted_rows(labels_B, teacher_BK.shape[1], ignore_index)
    target = teacher_BK.detach() if detached else teacher_BK
    teacher_ce = mean_of(cross_entropy(teacher_BK, labels_B, counted, ce_temperature), counted)
    hits, kls, ces = [hit_counts(teacher_BK, labels_B, counted)], [], []
    for branch_BK in branches_BK:
        pair = (target, branch_BK) if direction == "forward" else (branch_BK, target)
        kls.append(mean_of(divergence(*pair, temperature), counted))
        ces.append(mean_of(cross_entropy(branch_BK, labels_B, counted, ce_temperature), counted))
        hits.append(hit_counts(branch_BK, labels_B, counted))
    mean_kl = torch.stack(kls).mean() * (temperature**2 if tau_squared else 1.0)
    branch_ce = torch.stack(ces).mean()
    total = teacher_weight * teacher_ce + kl_weight * mean_kl + ce_weight * branch_ce
    return Losses(total, (teacher_ce.detach(), mean_kl.detach(), branch_ce.detach()), torch.stack(hits))


def virtual(
    student_BK: Tensor,
    _partners_BK: Sequence[Tensor],
    labels_B: Tensor,
    *,
    label_probability: Scalar,
    kl_weight: Scalar,
    ce_weight: Scalar,
    temperature: Scalar | None = None,
    ignore_index: int,
) -> Losses:
    """ce_weight · CE + kl_weight · KL(virtual teacher ‖ student). Parts: CE, KL.

    temperature: that of a second softmax over the probabilities, as in the authors' code of Tf-KD; None: there is none.
    """
    counted = counted_rows(labels_B, student_BK.shape[1], ignore_index)
    wrong_classes = max(student_BK.shape[1] - 1, 1)
    label = as_tensor(label_probability, student_BK)
    other = (1 - label) / wrong_classes
    if temperature is not None:
        odds = ((label - other) / temperature).exp()
        label, other = odds / (odds + wrong_classes), 1 / (odds + wrong_classes)
    ce, soft = hard_and_soft_cross_entropy(student_BK, labels_B, counted, label, other)
    kl = soft + torch.where(counted.any(), label.xlogy(label) + wrong_classes * other.xlogy(other), 0)
    total = ce_weight * ce + kl_weight * kl
    return Losses(total, (ce.detach(), kl.detach()), hit_counts(student_BK, labels_B, counted)[None])


def smoothing(
    logits_BK: Tensor,
    _partners_BK: Sequence[Tensor],
    labels_B: Tensor,
    *,
    smoothing: Scalar,
    spread: SmoothingSpread,
    ignore_index: int,
) -> Losses:
    """Cross-entropy with labels that give `smoothing` of their probability to all classes, or to the others.

    Parts: the cross-entropy with the labels themselves.
    """
    counted = counted_rows(labels_B, logits_BK.shape[1], ignore_index)
    label, classes = 1.0 - as_tensor(smoothing, logits_BK), logits_BK.shape[1]
    other = (1 - label) / (classes if spread == "all" else max(classes - 1, 1))
    label = label + other if spread == "all" else label
    ce, smoothed = hard_and_soft_cross_entropy(logits_BK, labels_B, counted, label, other)
    return Losses(smoothed, (ce.detach(),), hit_counts(logits_BK, labels_B, counted)[None])


FORMS: dict[str, Callable[..., Losses]] = {
    "ce": ce,
    "kd": kd,
    "kd_standardised": partial(kd, standardised=True),
    "sftn": sftn,
    "sftn_reverse": partial(sftn, direction="reverse"),
    "virtual": virtual,
    "virtual_softened": virtual,
    "smoothing_all": partial(smoothing, spread="all"),
    "smoothing_others": partial(smoothing, spread="others"),
    **reference_pairs.FORMS,
}
"""The definition of every form. The numbers come by their names in `fastkd.ops.numbers`."""
