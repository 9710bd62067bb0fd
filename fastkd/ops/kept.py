"""The losses between a student and teachers of which some classes are kept.

Both networks are compared on the kept classes, and on the others as their tail says (`fastkd.ops.sparse`): as one more
class, as classes that do not exist, or as ones to which the teacher gives nothing. With one more class

    KL(p ‖ q) = Σ_kept p_k (log p_k − log q_k) + p_rest (log p_rest − log q_rest)

where q_rest is the sum of the student's probabilities over the classes that are not kept. The lump's KL is at most that
of the classes in it (the log-sum inequality), so that this is a lower bound of KL from the whole teacher, exact where
all classes are kept, and its gradient pulls no class of the rest against another.

The arithmetic is in log-space, in float32 at least, as in `fastkd.ops.distill_loss.reference`. KD from one such teacher
is a form of `fastkd.ops.row_loss`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from fastkd.ops.distill_loss.reference_pairs import Pair, alpha_beta_divergence, pair_of
from fastkd.ops.distill_loss.reference_parts import (
    Losses,
    as_tensor,
    at_least_fp32,
    binary_kl,
    counted_rows,
    cross_entropy,
    divergence,
    hit_counts,
    kl_of,
    mean_of,
)
from fastkd.ops.numbers import NUMBERS, Scalar
from fastkd.ops.sparse import SparseTeacher


class Kept(NamedTuple):
    """A teacher's row, and which classes of a student's row it is compared on; probability 0 is a logarithm of -inf."""

    places_Bk: Tensor
    """The kept classes; padding is class 0."""
    exists_Bk: Tensor
    """Whether it is no padding."""
    is_kept_BK: Tensor
    log_p_Bk: Tensor
    log_rest_B: Tensor
    kind: str

    def compared(self, student_BK: Tensor) -> Tensor:
        """The student's logits; those of classes that do not exist are -inf."""
        return torch.where(self.is_kept_BK, student_BK, -torch.inf) if self.kind == "renormalised" else student_BK

    def of_student(self, log_q_BK: Tensor) -> Tensor:
        """[B,k+1]: what of a student's row stands beside `of_teacher`."""
        own = torch.where(self.exists_Bk, log_q_BK.gather(1, self.places_Bk), -torch.inf)
        # A logarithm of a sum that has no terms would have a gradient of NaN, which this keeps from whatever is -inf.
        others = torch.where(self.is_kept_BK | (log_q_BK == -torch.inf), -torch.inf, log_q_BK)
        return torch.cat([own, others.logsumexp(1, keepdim=True)], 1)

    def of_teacher(self) -> Tensor:
        """[B,k+1]: the kept classes, and the others as one."""
        return torch.cat([self.log_p_Bk, self.log_rest_B[:, None]], 1)

    def kl(self, student_BK: Tensor) -> Tensor:
        """[B]: KL from the teacher to the softmax of a student's logits."""
        log_q = self.of_student(self.compared(student_BK).log_softmax(1))
        if self.kind == "sampled":  # weights, which need not sum to 1
            return kl_of(self.of_teacher(), log_q)
        return divergence(self.of_teacher(), log_q, 1.0)

    def log_sum_of_powers(self, power: Tensor) -> tuple[Tensor, Tensor]:
        """(m, s), [B] each, with Σ p^power = exp(power · m + s) over all classes, the others taken to be equal.

        That is exact at power 1. What it lacks at a greater one is less than what the others have there: of a teacher
        at temperature τ, at power τ, nearly nothing.
        """
        others = (~self.is_kept_BK).sum(1).to(self.log_p_Bk.dtype)
        share = torch.where(others == 0, -torch.inf, self.log_rest_B - others.clamp(min=1).log())
        m = torch.maximum(self.log_p_Bk.amax(1), share)
        terms = (power * (self.log_p_Bk - m[:, None])).exp().sum(1) + others * (power * (share - m)).exp()
        return m, terms.log()


