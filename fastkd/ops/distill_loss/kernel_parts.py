"""What the kernels of this folder are made of: tiles [ROWS, columns] in, quantities of a row [ROWS] or tiles out.

A tile is padded with -inf behind its last class, so that padding has probability 0 and ranks after every class.
"""

import triton
import triton.language as tl

from fastkd.ops.numbers import Role

# The places of the numbers in a float32 tensor: they may change between two replays of a captured graph.
TEMPERATURE = tl.constexpr(int(Role.TEMPERATURE))
PAIR_WEIGHT = tl.constexpr(int(Role.PAIR_WEIGHT))
ANCHOR_CE_WEIGHT = tl.constexpr(int(Role.ANCHOR_CE_WEIGHT))
PARTNER_CE_WEIGHT = tl.constexpr(int(Role.PARTNER_CE_WEIGHT))
CE_TEMPERATURE = tl.constexpr(int(Role.CE_TEMPERATURE))
OTHERS_WEIGHT = tl.constexpr(int(Role.OTHERS_WEIGHT))
LABEL_PROBABILITY = tl.constexpr(int(Role.LABEL_PROBABILITY))
SMOOTHING = tl.constexpr(int(Role.SMOOTHING))
TARGET_TEMPERATURE = tl.constexpr(int(Role.TARGET_TEMPERATURE))
TEACHER_EXPONENT = tl.constexpr(int(Role.TEACHER_EXPONENT))
STUDENT_EXPONENT = tl.constexpr(int(Role.STUDENT_EXPONENT))
MIXTURE = tl.constexpr(int(Role.MIXTURE))

# The rows of the table of sums [4 + 2 a network, programs]; the hits of network n are 4 + 2n and 5 + 2n.
COUNTED_ROWS = tl.constexpr(0)
ANCHOR_CE = tl.constexpr(1)
PAIR = tl.constexpr(2)
THIRD_PART = tl.constexpr(3)
FIRST_HITS = tl.constexpr(4)

# KL of a row below which it is summed without a difference of logarithms.
AGREEMENT = tl.constexpr(1 / 16)

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def load_tile(ptr, row, columns, counted, ROW_STRIDE: tl.constexpr, COLUMN_STRIDE: tl.constexpr, K: tl.constexpr):
    """Logits in float32. Rows that do not count are not read: they are zeros, whose sums are finite.

    What is masked is 0, as asynchronous copies leave it; -inf would cost a selection of every number.
    """
    if K * COLUMN_STRIDE >= 2**31:
        pointers = ptr + row[:, None] * ROW_STRIDE + columns[None, :].to(tl.int64) * COLUMN_STRIDE
    else:  # 32 bits take half the registers
        pointers = ptr + row[:, None] * ROW_STRIDE + columns[None, :] * COLUMN_STRIDE
    logits = tl.load(pointers, mask=counted[:, None] & (columns[None, :] < K), other=0.0).to(tl.float32)
    return tl.where(columns[None, :] < K, logits, -float("inf"))


@triton.jit
def store_tile(ptr, tile, row, columns, stored, K: tl.constexpr):
    """Stores a tile of a contiguous gradient. stored: whether each row exists."""
    pointers = ptr + row[:, None] * K + columns[None, :]
    tl.store(pointers, tile.to(ptr.dtype.element_ty), mask=stored[:, None] & (columns[None, :] < K))


@triton.jit
def own_logit(ptr, row, label, ROW_STRIDE: tl.constexpr, COLUMN_STRIDE: tl.constexpr, K: tl.constexpr):
    """The label's logit, 0 if there is no such class, and the label, -1 if its logit is NaN.

    The logit is read once more, which is cheaper than a sum over the row with one term. Columns are compared with the
    label returned here: were it the same for all networks, the compiler would compare once and keep the bits, which
    takes more instructions than comparing again.
    """
    exists = (label >= 0) & (label < K)
    own = tl.load(ptr + row * ROW_STRIDE + label.to(tl.int64) * COLUMN_STRIDE, mask=exists, other=0.0).to(tl.float32)
    return own, tl.where(own == own, label, -1)


@triton.jit
def load_third_weight(numbers_ptr, PARTNERS_LEARN: tl.constexpr, DECOUPLED: tl.constexpr):
    """The weight of the third part, the partners' cross-entropy or KL within the other classes; 0 if there is none."""
    if PARTNERS_LEARN:
        weight = tl.load(numbers_ptr + PARTNER_CE_WEIGHT)
    elif DECOUPLED:
        weight = tl.load(numbers_ptr + OTHERS_WEIGHT)
    else:
        weight = 0.0
    return weight


@triton.jit
def below_peak(logits):
    """Logits minus the greatest of their row, and the greatest."""
    peak = tl.max(logits, 1)
    return logits - peak[:, None], peak


