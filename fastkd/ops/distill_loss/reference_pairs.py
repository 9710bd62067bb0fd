"""The losses that compare a student's logits with one teacher's, row by row: DKD and the methods of 2022 to 2025.

As in `reference.py`; every form here takes `standardised` (whether the logits that are compared are the standardised
ones: the cross-entropy is always that of the logits themselves) and `shares` ([1] or [1,B], a weight for each row of
what compares the two networks).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

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
    log_softmax,
    mean_of,
    standardised_logits,
)
from fastkd.ops.numbers import STANDARDISED, Scalar


class Pair(NamedTuple):
    """What every form here begins with."""

    student_BK: Tensor
    teacher_BK: Tensor
    """Without gradient."""
    counted_B: Tensor
    column_B1: Tensor
    """The label, 0 in a row that does not count."""
    share: Tensor | float
    ce: Tensor
    hits: Tensor

    def mean(self, values_B: Tensor) -> Tensor:
        return mean_of(self.share * values_B, self.counted_B)

    def losses(self, ce_weight: Scalar, *weighted: tuple[Scalar, Tensor]) -> Losses:
        """The total of the cross-entropy and of (weight, part) pairs."""
        total = ce_weight * self.ce
        for weight, part in weighted:
            total = total + weight * part
        return Losses(total, (self.ce.detach(), *(part.detach() for _, part in weighted)), self.hits)


def dkd(
    student_BK: Tensor,
    teachers_BK: Sequence[Tensor],
    labels_B: Tensor,
    *,
    temperature: Scalar,
    alpha: Scalar,
    beta: Scalar,
    ce_weight: Scalar,
    shares: Tensor | None = None,
    standardised: bool = False,
    ignore_index: int,
) -> Losses:
    """ce_weight · CE + τ² (alpha · TCKD + beta · NCKD). Parts: CE, τ² TCKD, τ² NCKD."""
    pair = pair_of(student_BK, teachers_BK, labels_B, shares, standardised, ignore_index)
    teacher, student = (_without(logits / temperature, pair.column_B1) for logits in (pair.teacher_BK, pair.student_BK))
    tckd = pair.mean(binary_kl(teacher.margin_B, student.margin_B)) * temperature**2
    nckd = pair.mean(divergence(teacher.others_BK, student.others_BK, 1.0)) * temperature**2
    return pair.losses(ce_weight, (alpha, tckd), (beta, nckd))


def nkd(
    student_BK: Tensor,
    teachers_BK: Sequence[Tensor],
    labels_B: Tensor,
    *,
    temperature: Scalar,
    alpha: Scalar,
    gamma: Scalar,
    ce_weight: Scalar,
    shares: Tensor | None = None,
    standardised: bool = False,
    ignore_index: int,
) -> Losses:
    """ce_weight · CE − alpha · p_t[y] log p_s[y] − gamma · τ² Σ_{k≠y} q_t log q_s. Parts: CE and both, unweighted.

    p is at temperature 1; q, among the classes other than the label's, at τ. Both terms are cross-entropies.
    """
    pair = pair_of(student_BK, teachers_BK, labels_B, shares, standardised, ignore_index)
    label = [log_softmax(logits, 1.0).gather(1, pair.column_B1)[:, 0] for logits in (pair.teacher_BK, pair.student_BK)]
    target = pair.mean(-label[0].exp() * label[1])
    teacher, student = (_without(logits / temperature, pair.column_B1) for logits in (pair.teacher_BK, pair.student_BK))
    log_p, log_q = teacher.others_BK.log_softmax(1), student.others_BK.log_softmax(1)
    others = -(log_p.exp() * torch.where(log_p == -torch.inf, 0, log_q)).sum(1)
    return pair.losses(ce_weight, (alpha, target), (gamma, pair.mean(others) * temperature**2))


def rld(
    student_BK: Tensor,
    teachers_BK: Sequence[Tensor],
    labels_B: Tensor,
    *,
    temperature: Scalar,
    target_temperature: Scalar,
    alpha: Scalar,
    beta: Scalar,
    ce_weight: Scalar,
    shares: Tensor | None = None,
    standardised: bool = False,
    ignore_index: int,
) -> Losses:
    """ce_weight · CE + alpha · τ_a² SCD + beta · τ² MCD. Parts: CE, τ_a² SCD, τ² MCD.

    SCD: KL from (the teacher's greatest class, all others) to the student's (label, all others), at τ_a. MCD: KL within
    the classes to which the teacher gives less than to the label, at τ; 0 where there is none.
    """
    pair = pair_of(student_BK, teachers_BK, labels_B, shares, standardised, ignore_index)
    greatest = pair.teacher_BK.argmax(1, keepdim=True)
    teacher = _without(pair.teacher_BK / target_temperature, greatest)
    student = _without(pair.student_BK / target_temperature, pair.column_B1)
    scd = pair.mean(binary_kl(teacher.margin_B, student.margin_B)) * target_temperature**2
    kept = pair.teacher_BK < pair.teacher_BK.gather(1, pair.column_B1)
    kept = kept & (pair.teacher_BK > -torch.inf)
    some = kept.any(1, keepdim=True)  # else all classes stay, with equal logits on both sides
    masked = [
        torch.where(kept, logits, torch.where(some, -torch.inf, 0)) for logits in (pair.teacher_BK, pair.student_BK)
    ]
    mcd = pair.mean(divergence(masked[0], masked[1], temperature)) * temperature**2
    return pair.losses(ce_weight, (alpha, scd), (beta, mcd))


def ttm(
    student_BK: Tensor,
    teachers_BK: Sequence[Tensor],
    labels_B: Tensor,
    *,
    exponent: Scalar,
    kl_weight: Scalar,
    ce_weight: Scalar,
    weighted: bool = False,
    shares: Tensor | None = None,
    standardised: bool = False,
    ignore_index: int,
) -> Losses:
    """ce_weight · CE + kl_weight · KL(p_t^l / U ‖ p_s), U = Σ p_t^l, the student at temperature 1. Parts: CE, KL.

    weighted: whether each row counts U times (WTTM).
    """
    pair = pair_of(student_BK, teachers_BK, labels_B, shares, standardised, ignore_index)
    powers_BK = exponent * log_softmax(pair.teacher_BK, 1.0)
    powers_BK = torch.where(pair.teacher_BK == -torch.inf, -torch.inf, powers_BK)  # also where the exponent is 0
    kl = divergence(powers_BK, pair.student_BK, 1.0)
    return pair.losses(ce_weight, (kl_weight, pair.mean(kl * powers_BK.logsumexp(1).exp() if weighted else kl)))


def ab(
    student_BK: Tensor,
    teachers_BK: Sequence[Tensor],
    labels_B: Tensor,
    *,
    temperature: Scalar,
    alpha: Scalar,
    beta: Scalar,
    weight: Scalar,
    ce_weight: Scalar,
    continuous: bool = False,
    shares: Tensor | None = None,
    standardised: bool = False,
    ignore_index: int,
) -> Losses:
    """ce_weight · CE + weight · D, the alpha-beta divergence of p = p_t and q = p_s at τ, without τ². Parts: CE, D.

    D = Σ [b/(a+b) q^(a+b) + a/(a+b) p^(a+b) − p^a q^b] / (a b), and its limits where a, b or a + b is 0; the authors'
    code has these times a, b and a (`continuous`: as they are). With S(c, x) = (e^(cx) − 1) / c and d = log q − log p,
    D = Σ p^(a+b) [S(a+b, d) − S(b, d)] / a: differences of the sizes that they have where p and q nearly agree.
    """
    pair = pair_of(student_BK, teachers_BK, labels_B, shares, standardised, ignore_index)
    powers = as_tensor(alpha, pair.student_BK), as_tensor(beta, pair.student_BK)
    logs = log_softmax(pair.teacher_BK, temperature), log_softmax(pair.student_BK, temperature)
    divergence_B = alpha_beta_divergence(*logs, *powers, continuous=continuous)
    return pair.losses(ce_weight, (weight, pair.mean(divergence_B)))


def alpha_beta_divergence(log_p: Tensor, log_q: Tensor, a: Tensor, b: Tensor, *, continuous: bool) -> Tensor:
    """[B]: D of each row of log-probabilities, as `ab` has it."""
    impossible = (log_p == -torch.inf) & (log_q == -torch.inf)
    log_p, log_q = torch.where(impossible, 0, log_p), torch.where(impossible, 0, log_q)
    base, mixed, top = (a + b) * log_p, a * log_p + b * log_q, (a + b) * log_q
    lower = _rise(b, base, mixed, log_q - log_p)
    general = (_rise(a + b, base, top, log_q - log_p) - lower) / torch.where(a == 0, 1, a)
    without_a = ((log_q - log_p) * mixed.exp() - lower) / torch.where(b == 0, 1, b)
    without_both = (log_q - log_p).square() / 2
    each = torch.where(a != 0, general, torch.where(b != 0, without_a, without_both))
    divergence_B = torch.where(impossible, 0, each).sum(1)
    if continuous:
        return divergence_B
    at_an_end = (b == 0) | (a + b == 0)
    return divergence_B * torch.where(a == 0, torch.where(b == 0, 1, b), torch.where(at_an_end, a, 1))


def jsd(
    student_BK: Tensor,
    teachers_BK: Sequence[Tensor],
    labels_B: Tensor,
    *,
    temperature: Scalar,
    beta: Scalar,
    weight: Scalar,
    ce_weight: Scalar,
    shares: Tensor | None = None,
    standardised: bool = False,
    ignore_index: int,
) -> Losses:
    """ce_weight · CE + weight · [β KL(p ‖ m) + (1 − β) KL(q ‖ m)], m = β p + (1 − β) q, at τ. Parts: CE, JSD.

    There is no τ². p is the teacher's, q the student's. At β = 0 it is KL(p ‖ q), at β = 1 KL(q ‖ p): not the limits,
    which are 0.
    """
    pair = pair_of(student_BK, teachers_BK, labels_B, shares, standardised, ignore_index)
    logs = log_softmax(pair.teacher_BK, temperature), log_softmax(pair.student_BK, temperature)
    return pair.losses(ce_weight, (weight, pair.mean(mixture_divergence(*logs, as_tensor(beta, pair.student_BK)))))


def mixture_divergence(log_p: Tensor, log_q: Tensor, beta: Tensor) -> Tensor:
    """[B]: the divergence of each row of log-probabilities, as `jsd` has it."""
    forward, reverse = beta == 0, beta == 1
    # What is not chosen compares the teacher with itself: it could be infinite, and 0 times that is not 0.
    between = torch.where(forward | reverse, log_p, log_q)
    inner = torch.where(forward | reverse, 0.5, beta)
    impossible = (log_p == -torch.inf) & (between == -torch.inf)
    both = [torch.where(impossible, 0, log) for log in (log_p, between)]
    log_m = torch.logaddexp(inner.log() + both[0], (1 - inner).log() + both[1])
    divergence_B = inner * kl_of(log_p, log_m) + (1 - inner) * kl_of(between, log_m)
    divergence_B = divergence_B + kl_of(log_p, torch.where(forward, log_q, log_p))
    return divergence_B + kl_of(torch.where(reverse, log_q, log_p), log_p)


PLAIN: dict[str, Callable[..., Losses]] = {
    "dkd": dkd,
    "nkd": nkd,
    "rld": rld,
    "ttm": ttm,
    "wttm": partial(ttm, weighted=True),
    "ab": ab,
    "ab_continuous": partial(ab, continuous=True),
    "jsd": jsd,
}
FORMS = PLAIN | {name + STANDARDISED: partial(form, standardised=True) for name, form in PLAIN.items()}
"""The definition of every form of this file. The numbers come by their names in `fastkd.ops.numbers`."""


def pair_of(
    student_BK: Tensor,
    teachers_BK: Sequence[Tensor],
    labels_B: Tensor,
    shares: Tensor | None,
    standardised: bool,
    ignore_index: int,
) -> Pair:
    (teacher_BK,) = teachers_BK
    counted = counted_rows(labels_B, student_BK.shape[1], ignore_index)
    prepared = standardised_logits if standardised else at_least_fp32
    return Pair(
        prepared(student_BK),
        prepared(teacher_BK.detach()),
        counted,
        torch.where(counted, labels_B, 0)[:, None],
        1.0 if shares is None else shares[0].detach(),
        mean_of(cross_entropy(student_BK, labels_B, counted, 1.0), counted),
        hit_counts(student_BK, labels_B, counted)[None],
    )


class _Split(NamedTuple):
    """A row without one of its classes."""

    others_BK: Tensor
    """The logits, -inf in that class's place."""
    margin_B: Tensor
    """log(p_class / p_others)."""


def _without(logits_BK: Tensor, column_B1: Tensor) -> _Split:
    others = logits_BK.scatter(1, column_B1, -torch.inf)
    return _Split(others, logits_BK.gather(1, column_B1)[:, 0] - others.logsumexp(1))


def _rise(c: Tensor, base: Tensor, top: Tensor, d: Tensor) -> Tensor:
    """(e^top − e^base) / c, where top = base + c·d; e^base · d for c = 0. No power exceeds the result's terms."""
    x = torch.where((top == base) & top.isinf(), 0, top - base)
    rising = top.exp() * -torch.expm1(-x.clamp(min=0))
    falling = base.exp() * torch.expm1(x.clamp(max=0))
    return torch.where(c == 0, base.exp() * d, torch.where(x > 0, rising, falling) / torch.where(c == 0, 1, c))