def kept_of(teacher: SparseTeacher, student_BK: Tensor) -> Kept:
    exists, classes = teacher.indices >= 0, student_BK.shape[1]
    log_p = torch.where(exists, teacher.log_probabilities.detach().to(student_BK.dtype), -torch.inf)
    if teacher.kind == "renormalised":
        log_p = log_p.log_softmax(1)
    of_padding = torch.where(exists, teacher.indices, classes).long()
    is_kept = torch.zeros(len(log_p), classes + 1, dtype=torch.bool, device=log_p.device)
    nothing = torch.full_like(log_p[:, 0], -torch.inf)
    rest = teacher.log_rest_of(classes).detach().to(log_p.dtype) if teacher.kind == "lumped" else nothing
    return Kept(
        torch.where(exists, teacher.indices, 0).long(),
        exists,
        is_kept.scatter(1, of_padding, True)[:, :-1],
        log_p,
        rest,
        teacher.kind,
    )


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
    student_BK = at_least_fp32(student_BK)
    counted = counted_rows(labels_B, student_BK.shape[1], ignore_index)
    ce = mean_of(cross_entropy(student_BK, labels_B, counted, 1.0), counted)
    kl = ce.new_zeros(())
    for i, teacher in enumerate(teachers):
        share = 1 / len(teachers) if shares is None else shares[i].detach()
        kl = kl + mean_of(share * kept_of(teacher, student_BK).kl(student_BK / temperature), counted)
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
    """Does as `reference_pairs.dkd` does; a label that is not kept has probability 0."""
    pair, kept = _begin(student_BK, teachers, labels_B, shares, ignore_index)
    teacher, student = _apart(pair, kept, temperature)
    tckd = pair.mean(binary_kl(teacher.margin_B, student.margin_B)) * temperature**2
    nckd = pair.mean(divergence(teacher.others_BE, student.others_BE, 1.0)) * temperature**2
    return pair.losses(ce_weight, (alpha, tckd), (beta, nckd))


def nkd(
    student_BK: Tensor,
    teachers: Sequence[SparseTeacher],
    labels_B: Tensor,
    *,
    temperature: Scalar,
    alpha: Scalar,
    gamma: Scalar,
    ce_weight: Scalar,
    shares: Tensor | None = None,
    ignore_index: int,
) -> Losses:
    """Does as `reference_pairs.nkd` does; a label that is not kept has probability 0.

    The label's term takes the teacher at temperature 1, p_1 = p^τ / Σ p^τ: the sum as `log_sum_of_powers` knows it.
    """
    pair, kept = _begin(student_BK, teachers, labels_B, shares, ignore_index)
    label, _ = _split(pair, kept)
    to_one = as_tensor(temperature, pair.student_BK)
    greatest, terms = kept.log_sum_of_powers(to_one)
    p = (to_one * (label - greatest) - terms).exp()
    log_q = kept.compared(pair.student_BK).log_softmax(1).gather(1, pair.column_B1)[:, 0]
    target = pair.mean(-torch.where(p == 0, 0, p * log_q))
    teacher, student = _apart(pair, kept, temperature)
    log_p, log_q = teacher.others_BE.log_softmax(1), student.others_BE.log_softmax(1)
    others = -(log_p.exp() * torch.where(log_p == -torch.inf, 0, log_q)).sum(1)
    others = torch.where(teacher.some_B, others, 0)
    return pair.losses(ce_weight, (alpha, target), (gamma, pair.mean(others) * temperature**2))


def ttm(
    student_BK: Tensor,
    teachers: Sequence[SparseTeacher],
    labels_B: Tensor,
    *,
    exponent: Scalar,
    kl_weight: Scalar,
    ce_weight: Scalar,
    weighted: bool = False,
    shares: Tensor | None = None,
    ignore_index: int,
) -> Losses:
    """Does as `reference_pairs.ttm` does, from a teacher at temperature 1 / exponent: it is transformed already.

    weighted: with p the transformed teacher, U = (Σ p^(1/l))^(-l), the sum as `log_sum_of_powers` knows it.
    """
    pair, kept = _begin(student_BK, teachers, labels_B, shares, ignore_index)
    kl = kept.kl(pair.student_BK)
    if weighted:
        power = as_tensor(exponent, pair.student_BK)
        greatest, terms = kept.log_sum_of_powers(1 / power.clamp(min=torch.finfo(power.dtype).tiny))
        kl = kl * (-greatest - power * terms).exp()
    return pair.losses(ce_weight, (kl_weight, pair.mean(kl)))


