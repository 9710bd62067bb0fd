"""What the definitions of the losses are made of: rows of logits in, a number for each row out."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastkd.ops.numbers import Scalar

STANDARD_EPSILON = 1e-7
"""Added to the deviation by which logits are standardised, as in the authors' code."""

FAR = 4.0
"""From such a difference of log-probabilities on, their logarithms lose no more than its exponential does."""
SERIES = 14
"""The last power of the series of e^u, enough for float64 at 1/2."""


class Losses(NamedTuple):
    """What every form of the loss returns."""

    total: Tensor
    """The one differentiable value."""
    parts: tuple[Tensor, ...]
    """Its terms before their weights, detached. A kernel always gives three, also to a form that has fewer."""
    hits: Tensor
    """[networks that learn, 2] int64: in how many counted rows the label is among the top 1, the top 5."""


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
    # On a GPU an assertion would take the whole context down with it.
    if labels_B.device.type == "cpu":
        if not torch.compiler.is_compiling():
            _assert_in_range(_untransformed(labels_B), classes, ignore_index)
        elif not is_transforming():  # there is no assertion that vmap could map, and no other tensor in a trace
            _assert_in_range(labels_B, classes, ignore_index)
    return labels_B != ignore_index


def is_transforming() -> bool:
    """Whether this runs in a function that `torch.func` transforms, as vmap and grad do."""
    return _functorch().peek_interpreter_stack() is not None


# This is what `torch.compiler.assume_constant_result` does, which imports the compiler: a trace asks once.
is_transforming._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def _untransformed(tensor: Tensor) -> Tensor:
    """The tensor that this one stands for in a transformed function: it has the dimensions over which vmap runs."""
    while _functorch().is_functorch_wrapped_tensor(tensor):
        tensor = _functorch().get_unwrapped(tensor)
    return tensor


def _functorch() -> Any:
    """What `torch.func` is made of; a type checker does not know it."""
    return torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]


def _assert_in_range(labels: Tensor, classes: int, ignore_index: int) -> None:
    in_range = ((labels >= 0) & (labels < classes)) | (labels == ignore_index)
    torch._assert_async(  # pyright: ignore[reportPrivateImportUsage]
        in_range.all(), f"a label is outside 0..{classes - 1}"
    )


def mean_of(values_B: Tensor, counted_B: Tensor) -> Tensor:
    """Mean over the counted rows; 0 where none is counted."""
    return torch.where(counted_B, values_B, 0).sum() / counted_B.sum().clamp(min=1)


def at_least_fp32(logits_BK: Tensor) -> Tensor:
    return logits_BK.to(torch.promote_types(logits_BK.dtype, torch.float32))


