"""What the kernels of this folder are made of: tiles [ROWS, COLUMNS] of logits, quantities of a row [ROWS].

Logits are scaled, soft-capped and divided by the temperature here; a tile is -inf behind its last class.
"""

import triton
import triton.language as tl

from fastkd.ops.numbers import Role

TEMPERATURE = tl.constexpr(int(Role.TEMPERATURE))
PAIR_WEIGHT = tl.constexpr(int(Role.PAIR_WEIGHT))
CE_WEIGHT = tl.constexpr(int(Role.ANCHOR_CE_WEIGHT))
MIXTURE = tl.constexpr(int(Role.MIXTURE))
LOGIT_SCALE = tl.constexpr(int(Role.LOGIT_SCALE))
SOFTCAP = tl.constexpr(int(Role.SOFTCAP))
TEACHER_LOGIT_SCALE = tl.constexpr(int(Role.TEACHER_LOGIT_SCALE))
TEACHER_SOFTCAP = tl.constexpr(int(Role.TEACHER_SOFTCAP))

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
MISS = tl.constexpr(5)
# log(q / p) beyond which m is (1 - beta) q to the last bit, and p adds nothing.
MOST_GAP = tl.constexpr(80.0)


@triton.jit
def place_of_rows(block, R, ROWS: tl.constexpr):
    """The rows [ROWS] of a block as numbers among all rows, their batch, their place within it, and which exist.

    A block stays within one element of the batch: neighbouring rows are neighbours in memory where pixels are.
    """
    blocks = tl.cdiv(R, ROWS)
    batch = (block // blocks).to(tl.int64)
    inner = (block % blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    return batch * R + inner, batch, inner, inner < R


@triton.jit
def row_pointers(ptr, batch, inner, STRIDES: tl.constexpr):
    return ptr + batch * STRIDES[0] + inner * STRIDES[1]


@triton.jit
def load_numbers(pointers, columns, read, fill, STRIDES: tl.constexpr, K: tl.constexpr):
    """A tile in float32; what is no class, and rows that are not `read`, are `fill`."""
    wide: tl.constexpr = K * STRIDES[2] >= 2**31  # 32 bits take half the registers
    places = (columns.to(tl.int64) if wide else columns) * STRIDES[2]
    mask = read[:, None] & (columns[None, :] < K)
    return tl.load(pointers[:, None] + places[None, :], mask=mask, other=fill).to(tl.float32)


@triton.jit
def tanh(x):
    """Hyperbolic tangent to a few units in the last place; the series is for small arguments, where 1 - e cancels."""
    decay = tl.exp2(-2.0 * LOG2_E * tl.abs(x))
    large = (1.0 - decay) / (1.0 + decay)
    square = x * x
    small = x * (1.0 - square * (0.3333333333 - square * (0.1333333333 - square * 0.0539682540)))
    return tl.where(tl.abs(x) < 0.2, small, tl.where(x < 0, -large, large))


@triton.jit
def transformed(raw, scale, cap, CAPPED: tl.constexpr):
    """Logits after scale and soft-cap."""
    scaled = raw * scale
    if CAPPED:
        scaled = cap * tanh(scaled / cap)
    return scaled


@triton.jit
def load_logits(
    pointers,
    columns,
    read,
    scale,
    cap,
    STRIDES: tl.constexpr,
    K: tl.constexpr,
    CAPPED: tl.constexpr,
):
    """Logits after scale and soft-cap; padding is -inf whatever the sign of the scale, a row that is not read zeros."""
    raw = load_numbers(pointers, columns, read, 0.0, STRIDES, K)
    return tl.where(columns[None, :] < K, transformed(raw, scale, cap, CAPPED), -float("inf")), raw


@triton.jit
def slope_of(ready, scale, cap, CAPPED: tl.constexpr):
    """The derivative of such logits by the raw ones."""
    if CAPPED:
        bent = ready / cap
        slope = scale * (1.0 - bent * bent)
    else:
        slope = scale
    return slope


@triton.jit
def raised(peak, tile):
    """The greatest logit so far, and what sums of exponentials relative to the earlier one lack, as a difference."""
    new = tl.maximum(peak, tl.max(tile, 1))
    return new, tl.where(peak == -float("inf"), 0.0, peak - new)


@triton.jit
def below(tile, peak):
    """Logits minus the greatest of their row, which may be -inf, too."""
    return tile - tl.where(peak == -float("inf"), 0.0, peak)[:, None]


@triton.jit
def weighed(probability, value):
    """Their product, 0 where the probability is 0; a probability that is NaN stays NaN."""
    return tl.where(probability == 0, 0.0, probability * value)


@triton.jit
def mixture_parts(log_p, log_q, beta):
    """What each class adds to the divergence from a mixture, and to the part of it that q is the weight of.

    Logarithms are in bits, results in nats: beta p log(p / m) + (1 - beta) q log(q / m), m = beta p + (1 - beta) q, at
    0 and 1 the KL that these ends stand for. A class that neither side has adds nothing.
    """
    p, q = tl.exp2(log_p), tl.exp2(log_q)
    whole = (log_q - log_p) * LN_2
    gap = tl.minimum(whole, MOST_GAP)
    mixed = tl.log(beta + (1.0 - beta) * tl.exp(gap))  # log(m / p)
    of_student = (1.0 - beta) * weighed(q, gap - mixed)
    of_teacher = -beta * weighed(p, mixed)
    of_student = tl.where(beta == 0.0, 0.0, tl.where(beta == 1.0, weighed(q, whole), of_student))
    of_teacher = tl.where(beta == 0.0, weighed(p, -whole), of_teacher)
    return of_teacher + of_student, of_student, p, q


@triton.jit
def ahead_of(logits, own, columns, label):
    """1 for every class that ranks before the label's: greater logits, and equal ones of a lower class."""
    before = columns[None, :] < label[:, None]
    return ((logits > own[:, None]) | ((logits == own[:, None]) & before)).to(tl.int32)


@triton.jit
def load_label(labels_ptr, row, read, K: tl.constexpr, CHECK_LABELS: tl.constexpr):
    label = tl.load(labels_ptr + row, mask=read, other=-1)
    if CHECK_LABELS:
        tl.device_assert(((label >= 0) & (label < K)) | (read == 0), "fastkd: a label is outside 0..K-1")
    return label.to(tl.int32)


@triton.jit
def load_own(pointers, label, STRIDES: tl.constexpr, K: tl.constexpr):
    """The label's raw logit [ROWS]; NaN if there is no such class."""
    exists = (label >= 0) & (label < K)
    places = tl.where(exists, label, 0).to(tl.int64) * STRIDES[2]
    return tl.load(pointers + places, mask=exists, other=float("nan")).to(tl.float32)


@triton.jit
def store_row(losses_ptr, parts_ptr, ranks_ptr, row, exists, weight, ce, divergence, rank, numbers_ptr, rows):
    """Stores what is known of every row; one of weight 0 has no loss."""
    counts = weight != 0
    ce, divergence = tl.where(counts, ce, 0.0), tl.where(counts, divergence, 0.0)
    loss = tl.load(numbers_ptr + CE_WEIGHT) * ce + tl.load(numbers_ptr + PAIR_WEIGHT) * divergence
    tl.store(losses_ptr + row, weight * loss, mask=exists)
    tl.store(parts_ptr + row, ce, mask=exists)
    tl.store(parts_ptr + rows + row, divergence, mask=exists)
    tl.store(ranks_ptr + row, rank.to(tl.int64), mask=exists)