def ab(
    student_BK: Tensor,
    teachers: Sequence[SparseTeacher],
    labels_B: Tensor,
    *,
    temperature: Scalar,
    alpha: Scalar,
    beta: Scalar,
    weight: Scalar,
    ce_weight: Scalar,
    continuous: bool = False,
    shares: Tensor | None = None,
    ignore_index: int,
) -> Losses:
    """Does as `reference_pairs.ab` does, on the kept classes and the one that the others are."""
    pair, kept = _begin(student_BK, teachers, labels_B, shares, ignore_index)
    log_q = kept.of_student(kept.compared(pair.student_BK / temperature).log_softmax(1))
    powers = as_tensor(alpha, log_q), as_tensor(beta, log_q)
    divergence_B = alpha_beta_divergence(pair.teacher_BK.log_softmax(1), log_q, *powers, continuous=continuous)
    return pair.losses(ce_weight, (weight, pair.mean(divergence_B)))


FORMS: dict[str, Callable[..., Losses]] = {
    "kd": kd,
    "dkd": dkd,
    "nkd": nkd,
    "ttm": ttm,
    "wttm": partial(ttm, weighted=True),
    "ab": ab,
    "ab_continuous": partial(ab, continuous=True),
}
"""The losses that take such teachers, by their row of `fastkd.ops.numbers.NUMBERS`."""
OF_DRAWS = ("kd", "ttm")
"""Those whose gradient is linear in the teacher's probabilities: draws give it on average."""


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
    return FORMS[form](student_BK, teachers, labels_B, **numbers, **options, ignore_index=ignore_index)


def _begin(
    student_BK: Tensor,
    teachers: Sequence[SparseTeacher],
    labels_B: Tensor,
    shares: Tensor | None,
    ignore_index: int,
) -> tuple[Pair, Kept]:
    """What every form of one teacher begins with; the pair's teacher is the kept classes and the rest, [B,k+1]."""
    (teacher,) = teachers
    kept = kept_of(teacher, at_least_fp32(student_BK))
    return pair_of(student_BK, [kept.of_teacher()], labels_B, shares, False, ignore_index), kept


class _Apart(NamedTuple):
    """A network's row, the label apart from the others."""

    margin_B: Tensor
    """log(p_label / p_others)."""
    others_BE: Tensor
    """Log-probabilities or logits of the others; equal ones in a row that has none."""
    some_B: Tensor
    """Whether there are others."""


def _split(pair: Pair, kept: Kept) -> tuple[Tensor, Tensor]:
    """The teacher's log-probability of the label [B], and those of the others [B,k+1]."""
    is_label = kept.exists_Bk & (kept.places_Bk == pair.column_B1)
    label = torch.where(is_label, kept.log_p_Bk, -torch.inf).amax(1)
    others = torch.where(is_label, -torch.inf, kept.log_p_Bk)
    return label, torch.cat([others, kept.log_rest_B[:, None]], 1)


def _apart(pair: Pair, kept: Kept, temperature: Scalar) -> tuple[_Apart, _Apart]:
    """The teacher's and the student's row at the temperature."""
    label, others = _split(pair, kept)
    logits = kept.compared(pair.student_BK / temperature)
    without_label = logits.scatter(1, pair.column_B1, -torch.inf)
    margin = logits.gather(1, pair.column_B1)[:, 0] - without_label.logsumexp(1)
    some = (others > -torch.inf).any(1)
    of_both = (torch.where(some[:, None], one, 0) for one in (others, kept.of_student(without_label)))
    margins = label - others.logsumexp(1), margin
    teacher, student = (_Apart(*each, some) for each in zip(margins, of_both, strict=True))
    return teacher, student
