"""What the kernels of this folder are made of: tiles [ROWS, columns] in, quantities of a row [ROWS] or tiles out.

A tile is padded with -inf behind its last class, so that padding has probability 0 and is ahead of nobody.
"""

import triton
import triton.language as tl

# The settings tensor, float32, on the device: what may change between two replays of a captured graph.
TEMPERATURE = tl.constexpr(0)
PAIR_WEIGHT = tl.constexpr(1)
ANCHOR_CE_WEIGHT = tl.constexpr(2)
THIRD = tl.constexpr(3)  # weight of the partners' CE, or of the non-target KL, or the virtual teacher's label
CE_TEMPERATURE = tl.constexpr(4)

# The rows of the table of sums [4 + 2 a network, blocks of samples]; the hits of network n are 4 + 2n and 5 + 2n.
COUNTED_ROWS = tl.constexpr(0)
ANCHOR_CE = tl.constexpr(1)
PAIR = tl.constexpr(2)
THIRD_PART = tl.constexpr(3)
FIRST_HITS = tl.constexpr(4)


@triton.jit
def count_rows(labels_ptr, B, IGNORE_INDEX: tl.constexpr):
    """The divisor of every mean. Each program counts for itself: cheaper than a kernel before this one."""
    offsets = tl.arange(0, 1024)
    counted = tl.zeros((1024,), tl.int32)
    for start in range(0, B, 1024):
        label = tl.load(labels_ptr + start + offsets, mask=start + offsets < B, other=IGNORE_INDEX)
        counted += (label != IGNORE_INDEX).to(tl.int32)
    return tl.maximum(tl.sum(counted), 1).to(tl.float32)


@triton.jit
def load_tile(ptr, row, columns, ROW_STRIDE: tl.constexpr, COLUMN_STRIDE: tl.constexpr, K: tl.constexpr):
    if K * COLUMN_STRIDE >= 2**31:
        pointers = ptr + row[:, None] * ROW_STRIDE + columns[None, :].to(tl.int64) * COLUMN_STRIDE
    else:  # 32 bits take half the registers
        pointers = ptr + row[:, None] * ROW_STRIDE + columns[None, :] * COLUMN_STRIDE
    return tl.load(pointers, mask=columns[None, :] < K, other=-float("inf")).to(tl.float32)


@triton.jit
def store_tile(ptr, tile, row, columns, stored, K: tl.constexpr):
    """`stored`: the rows that exist; gradients are contiguous."""
    pointers = ptr + row[:, None] * K + columns[None, :]
    tl.store(pointers, tile.to(ptr.dtype.element_ty), mask=stored[:, None] & (columns[None, :] < K))


@triton.jit
def log_softmax(logits, inverse_temperature):
    """log-probabilities, probabilities, the greatest logit and the log of the sum behind it."""
    peak = tl.max(logits, 1)
    scaled = (logits - peak[:, None]) * inverse_temperature
    exponentials = tl.exp(scaled)
    total = tl.sum(exponentials, 1)
    log_total = tl.log(total)
    return scaled - log_total[:, None], exponentials * (1.0 / total)[:, None], peak, log_total


@triton.jit
def kl_terms(log_p, p, log_q):
    """What each class adds to KL(p ‖ q). 0 log 0 is 0; the comparison is false for NaN, which stays NaN."""
    return tl.where(p == 0, 0.0, p * (log_p - log_q))


@triton.jit
def log_sigmoid(x):
    return tl.minimum(x, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def binary_kl(target_margin, margin):
    """KL between (label, any other class) of the teacher and of the student, given log(p_label / p_others) of each.

    Also returns the student's probability of the label minus the teacher's: the derivative by the student's margin.
    """
    p, p_others = tl.exp(log_sigmoid(target_margin)), tl.exp(log_sigmoid(-target_margin))
    label = kl_terms(log_sigmoid(target_margin), p, log_sigmoid(margin))
    others = kl_terms(log_sigmoid(-target_margin), p_others, log_sigmoid(-margin))
    return label + others, tl.exp(log_sigmoid(margin)) - p


@triton.jit
def virtual_probabilities(settings_ptr, K: tl.constexpr, VIRTUAL: tl.constexpr):
    """A teacher that is two numbers: the probability of the label and that of every other class."""
    wrong_classes: tl.constexpr = K - 1 if K > 1 else 1
    label = tl.load(settings_ptr + THIRD)
    other = (1.0 - label) / wrong_classes
    if VIRTUAL == "spread":  # what the label lacks goes to all classes, itself included
        other = (1.0 - label) / K
        label += other
    if VIRTUAL == "softened":  # Tf-KD's released code: a second softmax, over the probabilities
        odds = tl.exp((label - other) / tl.load(settings_ptr + TEMPERATURE))
        label, other = odds / (odds + wrong_classes), 1.0 / (odds + wrong_classes)
    return label, other


@triton.jit
def cross_entropy_of_two(label, other, log_p_label, sum_log_p_others):
    """-Σ q log p for a virtual q; what has no probability adds nothing, also where p has none."""
    from_label = tl.where(label == 0, 0.0, label * log_p_label)
    return -from_label - tl.where(other == 0, 0.0, other * sum_log_p_others)


@triton.jit
def entropy_of_two(label, other, K: tl.constexpr):
    log_label = tl.log(tl.where(label == 0, 1.0, label))
    log_other = tl.log(tl.where(other == 0, 1.0, other))
    return -label * log_label - (K - 1) * other * log_other


@triton.jit
def store_sum(sums_ptr, quantity: tl.constexpr, blocks, block, counted, value):
    tl.store(sums_ptr + quantity * blocks + block, tl.sum(tl.where(counted, value, 0.0)))


@triton.jit
def ahead_of(logits, own, columns, label):
    """Classes that rank before the label's: greater logits, and equal ones of a lower class."""
    before = columns[None, :] < label[:, None]
    return ((logits > own[:, None]) | ((logits == own[:, None]) & before)).to(tl.int32)


@triton.jit
def store_hits(sums_ptr, network: tl.constexpr, blocks, block, counted, own, rank):
    is_number = own == own
    for i in tl.static_range(2):  # top 1, top 5
        hit = (is_number & (rank < 1 + 4 * i)).to(tl.float32)
        store_sum(sums_ptr, FIRST_HITS + 2 * network + i, blocks, block, counted, hit)


@triton.jit
def partner_share(
    shares_ptr,
    partner: tl.constexpr,
    row,
    PARTNERS: tl.constexpr,
    ROW_STRIDE: tl.constexpr,
    COLUMN_STRIDE: tl.constexpr,
):
    """The weight of a partner in the pair term of a row: given, or one over their number."""
    if shares_ptr is None:
        share = tl.full(row.shape, 1.0 / PARTNERS, tl.float32)
    else:
        share = tl.load(shares_ptr + partner * ROW_STRIDE + row * COLUMN_STRIDE)
    return share


@triton.jit
def load_labels(labels_ptr, row, IGNORE_INDEX: tl.constexpr, K: tl.constexpr, CHECK_LABELS: tl.constexpr):
    """In 32 bits, which is enough for classes and takes half the registers; -1, no class, where ignored."""
    label = tl.load(labels_ptr + row)
    counted = label != IGNORE_INDEX
    if CHECK_LABELS:
        tl.device_assert(((label >= 0) & (label < K)) | (counted == 0), "fastkd: a label is outside 0..K-1")
    return tl.where(counted, label, -1).to(tl.int32), counted