@triton.jit
def row_sums(first, second, SHARED: tl.constexpr):
    """The sums over the columns of two tiles; in one reduction where several warps share a row, which then wait for
    each other once."""
    return tl.split(tl.sum(tl.join(first, second), 1)) if SHARED else (tl.sum(first, 1), tl.sum(second, 1))


@triton.jit
def row_sums_of_four(first, second, third, fourth, SHARED: tl.constexpr):
    if SHARED:
        firsts, lasts = tl.split(tl.sum(tl.join(tl.join(first, second), tl.join(third, fourth)), 1))
        sums = tl.split(firsts) + tl.split(lasts)
    else:
        sums = row_sums(first, second, False) + row_sums(third, fourth, False)
    return sums


@triton.jit
def kl_gaps(p_logs, q_logs):
    """log p - log q, without the logarithms of the sums. Finite where p is 0, so that it adds nothing there."""
    return tl.maximum(p_logs - q_logs, -3.4028234663852886e38)  # NaN gives way to the number


@triton.jit
def divergence_terms(p, q, d):
    """What each class adds to KL(p ‖ q), p (e^d − 1 − d) with d = log q − log p: their sum is KL, as p and q sum to 1.

    None is negative, so that where two networks nearly agree the error is a share of KL, which τ² may enlarge; an error
    of the normalisers, which moves all d alike, counts in second order. p d² times a polynomial up to |d| = 1.
    """
    series = 2.535482963e-5 + d * 2.772283096e-6
    series = 1.984402334e-4 + d * series
    series = 1.388545148e-3 + d * series
    series = 8.333310485e-3 + d * series
    series = 4.166673496e-2 + d * series
    series = 1.666666716e-1 + d * series
    series = 0.5 + d * series
    return tl.where(tl.abs(d) < 1.0, p * d * d * series, q - p - p * d)  # NaN stays NaN


@triton.jit
def kl_terms(log_p, p, log_q):
    """What each class adds to KL(p ‖ q). 0 log 0 is 0; the comparison is false for NaN, which stays NaN."""
    return tl.where(p == 0, 0.0, p * (log_p - log_q))


@triton.jit
def log_ratio(p_logits, p_peak, p_factor, p_log_total, q_logits, q_peak, q_factor, q_log_total):
    """log q − log p, finite where both are 0. Differences of logits come first: the logarithms are larger than them."""
    gap = kl_gaps((p_logits - p_peak[:, None]) * p_factor, (q_logits - q_peak[:, None]) * q_factor)
    return (p_log_total - q_log_total)[:, None] - gap


@triton.jit
def exp_minus_1(x):
    """e^x − 1 with its digits also where x is small."""
    small = tl.abs(x) < 0.5
    s = tl.where(small, x, 0.0)
    series = 1.0 + s * (1 / 7)
    series = 1.0 + s * (1 / 6) * series
    series = 1.0 + s * (1 / 5) * series
    series = 1.0 + s * (1 / 4) * series
    series = 1.0 + s * (1 / 3) * series
    series = 1.0 + s * (1 / 2) * series
    return tl.where(small, s * series, tl.exp(x) - 1.0)


@triton.jit
def log_1_plus(x):
    """log(1 + x) with its digits also where x is small: rounding 1 + x is undone by the quotient (Kahan)."""
    u = 1.0 + x
    return tl.where(u == 1.0, x, tl.log(u) * (x / tl.where(u == 1.0, 1.0, u - 1.0)))


@triton.jit
def log_sigmoid(x):
    return tl.minimum(x, 0.0) - log_1_plus(tl.exp(-tl.abs(x)))


@triton.jit
def binary_kl(target_margin, margin):
    """KL between (one class, all others) of the teacher and of the student, given log(p_class / p_others) of each.

    Also returns the derivative by the student's margin. For margins that differ by d it is log(1 + p·(e^d − 1)) − p·d:
    where both networks nearly agree, p log(p / q) would be lost among differences of logarithms larger than itself.
    """
    p, q = 1.0 / (1.0 + tl.exp(-target_margin)), 1.0 / (1.0 + tl.exp(-margin))
    d = margin - target_margin
    near = tl.abs(d) < 0.5
    x = p * exp_minus_1(tl.where(near, d, 0.0))
    agreeing = log_1_plus(x) - p * tl.where(near, d, 0.0)
    log_p, log_p_others = log_sigmoid(target_margin), log_sigmoid(-target_margin)
    label = kl_terms(log_p, tl.exp(log_p), log_sigmoid(margin))
    others = kl_terms(log_p_others, tl.exp(log_p_others), log_sigmoid(-margin))
    return tl.where(near, agreeing, label + others), q - p


