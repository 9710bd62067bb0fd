"""The distillation losses in plain PyTorch: short, right in float64, and what every kernel is judged against.

All of them take raw logits: those of an anchor (a student, or SFTN's teacher) and of its partners (its teachers, or
the branches). The arithmetic is in log-space, in float32 at least, with no epsilon. Sums run over the classes, means
over the counted rows (those whose label is not `ignore_index`); an empty batch has zero loss.

    KL(p ‖ q) = Σ_k p_k (log p_k − log q_k),   p = softmax(z_p / τ),   q = softmax(z_q / τ),   times τ²

τ² keeps the size of the gradient independent of the temperature (Hinton et al. 2015, arXiv 1503.02531).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastkd.ops.numbers import Scalar

KLDirection = Literal["forward", "reverse"]
SmoothingSpread = Literal["all", "others"]


class Losses(NamedTuple):
    """What every form of the loss returns."""

    total: Tensor
    """The one differentiable value."""
    parts: tuple[Tensor, ...]
    """Its terms before their weights, detached. A kernel always gives three, also to a form that has fewer."""
    hits: Tensor
    """[networks that learn, 2] int64: in how many counted rows the label is among the top 1, the top 5."""


def ce(anchor_BK: Tensor, _partners_BK: Sequence[Tensor], labels_B: Tensor, *, ignore_index: int) -> Losses:
    """Cross-entropy. Parts: the same."""
    counted = counted_rows(labels_B, anchor_BK.shape[1], ignore_index)
    loss = _mean(_cross_entropy(anchor_BK, labels_B, counted, 1.0), counted)
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
    ignore_index: int,
) -> Losses:
    """ce_weight · CE + kl_weight · τ² KL, the sum over the teachers of share · KL(teacher ‖ student). Parts: CE, τ² KL.

    shares: [M] or [M,B], the teachers' weights; 1/M by default.
    """
    counted = counted_rows(labels_B, student_BK.shape[1], ignore_index)
    ce = _mean(_cross_entropy(student_BK, labels_B, counted, 1.0), counted)
    kl = ce.new_zeros(())
    for i, teacher_BK in enumerate(teachers_BK):
        share = 1 / len(teachers_BK) if shares is None else shares[i].detach()
        kl = kl + _mean(share * _divergence(teacher_BK.detach(), student_BK, temperature), counted)
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
    teacher_ce = _mean(_cross_entropy(teacher_BK, labels_B, counted, ce_temperature), counted)
    hits, kls, ces = [hit_counts(teacher_BK, labels_B, counted)], [], []
    for branch_BK in branches_BK:
        pair = (target, branch_BK) if direction == "forward" else (branch_BK, target)
        kls.append(_mean(_divergence(*pair, temperature), counted))
        ces.append(_mean(_cross_entropy(branch_BK, labels_B, counted, ce_temperature), counted))
        hits.append(hit_counts(branch_BK, labels_B, counted))
    mean_kl = torch.stack(kls).mean() * (temperature**2 if tau_squared else 1.0)
    branch_ce = torch.stack(ces).mean()
    total = teacher_weight * teacher_ce + kl_weight * mean_kl + ce_weight * branch_ce
    return Losses(total, (teacher_ce.detach(), mean_kl.detach(), branch_ce.detach()), torch.stack(hits))


def dkd(
    student_BK: Tensor,
    teachers_BK: Sequence[Tensor],
    labels_B: Tensor,
    *,
    temperature: Scalar,
    alpha: Scalar,
    beta: Scalar,
    ce_weight: Scalar,
    ignore_index: int,
) -> Losses:
    """ce_weight · CE + τ² (alpha · TCKD + beta · NCKD). Parts: CE, τ² TCKD, τ² NCKD."""
    (teacher_BK,) = teachers_BK
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
    parts = (ce.detach(), tckd.detach(), nckd.detach())
    return Losses(total, parts, hit_counts(student_BK, labels_B, counted)[None])


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
    label = _tensor(label_probability, student_BK)
    other = (1 - label) / wrong_classes
    if temperature is not None:
        odds = ((label - other) / temperature).exp()
        label, other = odds / (odds + wrong_classes), 1 / (odds + wrong_classes)
    ce, soft = _hard_and_soft_cross_entropy(student_BK, labels_B, counted, label, other)
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
    label, classes = 1.0 - _tensor(smoothing, logits_BK), logits_BK.shape[1]
    other = (1 - label) / (classes if spread == "all" else max(classes - 1, 1))
    label = label + other if spread == "all" else label
    ce, smoothed = _hard_and_soft_cross_entropy(logits_BK, labels_B, counted, label, other)
    return Losses(smoothed, (ce.detach(),), hit_counts(logits_BK, labels_B, counted)[None])


FORMS: dict[str, Callable[..., Losses]] = {
    "ce": ce,
    "kd": kd,
    "sftn": sftn,
    "sftn_reverse": partial(sftn, direction="reverse"),
    "dkd": dkd,
    "virtual": virtual,
    "virtual_softened": virtual,
    "smoothing_all": partial(smoothing, spread="all"),
    "smoothing_others": partial(smoothing, spread="others"),
}
"""The definition of every form. The numbers come by their names in `fastkd.ops.numbers`."""


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
    """[B] bool: whether the label is not `ignore_index`. On a CPU, asserts that such labels are in range."""
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
    """The cross-entropy with the labels, and that with a distribution of two numbers.

    These are the probability of the label and the probability of every other class.
    """
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
