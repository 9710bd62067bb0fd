"""What is kept of a teacher's logits, and the losses of several such teachers, and of DKD, from it.

    KL(p ‖ q) = Σ_kept p_k (log p_k − log q_k) + p_rest (log p_rest − log q_rest)

q_rest is the sum of the student's probabilities over the classes that are not kept. The lump's KL is at most that of
the classes in it (the log-sum inequality), so that this is a lower bound of KL from the whole teacher, exact where all
classes are kept, and its gradient pulls no class of the rest against another. What rounding has made of the sum of the
teacher's probabilities, 1, does not count (`generalised_kl`): τ² would enlarge it.

The arithmetic is in log-space, in float32 at least, as in `fastkd.ops.distill_loss.reference`. KD from one such teacher
is a form of `fastkd.ops.row_loss`.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastkd.ops.distill_loss.reference import Losses, counted_rows, hit_counts
from fastkd.ops.distill_loss.reference_parts import generalised_kl
from fastkd.ops.numbers import NUMBERS, Scalar
from fastkd.ops.sparse import SparseTeacher


def largest_logits(logits_BK: Tensor, labels_B: Tensor, k: int) -> Tensor:
    """[B,k] int64: the classes of the k largest logits; the label takes the place of the smallest if it is not one."""
    indices = logits_BK.topk(k, 1).indices
    label = labels_B[:, None]
    last = torch.where((indices == label).any(1, keepdim=True), indices[:, -1:], label)
    return torch.cat([indices[:, :-1], last], 1)


def tail_of(logits_BK: Tensor, indices_Bk: Tensor, temperature: float) -> Tensor:
    """[B]: the log-sum-exp of the logits over the temperature, over the classes that are not among the indices."""
    return (logits_BK / temperature).scatter(1, indices_Bk, -torch.inf).logsumexp(1)


def normalised(indices_Bk: Tensor, logits_Bk: Tensor, tail_B: Tensor, temperature: float) -> SparseTeacher:
    """The distribution of kept logits; tail_B: as `tail_of` gives it at the same temperature."""
    scaled = logits_Bk / temperature
    total = torch.logaddexp(scaled.logsumexp(1), tail_B)
    return SparseTeacher(indices_Bk, scaled - total[:, None], tail_B - total)


def kd(
    student_BK: Tensor,
    teachers: Sequence[SparseTeacher],
    labels_B: Tensor,
    *,
    temperature: Scalar,
    kl_weight: Scalar,
    ce_weight: Scalar,
    shares: Tensor | None = None,
    ignore_index: int,
) -> Losses:
    """Does as `reference.kd` does, from what is kept of the teachers."""
    counted = counted_rows(labels_B, student_BK.shape[1], ignore_index)
    ce, log_q = _cross_entropy(student_BK, labels_B, counted), _log_softmax(student_BK, temperature)
    kl = ce.new_zeros(())
    for i, teacher in enumerate(teachers):
        share = 1 / len(teachers) if shares is None else shares[i].detach()
        kl = kl + _mean(share * _divergence(teacher, log_q), counted)
    kl = kl * temperature**2
    total = ce_weight * ce + kl_weight * kl
    return Losses(total, (ce.detach(), kl.detach()), hit_counts(student_BK, labels_B, counted)[None])


def dkd(
    student_BK: Tensor,
    teachers: Sequence[SparseTeacher],
    labels_B: Tensor,
    *,
    temperature: Scalar,
    alpha: Scalar,
    beta: Scalar,
    ce_weight: Scalar,
    shares: Tensor | None = None,
    ignore_index: int,
) -> Losses:
    """Does as `reference.dkd` does, from what is kept of the teacher; a label that is not kept has probability 0."""
    (teacher,) = teachers
    share = 1.0 if shares is None else shares[0].detach()
    counted = counted_rows(labels_B, student_BK.shape[1], ignore_index)
    column = torch.where(counted, labels_B, 0)[:, None]
    log_q = _log_softmax(student_BK, temperature)
    is_label = teacher.indices == column
    log_p = teacher.log_probabilities
    label = torch.where(is_label, log_p, -torch.inf).amax(1)
    kept = torch.where(is_label, -torch.inf, log_p)
    others = torch.logaddexp(kept.logsumexp(1), teacher.log_rest())
    among_others = SparseTeacher(teacher.indices, kept - others[:, None], teacher.log_rest() - others)
    log_q_others = log_q.scatter(1, column, -torch.inf)
    student_others = log_q_others.logsumexp(1)
    margin = log_q.gather(1, column)[:, 0] - student_others
    binary_p = torch.stack((label, others), 1)
    binary_q = F.logsigmoid(torch.stack((margin, -margin), 1))
    tckd = _mean(share * _compared(binary_p, binary_q), counted) * temperature**2
    nckd = _mean(share * _divergence(among_others, log_q_others - student_others[:, None]), counted) * temperature**2
    ce = _cross_entropy(student_BK, labels_B, counted)
    total = ce_weight * ce + alpha * tckd + beta * nckd
    parts = (ce.detach(), tckd.detach(), nckd.detach())
    return Losses(total, parts, hit_counts(student_BK, labels_B, counted)[None])


FORMS = {"kd": kd, "dkd": dkd}
"""The losses that take such teachers, by their row of `fastkd.ops.numbers.NUMBERS`."""


def compute(
    form: str,
    student_BK: Tensor,
    teachers: Sequence[SparseTeacher],
    labels_B: Tensor,
    numbers: Tensor | Mapping[str, Scalar],
    *,
    ignore_index: int,
    **options: Tensor | None,
) -> Losses:
    """Does as `fastkd.ops.distill_loss.compute` does; no gradient reaches the teachers.

    options: those of the form, as its function above names them.
    """
    if isinstance(numbers, Tensor):
        numbers = {name: numbers[number.role] for name, number in NUMBERS[form].items()}
    return FORMS[form](
        student_BK,
        [_frozen(teacher) for teacher in teachers],
        labels_B,
        **numbers,
        **options,
        ignore_index=ignore_index,
    )


def _frozen(teacher: SparseTeacher) -> SparseTeacher:
    return SparseTeacher(teacher.indices.long(), teacher.log_probabilities.detach(), teacher.log_rest().detach())


def _divergence(teacher: SparseTeacher, log_q_BK: Tensor) -> Tensor:
    """KL of each row. A class of the student may have log-probability -inf where the teacher's has, too."""
    kept = _compared(teacher.log_probabilities, log_q_BK.gather(1, teacher.indices))
    if teacher.indices.shape[1] == log_q_BK.shape[1]:
        return kept
    rest = log_q_BK.scatter(1, teacher.indices, -torch.inf).logsumexp(1)
    return kept + _compared(teacher.log_rest()[:, None], rest[:, None])


def _compared(log_p: Tensor, log_q: Tensor) -> Tensor:
    return generalised_kl(log_p.to(log_q.dtype), log_q)


def _mean(values_B: Tensor, counted_B: Tensor) -> Tensor:
    return torch.where(counted_B, values_B, 0).sum() / counted_B.sum().clamp(min=1)


def _log_softmax(logits_BK: Tensor, temperature: Scalar) -> Tensor:
    wide = logits_BK.to(torch.promote_types(logits_BK.dtype, torch.float32))
    return F.log_softmax(wide / temperature, dim=1)


def _cross_entropy(logits_BK: Tensor, labels_B: Tensor, counted_B: Tensor) -> Tensor:
    column = torch.where(counted_B, labels_B, 0)[:, None]
    return _mean(-_log_softmax(logits_BK, 1.0).gather(1, column)[:, 0], counted_B)