def as_tensor(value: Scalar, logits_BK: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else at_least_fp32(logits_BK).new_full((), value)


def log_softmax(logits_BK: Tensor, temperature: Scalar) -> Tensor:
    return F.log_softmax(at_least_fp32(logits_BK) / temperature, dim=1)


def cross_entropy(logits_BK: Tensor, labels_B: Tensor, counted_B: Tensor, temperature: Scalar) -> Tensor:
    column = torch.where(counted_B, labels_B, 0)[:, None]
    return -log_softmax(logits_BK, temperature).gather(1, column)[:, 0]


def hard_and_soft_cross_entropy(
    logits_BK: Tensor, labels_B: Tensor, counted_B: Tensor, label_probability: Tensor, other_probability: Tensor
) -> tuple[Tensor, Tensor]:
    """The cross-entropy with the labels, and that with a distribution of two numbers.

    These are the probability of the label and the probability of every other class.
    """
    log_p = log_softmax(logits_BK, 1.0)
    column = torch.where(counted_B, labels_B, 0)[:, None]
    label = log_p.gather(1, column)[:, 0]
    others = log_p.scatter(1, column, 0).sum(1)
    from_label = torch.where(label_probability == 0, 0, label_probability * label)
    from_others = torch.where(other_probability == 0, 0, other_probability * others)
    return mean_of(-label, counted_B), mean_of(-from_label - from_others, counted_B)


def divergence(p_logits_BK: Tensor, q_logits_BK: Tensor, temperature: Scalar) -> Tensor:
    """KL(softmax(p/τ) ‖ softmax(q/τ)) of each row, without τ².

    log(1 + Σ p (e^u − 1 − u)) with u = d − Σ p d and d the difference of the logits, over τ: every error is a share of
    the result, where Σ p (log p − log q) has one of the size of log p, which τ² makes larger than the loss where the
    networks nearly agree. Where they are far apart, or one of them excludes a class, it is that sum.
    """
    log_p, log_q = log_softmax(p_logits_BK, temperature), log_softmax(q_logits_BK, temperature)
    apart = _differences(at_least_fp32(p_logits_BK), at_least_fp32(q_logits_BK)) / temperature
    excluded = (p_logits_BK == -torch.inf) & (q_logits_BK == -torch.inf)
    d = torch.where(excluded, 0, apart)
    near = (_less_mean(d, log_p) * ~excluded).detach().abs().amax(1, keepdim=True) < FAR
    agreeing = (log_p.exp() * _beyond_linear(_less_mean(torch.where(near, d, 0), log_p))).sum(1).log1p()
    return torch.where(near[:, 0], agreeing, kl_of(log_p, log_q))


def _differences(p_logits_BK: Tensor, q_logits_BK: Tensor) -> Tensor:
    """q − p, less what the two have between them: as whole numbers, so that close logits are subtracted exactly."""
    between = q_logits_BK.detach().amax(1, keepdim=True) - p_logits_BK.detach().amax(1, keepdim=True)
    return q_logits_BK - between.round() - p_logits_BK


def _less_mean(d: Tensor, log_p: Tensor) -> Tensor:
    return d - (log_p.exp() * d).sum(1, keepdim=True)


def _beyond_linear(u: Tensor) -> Tensor:
    """e^u − 1 − u, near 0 by its series, where the difference would lose its digits."""
    small = u.abs() < 0.5
    large = torch.where(small, 0, u)
    return torch.where(small, _near_zero(torch.where(small, u, 0)), torch.expm1(large) - large)


def _near_zero(x: Tensor) -> Tensor:
    """e^x − 1 − x by its series."""
    series = torch.ones_like(x)
    for k in range(SERIES, 2, -1):
        series = 1 + x / k * series
    return x * x / 2 * series


def generalised_kl(log_p: Tensor, log_q: Tensor, ratio: Tensor | None = None) -> Tensor:
    """Σ p log(p / q) + Σ q − Σ p of each row, which is KL(p ‖ q) where both have the same sum.

    Each class adds p (e^d − 1 − d) with d = log q − log p, which is not negative: the error is a share of the result,
    as in `divergence`, and no more than that share comes from a sum of 1 that rounding has missed. ratio: d, where the
    caller has more of its digits.
    """
    d = torch.where(log_p == -torch.inf, torch.inf, log_q - log_p if ratio is None else ratio)
    small = d.abs() < 0.5
    near = torch.where(small, log_p.exp() * _near_zero(torch.where(small, d, 0)), 0).sum(-1)
    p = torch.where(small, 0, log_p.exp())
    far = torch.where(small, 0, log_q.exp()) - p - p * torch.where(small | (log_p == -torch.inf), 0, d)
    return near + far.sum(-1)


def kl_of(log_p: Tensor, log_q: Tensor) -> Tensor:
    impossible = log_p == -torch.inf  # 0 log 0 = 0, also where q is 0 too
    return (log_p.exp() * torch.where(impossible, 0, log_p - log_q)).sum(1)


def binary_kl(margin_p: Tensor, margin_q: Tensor) -> Tensor:
    """KL between two distributions on (one class, all others), given log(p_class / p_others) of each.

    log(1 − p + p·e^d) − p·d for margins that differ by d: where both networks nearly agree, p log(p/q) would be lost
    among differences of logarithms that are larger than it.
    """
    d = margin_q - margin_p
    near = d.abs() < 1
    shift = torch.where(near, d, 0)
    agreeing = torch.log1p(torch.sigmoid(margin_p) * torch.expm1(shift)) - torch.sigmoid(margin_p) * shift
    log_p = F.logsigmoid(torch.stack((margin_p, -margin_p), 1))
    log_q = F.logsigmoid(torch.stack((margin_q, -margin_q), 1))
    return torch.where(near, agreeing, kl_of(log_p, log_q))


def standardised_logits(logits_BK: Tensor) -> Tensor:
    """Each row less its mean, divided by its deviation (with the divisor K − 1) plus 1e-7 (Sun et al. 2024).

    The derivative of the deviation of a constant row is 0, so that its gradient is (g − mean g) / 1e-7.
    """
    logits_BK = at_least_fp32(logits_BK)
    centred = logits_BK - logits_BK.mean(1, keepdim=True)
    variance = centred.square().sum(1, keepdim=True) / max(logits_BK.shape[1] - 1, 1)
    varies = variance > 0
    deviation = torch.where(varies, torch.where(varies, variance, 1).sqrt(), 0)
    return centred / (STANDARD_EPSILON + deviation)
