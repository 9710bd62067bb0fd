"""What the kernel of the pair forms is made of: what a row is as a whole, and what one class of it adds.

Logits are compared as (logit − offset) · inverse, the logit itself unless rows are standardised. A distribution is
(log p, p) of a chunk, out of the greatest of these numbers in the row and the logarithm of its sum of exponentials.
"""

import triton
import triton.language as tl

from fastkd.ops.distill_loss.kernel_parts import ahead_of, divergence_terms, exp_minus_1, load_tile, log_ratio
from fastkd.ops.distill_loss.kernel_wide import add_online, combine_lanes

STANDARD_EPSILON = tl.constexpr(1e-7)


@triton.jit
def standardisation(
    ptr,
    row,
    counted,
    ROW_STRIDE: tl.constexpr,
    COLUMN_STRIDE: tl.constexpr,
    K: tl.constexpr,
    STANDARDISED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The mean of a row, 1 over its deviation plus epsilon, and the deviation; 0, 1 and 1 if not standardised."""
    if not STANDARDISED:
        return tl.zeros((ROWS,), tl.float32), tl.full((ROWS,), 1.0, tl.float32), tl.full((ROWS,), 1.0, tl.float32)
    lanes = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, K, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        logits = load_tile(ptr, row, columns, counted, ROW_STRIDE, COLUMN_STRIDE, K)
        lanes += tl.where(columns[None, :] < K, logits, 0.0)
    mean = tl.sum(lanes, 1) / K
    lanes = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, K, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        apart = load_tile(ptr, row, columns, counted, ROW_STRIDE, COLUMN_STRIDE, K) - mean[:, None]
        lanes += tl.where(columns[None, :] < K, apart * apart, 0.0)
    divisor: tl.constexpr = K - 1 if K > 1 else 1
    deviation = tl.sqrt(tl.sum(lanes, 1) / divisor)
    return mean, 1.0 / (deviation + STANDARD_EPSILON), deviation


@triton.jit
def compared(logits, offset, inverse, STANDARDISED: tl.constexpr):
    return (logits - offset[:, None]) * inverse[:, None] if STANDARDISED else logits


@triton.jit
def distribution(z, peak, log_total, factor):
    """log p and p of a chunk; classes that are left out are -inf and 0."""
    log_p = (z - peak[:, None]) * factor - log_total[:, None]
    return log_p, tl.exp(log_p)


@triton.jit
def rank_and_normaliser(
    ptr,
    row,
    label,
    own,
    counted,
    ROW_STRIDE: tl.constexpr,
    COLUMN_STRIDE: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The label's rank, and the greatest logit and log-sum-exp of the row, for the cross-entropy."""
    ranks = tl.zeros((ROWS, COLUMNS), tl.float32)
    peaks = tl.full((ROWS, COLUMNS), -float("inf"), tl.float32)
    totals = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, K, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        logits = load_tile(ptr, row, columns, counted, ROW_STRIDE, COLUMN_STRIDE, K)
        ranks += ahead_of(logits, own, columns, label)
        peaks, totals = add_online(peaks, totals, logits, 1.0)
    peak, log_total = combine_lanes(peaks, totals, 1.0)
    return tl.sum(ranks, 1), peak, log_total


@triton.jit
def greatest_class(
    ptr,
    row,
    counted,
    ROW_STRIDE: tl.constexpr,
    COLUMN_STRIDE: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The class of the greatest logit, the lowest one of several, and that logit."""
    peaks = tl.full((ROWS, COLUMNS), -float("inf"), tl.float32)
    for start in range(0, K, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        peaks = tl.maximum(peaks, load_tile(ptr, row, columns, counted, ROW_STRIDE, COLUMN_STRIDE, K))
    peak = tl.max(peaks, 1)
    places = tl.full((ROWS, COLUMNS), K, tl.int32)
    for start in range(0, K, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        logits = load_tile(ptr, row, columns, counted, ROW_STRIDE, COLUMN_STRIDE, K)
        here = (logits == peak[:, None]) & (columns[None, :] < K)
        places = tl.minimum(places, tl.where(here, columns[None, :], K))
    return tl.min(places, 1), peak


@triton.jit
def normaliser(
    ptr,
    row,
    counted,
    offset,
    inverse,
    factor,
    left_out,
    ROW_STRIDE: tl.constexpr,
    COLUMN_STRIDE: tl.constexpr,
    K: tl.constexpr,
    STANDARDISED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The greatest compared logit and the log of the sum of exponentials, without the class `left_out` (-1: none)."""
    peaks = tl.full((ROWS, COLUMNS), -float("inf"), tl.float32)
    totals = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, K, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        logits = load_tile(ptr, row, columns, counted, ROW_STRIDE, COLUMN_STRIDE, K)
        z = tl.where(
            columns[None, :] == left_out[:, None], -float("inf"), compared(logits, offset, inverse, STANDARDISED)
        )
        peaks, totals = add_online(peaks, totals, z, factor)
    return combine_lanes(peaks, totals, factor)


@triton.jit
def kept_normalisers(
    ptrs,
    partner: tl.constexpr,
    row,
    counted,
    factor,
    offset,
    inverse,
    offset_b,
    inverse_b,
    own_b,
    ROW_STRIDES: tl.constexpr,
    COLUMN_STRIDES: tl.constexpr,
    K: tl.constexpr,
    STANDARDISED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Both networks' normalisers over the classes to which the teacher gives less than to the label; 0 without any.

    With zeros the distributions are 0 everywhere, and the row adds nothing.
    """
    a_peaks = tl.full((ROWS, COLUMNS), -float("inf"), tl.float32)
    b_peaks = tl.full((ROWS, COLUMNS), -float("inf"), tl.float32)
    a_totals = tl.zeros((ROWS, COLUMNS), tl.float32)
    b_totals = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, K, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        anchor = load_tile(ptrs[0], row, columns, counted, ROW_STRIDES[0], COLUMN_STRIDES[0], K)
        partner_logits = load_tile(
            ptrs[partner], row, columns, counted, ROW_STRIDES[partner], COLUMN_STRIDES[partner], K
        )
        kept = partner_logits < own_b[:, None]
        a = tl.where(kept, compared(anchor, offset, inverse, STANDARDISED), -float("inf"))
        b = tl.where(kept, compared(partner_logits, offset_b, inverse_b, STANDARDISED), -float("inf"))
        a_peaks, a_totals = add_online(a_peaks, a_totals, a, factor)
        b_peaks, b_totals = add_online(b_peaks, b_totals, b, factor)
    a_peak, a_log_total = combine_lanes(a_peaks, a_totals, factor)
    b_peak, b_log_total = combine_lanes(b_peaks, b_totals, factor)
    none = b_peak == -float("inf")
    a_peak, a_log_total = tl.where(none, 0.0, a_peak), tl.where(none, 0.0, a_log_total)
    return a_peak, a_log_total, tl.where(none, 0.0, b_peak), tl.where(none, 0.0, b_log_total)


@triton.jit
def rise(c, base, top, d):
    """(e^top − e^base) / c, where top = base + c·d; e^base · d for c = 0. No power exceeds the result's terms."""
    x = tl.where((top == base) & (tl.abs(top) == float("inf")), 0.0, top - base)
    size = tl.exp(tl.maximum(top, base)) * -exp_minus_1(-tl.abs(x))
    return tl.where(c == 0, tl.exp(base) * d, tl.where(x > 0, size, -size) / tl.where(c == 0, 1.0, c))


@triton.jit
def ab_factor(a, b, CONTINUOUS: tl.constexpr):
    """What the authors' code has the limits times: see the reference."""
    factor = 1.0
    if not CONTINUOUS:
        at_an_end = (b == 0) | (a + b == 0)
        factor = tl.where(a == 0, tl.where(b == 0, 1.0, b), tl.where(at_an_end, a, 1.0))
    return factor


@triton.jit
def ab_terms(log_p, log_q, a, b, inside):
    """What each class adds to the alpha-beta divergence, and its derivative by log q. inside: whether there is one."""
    impossible = (inside == 0) | ((log_p == -float("inf")) & (log_q == -float("inf")))
    log_p, log_q = tl.where(impossible, 0.0, log_p), tl.where(impossible, 0.0, log_q)
    base, mixed, top, d = (a + b) * log_p, a * log_p + b * log_q, (a + b) * log_q, log_q - log_p
    lower = rise(b, base, mixed, d)
    general = (rise(a + b, base, top, d) - lower) / tl.where(a == 0, 1.0, a)
    without_a = (d * tl.exp(mixed) - lower) / tl.where(b == 0, 1.0, b)
    each = tl.where(a != 0, general, tl.where(b != 0, without_a, 0.5 * d * d))
    slope = rise(a, mixed, top, d)  # q^b (q^a − p^a) / a
    return tl.where(impossible, 0.0, each), tl.where(impossible, 0.0, slope)


@triton.jit
def jsd_terms(log_p, p, log_q, q, beta, inside):
    """What each class adds to the generalised Jensen-Shannon divergence, and its derivative by log q."""
    ends = (beta == 0) | (beta == 1)
    inner = tl.where(ends, 0.5, beta)
    m = inner * p + (1.0 - inner) * q
    log_m = tl.maximum(tl.log(m), -3.4028234663852886e38)
    small = tl.maximum(log_p + tl.log(inner), log_q + tl.log(1.0 - inner))  # m underflows before its logarithm does
    log_m = tl.where(m < 1e-30, tl.maximum(small, -3.4028234663852886e38), log_m)
    of_p = tl.where(p == 0, 0.0, p * (log_p - log_m))
    of_q = tl.where(q == 0, 0.0, q * (log_q - log_m))
    forward = tl.where(p == 0, 0.0, p * (log_p - log_q))
    reverse = tl.where(q == 0, 0.0, q * (log_q - log_p))
    each = tl.where(beta == 0, forward, tl.where(beta == 1, reverse, inner * of_p + (1.0 - inner) * of_q))
    slope = tl.where(beta == 0, -p, tl.where(beta == 1, reverse, (1.0 - inner) * of_q))
    return tl.where(inside, each, 0.0), tl.where(inside, slope, 0.0)


@triton.jit
def is_inside(teacher, columns, label, own_b, K: tl.constexpr, PAIR: tl.constexpr):
    """Which classes of a chunk are compared."""
    if PAIR == "rld":
        return teacher < own_b[:, None]
    there = (columns[None, :] < K) & (label[:, None] >= -1)
    if PAIR == "dkd" or PAIR == "nkd":
        there = there & (columns[None, :] != label[:, None])
    return there


@triton.jit
def kl_of_agreeing(
    ptrs,
    partner: tl.constexpr,
    row,
    label,
    counted,
    own_b,
    of_row,
    of_student,  # offset, inverse, factor
    of_teacher,
    ROW_STRIDES: tl.constexpr,
    COLUMN_STRIDES: tl.constexpr,
    K: tl.constexpr,
    PAIR: tl.constexpr,
    STANDARDISED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """KL(teacher ‖ student) of each row once more, without a difference of logarithms."""
    a_peak, a_log_total, b_peak, b_log_total = of_row
    offset, inverse, factor_a = of_student
    offset_b, inverse_b, factor_b = of_teacher
    lanes = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, K, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        anchor = load_tile(ptrs[0], row, columns, counted, ROW_STRIDES[0], COLUMN_STRIDES[0], K)
        other = load_tile(ptrs[partner], row, columns, counted, ROW_STRIDES[partner], COLUMN_STRIDES[partner], K)
        inside = is_inside(other, columns, label, own_b, K, PAIR)
        student = tl.where(inside, compared(anchor, offset, inverse, STANDARDISED), -float("inf"))
        teacher = tl.where(inside, compared(other, offset_b, inverse_b, STANDARDISED), -float("inf"))
        _, a = distribution(student, a_peak, a_log_total, factor_a)
        _, b = distribution(teacher, b_peak, b_log_total, factor_b)
        d = log_ratio(teacher, b_peak, factor_b, b_log_total, student, a_peak, factor_a, a_log_total)
        lanes += divergence_terms(b, a, d)
    return tl.sum(lanes, 1)