@triton.jit
def virtual_probabilities(numbers_ptr, K: tl.constexpr, VIRTUAL: tl.constexpr, SMOOTHED: tl.constexpr):
    """A teacher that is two numbers: the probability of the label and that of every other class."""
    wrong_classes: tl.constexpr = K - 1 if K > 1 else 1
    label = 1.0 - tl.load(numbers_ptr + SMOOTHING) if SMOOTHED else tl.load(numbers_ptr + LABEL_PROBABILITY)
    other = (1.0 - label) / wrong_classes
    if VIRTUAL == "spread":  # what the label lacks goes to all classes, itself included
        other = (1.0 - label) / K
        label += other
    if VIRTUAL == "softened":  # the authors' code of Tf-KD: a second softmax, over the probabilities
        odds = tl.exp((label - other) / tl.load(numbers_ptr + TEMPERATURE))
        label, other = odds / (odds + wrong_classes), 1.0 / (odds + wrong_classes)
    return label, other


@triton.jit
def cross_entropy_of_two(label, other, log_p_label, sum_log_p_others):
    """-Σ q log p for a virtual q; a class to which q gives nothing adds nothing, also if p gives it nothing."""
    from_label = tl.where(label == 0, 0.0, label * log_p_label)
    return -from_label - tl.where(other == 0, 0.0, other * sum_log_p_others)


@triton.jit
def entropy_of_two(label, other, K: tl.constexpr):
    log_label = tl.log(tl.where(label == 0, 1.0, label))
    log_other = tl.log(tl.where(other == 0, 1.0, other))
    return -label * log_label - (K - 1) * other * log_other


@triton.jit
def number_after(x):
    """The least float32 greater than x, NaN behind infinity: what is at least that is greater than x."""
    bits = x.to(tl.int32, bitcast=True)
    after = tl.where(bits >= 0, bits + 1, bits - 1)
    return tl.where(x == 0, 1, after).to(tl.float32, bitcast=True)


@triton.jit
def ahead_of(logits, own, columns, label):
    """Classes that rank before the label's: greater logits, and equal ones of a lower class."""
    threshold = tl.where(columns[None, :] < label[:, None], own[:, None], number_after(own)[:, None])
    return tl.where(logits >= threshold, 1.0, 0.0)


@triton.jit
def no_hits(NETWORKS: tl.constexpr, ROWS: tl.constexpr):
    """Zeros to count hits in: the top 1 and the top 5 of each network, for each row that a program has at once."""
    hits = ()
    for _ in tl.static_range(2 * NETWORKS):
        hits = hits + (tl.zeros((ROWS,), tl.float32),)  # noqa: RUF005 - Triton does not unpack
    return hits


@triton.jit
def add_hits(hits, network: tl.constexpr, counted, own, rank):
    is_number = counted & (own == own)
    added = ()
    for i in tl.static_range(len(hits)):
        if i // 2 == network:
            added = added + (hits[i] + (is_number & (rank < 1 + 4 * (i % 2))).to(tl.float32),)  # noqa: RUF005
        else:
            added = added + (hits[i],)  # noqa: RUF005
    return added


@triton.jit
def store_sums(sums_ptr, counted_rows, anchor_ces, pairs, thirds, hits):
    """Stores what a program has summed in its column of the table."""
    quantities = (counted_rows, anchor_ces, pairs, thirds) + hits  # noqa: RUF005
    for i in tl.static_range(len(quantities)):
        tl.store(sums_ptr + i * tl.num_programs(0) + tl.program_id(0), tl.sum(quantities[i]))


@triton.jit
def partner_share(
    shares_ptr,
    partner: tl.constexpr,
    row,
    counted,
    PARTNERS: tl.constexpr,
    ROW_STRIDE: tl.constexpr,
    COLUMN_STRIDE: tl.constexpr,
):
    """The weight of a partner in the pair term of a row: given, or one over the number of partners."""
    if shares_ptr is None:
        share = tl.full(row.shape, 1.0 / PARTNERS, tl.float32)
    else:
        share = tl.load(shares_ptr + partner * ROW_STRIDE + row * COLUMN_STRIDE, mask=counted, other=0.0)
    return share


@triton.jit
def load_labels(labels_ptr, row, B, IGNORE_INDEX: tl.constexpr, K: tl.constexpr, CHECK_LABELS: tl.constexpr):
    """The labels, and whether each row counts. A label that is ignored, or of no row, is -1, which is no class.

    The labels have 32 bits, which are enough for classes and take half the registers.
    """
    label = tl.load(labels_ptr + row, mask=row < B, other=IGNORE_INDEX)
    counted = label != IGNORE_INDEX
    if CHECK_LABELS:
        tl.device_assert(((label >= 0) & (label < K)) | (counted == 0), "fastkd: a label is outside 0..K-1")
    return tl.where(counted, label, -1).to(tl.int32), counted
