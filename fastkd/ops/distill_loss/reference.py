"""The distillation losses in plain PyTorch: short, right in float64, and what every kernel is judged against.

All of them take raw logits. The arithmetic is in log-space, in float32 at least, with no epsilon. Sums run over the
classes, means over the counted rows (those whose label is not `ignore_index`); an empty batch has zero loss.

    KL(p ‖ q) = Σ_k p_k (log p_k − log q_k),   p = softmax(z_p / τ),   q = softmax(z_q / τ),   times τ²

τ² keeps the size of the gradient independent of the temperature (Hinton et al. 2015, arXiv 1503.02531).
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Scalar = float | Tensor
KLDirection = Literal["forward", "reverse"]
SmoothingSpread = Literal["all", "others"]


class CETerms(NamedTuple):
    """Cross-entropy of one network."""

    total: Tensor
    """The one differentiable value."""
    ce: Tensor
    hits: Tensor
    """[2] int64: in how many counted rows the label is among the top 1, the top 5."""


class KDTerms(NamedTuple):
    """ce_weight · CE + kl_weight · τ² KL(teacher ‖ student)."""

    total: Tensor
    ce: Tensor
    kl: Tensor
    """τ² KL, before its weight."""
    hits: Tensor


class SFTNTerms(NamedTuple):
    """teacher_weight · CE_teacher + mean over branches of (kl_weight · τ² KL + ce_weight · CE)."""

    total: Tensor
    teacher_ce: Tensor
    kl: Tensor
    """Mean over the branches of τ² KL, before its weight."""
    branch_ce: Tensor
    """Mean over the branches."""
    hits: Tensor
    """[1+N, 2] int64: the teacher's, then each branch's, top-1 and top-5 hits."""


class DKDTerms(NamedTuple):
    """ce_weight · CE + alpha · τ² TCKD + beta · τ² NCKD."""

    total: Tensor
    ce: Tensor
    tckd: Tensor
    """τ² KL between (label, all other classes), before its weight."""
    nckd: Tensor
    """τ² KL within the other classes, before its weight."""
    hits: Tensor


def kd_loss(
    student_BK: Tensor,
    teachers_BK: Sequence[Tensor],
    labels_B: Tensor,
    temperature: Scalar,
    kl_weight: Scalar,
    ce_weight: Scalar,
    *,
    teacher_weights: Tensor | None = None,
    ignore_index: int,
) -> KDTerms:
    """KL is the sum over the teachers of weight · KL; the weights [M] or [M,B] are 1/M where none are given."""
    counted = counted_rows(labels_B, student_BK.shape[1], ignore_index)
    ce = _mean(_cross_entropy(student_BK, labels_B, counted, 1.0), counted)
    kl = ce.new_zeros(())
    for i, teacher_BK in enumerate(teachers_BK):
        weight = 1 / len(teachers_BK) if teacher_weights is None else teacher_weights[i].detach()
        kl = kl + _mean(weight * _divergence(teacher_BK.detach(), student_BK, temperature), counted)
    kl = kl * temperature**2
    total = ce_weight * ce + kl_weight * kl if teachers_BK else ce_weight * ce
    return KDTerms(total, ce.detach(), kl.detach(), hit_counts(student_BK, labels_B, counted))


def sftn_loss(
    teacher_BK: Tensor,
    branches_BK: Sequence[Tensor],
    labels_B: Tensor,
    temperature: Scalar,
    kl_weight: Scalar,
    teacher_weight: Scalar,
    ce_weight: Scalar,
    ce_temperature: Scalar,
    *,
    kl: KLDirection,
    detach_teacher: bool,
    tau_squared: bool,
    ignore_index: int,
) -> SFTNTerms:
    counted = counted_rows(labels_B, teacher_BK.shape[1], ignore_index)
    target = teacher_BK.detach() if detach_teacher else teacher_BK
    teacher_ce = _mean(_cross_entropy(teacher_BK, labels_B, counted, ce_temperature), counted)
    hits, kls, ces = [hit_counts(teacher_BK, labels_B, counted)], [], []
    for branch_BK in branches_BK:
        pair = (target, branch_BK) if kl == "forward" else (branch_BK, target)
        kls.append(_mean(_divergence(*pair, temperature), counted))
        ces.append(_mean(_cross_entropy(branch_BK, labels_B, counted, ce_temperature), counted))
        hits.append(hit_counts(branch_BK, labels_B, counted))
    mean_kl = torch.stack(kls).mean() * (temperature**2 if tau_squared else 1.0)
    branch_ce = torch.stack(ces).mean()
    total = teacher_weight * teacher_ce + kl_weight * mean_kl + ce_weight * branch_ce
    return SFTNTerms(total, teacher_ce.detach(), mean_kl.detach(), branch_ce.detach(), torch.stack(hits))


def dkd_loss(
    student_BK: Tensor,
    teacher_BK: Tensor,
    labels_B: Tensor,
    temperature: Scalar,
    alpha: Scalar,
    ce_weight: Scalar,
    beta: Scalar,
    *,
    ignore_index: int,
) -> DKDTerms:
    counted = counted_rows(labels_B, student_BK.shape[1], ignore_index)
    column = torch.where(counted, labels_B, 0)[:, None]
    margins, others = [], []
    for logits_BK in (teacher_BK.detach(), student_BK):
        scaled = _at_least_fp32(logits_BK) / temperature
        others.append(scaled.scatter(1, column, -torch.inf))
        margins.append(scaled.gather(1, column)[:, 0] - others[-1].logsumexp(1))  # log(p_label / p_others)
    binary = [F.logsigmoid(torch.stack((margin, -margin), 1)) for margin in margins]
    ce = _mean(_cross_entropy(student_BK, labels_B, counted, 1.0), counted)
    tckd = _mean(_kl(*binary), counted) * temperature**2
    nckd = _mean(_divergence(others[0], others[1], 1.0), counted) * temperature**2
    total = ce_weight * ce + alpha * tckd + beta * nckd
    return DKDTerms(total, ce.detach(), tckd.detach(), nckd.detach(), hit_counts(student_BK, labels_B, counted))


def virtual_teacher_loss(
    student_BK: Tensor,
    labels_B: Tensor,
    temperature: Scalar,
    kl_weight: Scalar,
    ce_weight: Scalar,
    label_probability: Scalar,
    *,
    softened: bool,
    ignore_index: int,
) -> KDTerms:
    counted = counted_rows(labels_B, student_BK.shape[1], ignore_index)
    wrong_classes = max(student_BK.shape[1] - 1, 1)
    label = _tensor(label_probability, student_BK)
    other = (1 - label) / wrong_classes
    if softened:  # Tf-KD's released code: a second softmax, over the probabilities
        odds = ((label - other) / temperature).exp()
        label, other = odds / (odds + wrong_classes), 1 / (odds + wrong_classes)
    ce, soft = _hard_and_soft_cross_entropy(student_BK, labels_B, counted, label, other)
    kl = soft + torch.where(counted.any(), label.xlogy(label) + wrong_classes * other.xlogy(other), 0)
    total = ce_weight * ce + kl_weight * kl
    return KDTerms(total, ce.detach(), kl.detach(), hit_counts(student_BK, labels_B, counted))


def label_smoothing_loss(
    logits_BK: Tensor,
    labels_B: Tensor,
    _temperature: Scalar,
    smoothed_weight: Scalar,
    ce_weight: Scalar,
    label_probability: Scalar,
    *,
    spread: SmoothingSpread,
    ignore_index: int,
) -> CETerms:
    counted = counted_rows(labels_B, logits_BK.shape[1], ignore_index)
    label, classes = _tensor(label_probability, logits_BK), logits_BK.shape[1]
    other = (1 - label) / (classes if spread == "all" else max(classes - 1, 1))
    label = label + other if spread == "all" else label
    ce, smoothed = _hard_and_soft_cross_entropy(logits_BK, labels_B, counted, label, other)
    total = ce_weight * ce + smoothed_weight * smoothed
    return CETerms(total, ce.detach(), hit_counts(logits_BK, labels_B, counted))


def hit_counts(logits_BK: Tensor, labels_B: Tensor, counted_B: Tensor) -> Tensor:
    """[2] int64: rows whose label is among the top 1 and the top 5.

    Ties go to the lower class, so constant logits are not all "right"; a label whose logit is NaN is a miss.
    """
    logits, classes = logits_BK.detach(), logits_BK.shape[1]
    column = torch.where(counted_B, labels_B, 0)[:, None]
    own = logits.gather(1, column)
    ahead = (logits > own) | ((logits == own) & (torch.arange(classes, device=logits.device) < column))
    rank = torch.where(own[:, 0].isnan(), classes + 5, ahead.sum(1))
    return torch.stack([((rank < k) & counted_B).sum() for k in (1, 5)])


def counted_rows(labels_B: Tensor, classes: int, ignore_index: int) -> Tensor:
    """Where the label is not `ignore_index`. On a CPU, asserts that such labels are in range."""
    counted = labels_B != ignore_index
    in_range = ((labels_B >= 0) & (labels_B < classes)) | ~counted
    if labels_B.device.type == "cpu":  # on a GPU an assertion would take the whole context down with it
        torch._assert_async(  # pyright: ignore[reportPrivateImportUsage]
            in_range.all(), f"a label is outside 0..{classes - 1}"
        )
    return counted


def _mean(values_B: Tensor, counted_B: Tensor) -> Tensor:
    """Mean over the counted rows; 0 where none is counted."""
    return torch.where(counted_B, values_B, 0).sum() / counted_B.sum().clamp(min=1)


def _at_least_fp32(logits_BK: Tensor) -> Tensor:
    return logits_BK.to(torch.promote_types(logits_BK.dtype, torch.float32))


def _tensor(value: Scalar, logits_BK: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else _at_least_fp32(logits_BK).new_full((), value)


def _log_softmax(logits_BK: Tensor, temperature: Scalar) -> Tensor:
    return F.log_softmax(_at_least_fp32(logits_BK) / temperature, dim=1)


def _cross_entropy(logits_BK: Tensor, labels_B: Tensor, counted_B: Tensor, temperature: Scalar) -> Tensor:
    column = torch.where(counted_B, labels_B, 0)[:, None]
    return -_log_softmax(logits_BK, temperature).gather(1, column)[:, 0]


def _hard_and_soft_cross_entropy(
    logits_BK: Tensor, labels_B: Tensor, counted_B: Tensor, label_probability: Tensor, other_probability: Tensor
) -> tuple[Tensor, Tensor]:
    """With the labels, and with a distribution of two numbers: that of the label, that of every other class."""
    log_p = _log_softmax(logits_BK, 1.0)
    column = torch.where(counted_B, labels_B, 0)[:, None]
    label = log_p.gather(1, column)[:, 0]
    others = log_p.scatter(1, column, 0).sum(1)
    from_label = torch.where(label_probability == 0, 0, label_probability * label)
    from_others = torch.where(other_probability == 0, 0, other_probability * others)
    return _mean(-label, counted_B), _mean(-from_label - from_others, counted_B)


def _divergence(p_logits_BK: Tensor, q_logits_BK: Tensor, temperature: Scalar) -> Tensor:
    """KL(softmax(p/τ) ‖ softmax(q/τ)) of each row, without τ²."""
    return _kl(_log_softmax(p_logits_BK, temperature), _log_softmax(q_logits_BK, temperature))


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    impossible = log_p == -torch.inf  # 0 log 0 = 0, also where q is 0 too
    return (log_p.exp() * torch.where(impossible, 0, log_p - log_q)).sum(1)
