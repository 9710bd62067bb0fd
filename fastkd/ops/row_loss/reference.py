"""The loss of rows and its gradient in plain PyTorch: right in float64, and what the kernels are judged against.

For every row, with z the student's logits after scale and soft-cap, at temperature τ:

    weight · (ce_weight · CE(labels, softmax(z)) + kl_weight · [τ²] D(p ‖ q)),   q = softmax(z / τ)

D is KL(p ‖ q) ("forward"), KL(q ‖ p) ("reverse"), or the generalised Jensen-Shannon divergence of Agarwal et al. 2024
(GKD, arXiv 2306.13649): β KL(p ‖ m) + (1 − β) KL(q ‖ m), m = β p + (1 − β) q, and the two KLs at β 0 and 1. p is the
teacher's distribution. Where it comes as kept classes S, both sides are compared after a reduction:

    "renormalised"   within S alone: p and q are divided by what they give to S
    "lumped"         on S and one more class, which has all that S lacks
    "sampled"        p gives its weights to S and nothing to the others

Where p sums to 1 but for rounding (logits, "renormalised", "lumped"), that rounding has no part in KL: τ² would enlarge
it (see `generalised_kl`).

The gradient is written out, because the operation gives it together with the loss.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fastkd.ops.distill_loss.reference_parts import generalised_kl
from fastkd.ops.numbers import Role
from fastkd.ops.row_loss.inputs import Found, Labels, Rows, Teacher


def losses_and_gradient(rows: Rows, wanted: bool) -> Found:
    raw = _rows_of(rows.student_BRK)
    numbers, form = rows.numbers.to(raw.dtype), rows.form
    z, slope = _transformed(raw, numbers[Role.LOGIT_SCALE], numbers[Role.SOFTCAP], form.capped)
    ce, ce_pull = _cross_entropy(z, rows.labels)
    divergence, pull = _divergence_from(rows, z, numbers)
    if form.tau_squared:
        divergence, pull = (value * numbers[Role.TEMPERATURE] ** 2 for value in (divergence, pull))
    weights, ce_weight, pair_weight = rows.weights_N, numbers[Role.ANCHOR_CE_WEIGHT], numbers[Role.PAIR_WEIGHT]
    counts = weights != 0
    parts = torch.where(counts, torch.stack([ce, divergence]), 0)
    losses = weights * (ce_weight * parts[0] + pair_weight * parts[1])
    ranks = torch.where(counts, _ranks(raw.detach(), rows.labels.classes_N), raw.shape[1] + 5)
    if not wanted:
        return Found(losses.to(raw.dtype), parts, ranks, raw.new_empty(0))
    gradient = weights[:, None] * slope * (ce_weight * ce_pull + pair_weight * pull)
    gradient = torch.where(counts[:, None], gradient, 0).to(raw.dtype).view(rows.student_BRK.shape)
    return Found(losses.to(raw.dtype), parts, ranks, gradient)


def kl_of(log_p: Tensor, log_q: Tensor, p: Tensor) -> Tensor:
    """p (log p − log q), where 0 log 0 is 0."""
    return torch.where(log_p == -torch.inf, 0, p * (log_p - log_q))


class Compared(NamedTuple):
    """Both distributions of every row: [N,E] logarithms."""

    log_p: Tensor
    log_q: Tensor
    ratio: Tensor | None = None
    """log q − log p with more of its digits than their difference has; None: there are none."""
    sums_to_one: bool = True
    """Whether p does, but for rounding, which KL then leaves out; weights that are given may not."""


def divergence_and_pull(name: str, compared: Compared, beta: Tensor) -> tuple[Tensor, Tensor]:
    """[N] the divergence of every row, [N,E] its derivative by the logits that q is the softmax of."""
    log_p, log_q, ratio, sums_to_one = compared
    if name == "forward":
        value = generalised_kl(log_p, log_q, ratio) if sums_to_one else kl_of(log_p, log_q, log_p.exp()).sum(1)
        p = log_p.exp()  # not before: in the linear layer's chunks every array counts
        return value, log_q.exp() * p.sum(1, keepdim=True) - p
    p, q = log_p.exp(), log_q.exp()
    if name == "reverse":
        terms = kl_of(log_q, log_p, q)
        mean = terms.sum(1)
        value = generalised_kl(log_q, log_p, None if ratio is None else -ratio) if sums_to_one else mean
        return value, terms - q * mean[:, None]
    ends = (divergence_and_pull(end, compared, beta) for end in ("forward", "reverse"))
    (forward, forward_pull), (reverse, reverse_pull) = ends
    log_m = torch.logaddexp(log_p + beta.log(), log_q + (1 - beta).log())
    terms = kl_of(log_q, log_m, q)
    of_student = terms.sum(1)
    value = beta * kl_of(log_p, log_m, p).sum(1) + (1 - beta) * of_student
    pull = (1 - beta) * (terms - q * of_student[:, None])
    value = torch.where(beta == 0, forward, torch.where(beta == 1, reverse, value))
    return value, torch.where(beta == 0, forward_pull, torch.where(beta == 1, reverse_pull, pull))


def _divergence_from(rows: Rows, z: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    teacher, temperature, beta = rows.teacher, numbers[Role.TEMPERATURE], numbers[Role.MIXTURE]
    if teacher.kind == "none":
        return z.new_zeros(len(z)), torch.zeros_like(z)
    if teacher.dense_BRK is not None:
        value, pull = divergence_and_pull(rows.form.divergence, _with_dense(rows, z / temperature, numbers), beta)
    else:
        value, pull = _kept_divergence(rows.form.divergence, teacher, z / temperature, beta)
    return value, pull / temperature


def _with_dense(rows: Rows, z: Tensor, numbers: Tensor) -> Compared:
    dense = rows.teacher.dense_BRK
    assert dense is not None
    raw = _rows_of(dense).to(numbers.dtype)
    if rows.teacher.kind == "probabilities":
        return Compared(raw.log(), z.log_softmax(1), sums_to_one=False)
    scale, cap = numbers[Role.TEACHER_LOGIT_SCALE], numbers[Role.TEACHER_SOFTCAP]
    teacher = _transformed(raw, scale, cap, rows.form.teacher_capped)[0] / numbers[Role.TEMPERATURE]
    below = [logits - logits.amax(1, keepdim=True) for logits in (teacher, z)]
    normaliser = [logits.logsumexp(1, keepdim=True) for logits in below]
    ratio = (below[1] - below[0]) - (normaliser[1] - normaliser[0])
    return Compared(below[0] - normaliser[0], below[1] - normaliser[1], ratio)


def _kept_divergence(name: str, teacher: Teacher, z: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    assert teacher.kept_Nk is not None and teacher.log_probs_Nk is not None
    kept, log_p = teacher.kept_Nk.long(), teacher.log_probs_Nk
    exists = kept >= 0
    places = torch.where(exists, kept, 0)
    log_p = torch.where(exists, log_p.to(z.dtype), -torch.inf)
    own = torch.where(exists, z.gather(1, places), -torch.inf)
    if teacher.kind == "renormalised":
        value, pull = divergence_and_pull(name, Compared(log_p.log_softmax(1), own.log_softmax(1)), beta)
        return value, torch.zeros_like(z).scatter_add(1, places, torch.where(exists, pull, 0))
    is_kept = z.new_zeros(len(z), z.shape[1] + 1).scatter(1, torch.where(exists, kept, z.shape[1]), 1.0)[:, :-1].bool()
    others = torch.where(is_kept, -torch.inf, z)
    rest = others.logsumexp(1, keepdim=True)
    log_q = torch.cat([own, rest], 1).log_softmax(1)
    log_rest = teacher.log_rest_N
    lumped = torch.full_like(rest, -torch.inf) if log_rest is None else log_rest.to(z.dtype)[:, None]
    both = Compared(torch.cat([log_p, lumped], 1), log_q, sums_to_one=teacher.kind == "lumped")
    value, pull = divergence_and_pull(name, both, beta)
    spread = torch.where(is_kept | (rest == -torch.inf), 0, pull[:, -1:] * (others - rest).exp())
    return value, spread.scatter_add(1, places, torch.where(exists, pull[:, :-1], 0))


def _cross_entropy(z: Tensor, labels: Labels) -> tuple[Tensor, Tensor]:
    """[N] and its derivative by z; zeros without labels."""
    if labels.classes_N is None:
        return z.new_zeros(len(z)), torch.zeros_like(z)
    log_q = z.log_softmax(1)
    if labels.probabilities_BRK is None:
        column = labels.classes_N.clamp(0, z.shape[1] - 1)[:, None]
        return -log_q.gather(1, column)[:, 0], log_q.exp().scatter_add(1, column, -torch.ones_like(z[:, :1]))
    target = _rows_of(labels.probabilities_BRK).to(z.dtype)
    return -torch.where(target == 0, 0, target * log_q).sum(1), log_q.exp() * target.sum(1, keepdim=True) - target


def _ranks(logits: Tensor, classes_N: Tensor | None) -> Tensor:
    """Classes before the label: greater logits, and equal ones of a lower class."""
    missing = logits.shape[1] + 5
    if classes_N is None:
        return torch.full((len(logits),), missing, device=logits.device)
    column = classes_N.clamp(0, logits.shape[1] - 1)[:, None]
    own = logits.gather(1, column)
    ahead = (logits > own) | ((logits == own) & (torch.arange(logits.shape[1], device=logits.device) < column))
    return torch.where(own[:, 0].isnan(), missing, ahead.sum(1))


def _transformed(raw: Tensor, scale: Tensor, cap: Tensor, capped: bool) -> tuple[Tensor, Tensor]:
    """The logits after scale and soft-cap, and their derivative by the raw ones."""
    if not capped:
        return raw * scale, scale
    bent = (raw * scale / cap).tanh()
    return cap * bent, scale * (1 - bent * bent)


def _rows_of(dense_BRK: Tensor) -> Tensor:
    """[N,K], in float32 at least."""
    return dense_BRK.flatten(0, 1).to(torch.promote_types(dense_BRK.dtype, torch.float32))
