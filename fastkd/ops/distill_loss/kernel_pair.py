"""The kernel that compares a student with its teachers row by row: the methods of 2022 to 2025, standardised or not.

A row of at most `COLUMNS` classes is one chunk, else it is read in chunks, from the cache after the first time. First
come the sums over whole rows, then the loss terms, then the gradients. Words and arguments are those of
`kernel_rows.py`; PAIR names what is compared (see `reference_pairs.py`):

    kd, dkd, nkd, rld, ttm, wttm   the student's a against the teacher's b: a gradient of a − b
    ab, jsd                        terms D(b, a) with derivatives h by log a: a gradient of h − a Σ h
"""

import triton
import triton.language as tl

from fastkd.ops.distill_loss.kernel_pair_parts import (
    ab_factor,
    ab_terms,
    compared,
    distribution,
    greatest_class,
    is_inside,
    jsd_terms,
    kept_normalisers,
    kl_of_agreeing,
    normaliser,
    rank_and_normaliser,
    standardisation,
)
from fastkd.ops.distill_loss.kernel_parts import (
    AGREEMENT,
    ANCHOR_CE_WEIGHT,
    MIXTURE,
    OTHERS_WEIGHT,
    PAIR_WEIGHT,
    STUDENT_EXPONENT,
    TARGET_TEMPERATURE,
    TEACHER_EXPONENT,
    TEMPERATURE,
    add_hits,
    binary_kl,
    kl_terms,
    load_labels,
    load_tile,
    no_hits,
    own_logit,
    partner_share,
    store_sums,
    store_tile,
)


@triton.jit
def both_distributions(student, teacher, inside, of_row, factor_a, factor_b):
    """log a, a of the student and log b, b of the teacher, -inf and 0 in classes that are not compared."""
    a_peak, a_log_total, b_peak, b_log_total = of_row
    student = tl.where(inside, student, -float("inf"))
    teacher = tl.where(inside, teacher, -float("inf"))
    log_a, a = distribution(student, a_peak, a_log_total, factor_a)
    log_b, b = distribution(teacher, b_peak, b_log_total, factor_b)
    return log_a, a, log_b, b


@triton.jit
def gradient_of_pair(
    student,  # compared logits of a chunk
    teacher,
    inside,
    is_label,
    of_row,
    of_label,  # slope and normaliser of the term of the label alone
    slope,
    sum_of_slopes,
    factor_a,
    factor_b,
    factor_label,
    numbers_ptr,
    PAIR: tl.constexpr,
):
    """The gradient by the student's compared logits, of one partner."""
    log_a, a, log_b, b = both_distributions(student, teacher, inside, of_row, factor_a, factor_b)
    if PAIR == "ab":
        alpha, beta = tl.load(numbers_ptr + TEACHER_EXPONENT), tl.load(numbers_ptr + STUDENT_EXPONENT)
        _, h = ab_terms(log_b, log_a, alpha, beta, inside)
        return slope[:, None] * (h - a * sum_of_slopes[:, None])
    if PAIR == "jsd":
        _, h = jsd_terms(log_b, b, log_a, a, tl.load(numbers_ptr + MIXTURE), inside)
        return slope[:, None] * (h - a * sum_of_slopes[:, None])
    gradient = slope[:, None] * (a - b)
    label_slope, label_peak, label_log_total = of_label
    if PAIR == "dkd":
        gradient += label_slope[:, None] * (is_label - a)
    if PAIR == "rld":
        rest = tl.where(is_label, -float("inf"), student)
        _, others = distribution(rest, label_peak, label_log_total, factor_label)
        gradient += label_slope[:, None] * (is_label - others)
    if PAIR == "nkd":
        _, p = distribution(student, label_peak, label_log_total, factor_label)
        gradient += label_slope[:, None] * (p - is_label)
    return gradient


@triton.jit(do_not_specialize=["B"])
def pair_kernel(
    logits_ptrs,
    gradient_ptrs,
    labels_ptr,
    numbers_ptr,
    shares_ptr,
    sums_ptr,
    B,
    K: tl.constexpr,
    ROW_STRIDES: tl.constexpr,
    COLUMN_STRIDES: tl.constexpr,
    SHARE_ROW_STRIDE: tl.constexpr,
    SHARE_COLUMN_STRIDE: tl.constexpr,
    PARTNERS: tl.constexpr,
    IGNORE_INDEX: tl.constexpr,
    PAIR: tl.constexpr,
    STANDARDISED: tl.constexpr,
    CONTINUOUS: tl.constexpr,
    CHECK_LABELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    temperature = tl.load(numbers_ptr + TEMPERATURE)
    per_row = 1.0 / B.to(tl.float32)
    pair_weight = tl.load(numbers_ptr + PAIR_WEIGHT) * per_row
    others_weight = tl.load(numbers_ptr + OTHERS_WEIGHT) * per_row
    ce_slope = tl.load(numbers_ptr + ANCHOR_CE_WEIGHT) * per_row
    factor_a, factor_b, factor_label = 1.0 / temperature, 1.0 / temperature, 1.0
    tau_squared = temperature * temperature
    if PAIR == "ttm" or PAIR == "wttm":
        factor_a, factor_b = 1.0, tl.load(numbers_ptr + TEACHER_EXPONENT)
    if PAIR == "rld":
        factor_label = 1.0 / tl.load(numbers_ptr + TARGET_TEMPERATURE)

    counted_rows = tl.zeros((ROWS,), tl.float32)
    anchor_ces = tl.zeros((ROWS,), tl.float32)
    pairs = tl.zeros((ROWS,), tl.float32)
    thirds = tl.zeros((ROWS,), tl.float32)
    hits = no_hits(1, ROWS)
    for block in tl.range(tl.program_id(0), tl.cdiv(B, ROWS), tl.num_programs(0)):
        row = (block * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        exists = row < B
        label, counted = load_labels(labels_ptr, row, B, IGNORE_INDEX, K, CHECK_LABELS)
        weight = counted.to(tl.float32)
        counted_rows += weight
        own, _ = own_logit(logits_ptrs[0], row, label, ROW_STRIDES[0], COLUMN_STRIDES[0], K)
        rank, p_peak, p_log_total = rank_and_normaliser(
            logits_ptrs[0], row, label, own, counted, ROW_STRIDES[0], COLUMN_STRIDES[0], K, ROWS, COLUMNS
        )
        hits = add_hits(hits, 0, counted, own, rank)
        anchor_ces -= tl.where(counted, own - p_peak - p_log_total, 0.0)
        offset, inverse, deviation = standardisation(
            logits_ptrs[0], row, counted, ROW_STRIDES[0], COLUMN_STRIDES[0], K, STANDARDISED, ROWS, COLUMNS
        )
        own_a = (own - offset) * inverse if STANDARDISED else own
        no_class = tl.full((ROWS,), -1, tl.int32)
        pair = tl.zeros((ROWS,), tl.float32)
        third = tl.zeros((ROWS,), tl.float32)
        partners = ()
        for i in tl.static_range(1, PARTNERS + 1):
            share = partner_share(shares_ptr, i - 1, row, counted, PARTNERS, SHARE_ROW_STRIDE, SHARE_COLUMN_STRIDE)
            own_b, _ = own_logit(logits_ptrs[i], row, label, ROW_STRIDES[i], COLUMN_STRIDES[i], K)
            offset_b, inverse_b, _ = standardisation(
                logits_ptrs[i], row, counted, ROW_STRIDES[i], COLUMN_STRIDES[i], K, STANDARDISED, ROWS, COLUMNS
            )
            zeros = tl.zeros((ROWS,), tl.float32)
            if PAIR == "rld":
                of_row = kept_normalisers(
                    logits_ptrs,
                    i,
                    row,
                    counted,
                    factor_a,
                    offset,
                    inverse,
                    offset_b,
                    inverse_b,
                    own_b,
                    ROW_STRIDES,
                    COLUMN_STRIDES,
                    K,
                    STANDARDISED,
                    ROWS,
                    COLUMNS,
                )
            else:
                left_out = label if PAIR == "dkd" or PAIR == "nkd" else no_class
                of_row = normaliser(
                    logits_ptrs[0],
                    row,
                    counted,
                    offset,
                    inverse,
                    factor_a,
                    left_out,
                    ROW_STRIDES[0],
                    COLUMN_STRIDES[0],
                    K,
                    STANDARDISED,
                    ROWS,
                    COLUMNS,
                ) + normaliser(
                    logits_ptrs[i],
                    row,
                    counted,
                    offset_b,
                    inverse_b,
                    factor_b,
                    left_out,
                    ROW_STRIDES[i],
                    COLUMN_STRIDES[i],
                    K,
                    STANDARDISED,
                    ROWS,
                    COLUMNS,
                )
            a_peak, a_log_total, b_peak, b_log_total = of_row
            own_z_b = (own_b - offset_b) * inverse_b if STANDARDISED else own_b
            scaled_share = share * weight
            of_label = (zeros, zeros, zeros)
            row_factor = tl.full((ROWS,), 1.0, tl.float32)
            if PAIR == "dkd":
                a_margin = (own_a - a_peak) * factor_a - a_log_total
                b_margin = (own_z_b - b_peak) * factor_b - b_log_total
                target_kl, excess = binary_kl(b_margin, a_margin)
                pair += share * tau_squared * target_kl
                of_label = (pair_weight * temperature * scaled_share * excess, zeros, zeros)
            if PAIR == "nkd":
                one_a = normaliser(
                    logits_ptrs[0],
                    row,
                    counted,
                    offset,
                    inverse,
                    factor_label,
                    no_class,
                    ROW_STRIDES[0],
                    COLUMN_STRIDES[0],
                    K,
                    STANDARDISED,
                    ROWS,
                    COLUMNS,
                )
                one_b = normaliser(
                    logits_ptrs[i],
                    row,
                    counted,
                    offset_b,
                    inverse_b,
                    factor_label,
                    no_class,
                    ROW_STRIDES[i],
                    COLUMN_STRIDES[i],
                    K,
                    STANDARDISED,
                    ROWS,
                    COLUMNS,
                )
                log_label = own_a - one_a[0] - one_a[1]
                teacher_label = tl.exp(own_z_b - one_b[0] - one_b[1])
                pair -= share * tl.where(teacher_label == 0, 0.0, teacher_label * log_label)
                of_label = (pair_weight * scaled_share * teacher_label, one_a[0], one_a[1])
            if PAIR == "rld":
                greatest, top = greatest_class(
                    logits_ptrs[i], row, counted, ROW_STRIDES[i], COLUMN_STRIDES[i], K, ROWS, COLUMNS
                )
                top = (top - offset_b) * inverse_b if STANDARDISED else top
                rest_a = normaliser(
                    logits_ptrs[0],
                    row,
                    counted,
                    offset,
                    inverse,
                    factor_label,
                    label,
                    ROW_STRIDES[0],
                    COLUMN_STRIDES[0],
                    K,
                    STANDARDISED,
                    ROWS,
                    COLUMNS,
                )
                rest_b = normaliser(
                    logits_ptrs[i],
                    row,
                    counted,
                    offset_b,
                    inverse_b,
                    factor_label,
                    greatest,
                    ROW_STRIDES[i],
                    COLUMN_STRIDES[i],
                    K,
                    STANDARDISED,
                    ROWS,
                    COLUMNS,
                )
                a_margin = (own_a - rest_a[0]) * factor_label - rest_a[1]
                b_margin = (top - rest_b[0]) * factor_label - rest_b[1]
                target_kl, excess = binary_kl(b_margin, a_margin)
                pair += share * target_kl / (factor_label * factor_label)
                of_label = (pair_weight * scaled_share * excess / factor_label, rest_a[0], rest_a[1])
            if PAIR == "wttm":
                one_b = normaliser(
                    logits_ptrs[i],
                    row,
                    counted,
                    offset_b,
                    inverse_b,
                    1.0,
                    no_class,
                    ROW_STRIDES[i],
                    COLUMN_STRIDES[i],
                    K,
                    STANDARDISED,
                    ROWS,
                    COLUMNS,
                )
                row_factor = tl.exp(b_peak * factor_b + b_log_total - factor_b * (one_b[0] + one_b[1]))
            if PAIR == "ab":
                alpha, beta = tl.load(numbers_ptr + TEACHER_EXPONENT), tl.load(numbers_ptr + STUDENT_EXPONENT)
                row_factor = row_factor * ab_factor(alpha, beta, CONTINUOUS)

            terms = tl.zeros((ROWS, COLUMNS), tl.float32)
            slopes = tl.zeros((ROWS, COLUMNS), tl.float32)
            for start in range(0, K, COLUMNS):
                columns = start + tl.arange(0, COLUMNS)
                anchor = load_tile(logits_ptrs[0], row, columns, counted, ROW_STRIDES[0], COLUMN_STRIDES[0], K)
                partner = load_tile(logits_ptrs[i], row, columns, counted, ROW_STRIDES[i], COLUMN_STRIDES[i], K)
                inside = is_inside(partner, columns, label, own_b, K, PAIR)
                student = compared(anchor, offset, inverse, STANDARDISED)
                teacher = compared(partner, offset_b, inverse_b, STANDARDISED)
                log_a, a, log_b, b = both_distributions(student, teacher, inside, of_row, factor_a, factor_b)
                if PAIR == "ab":
                    each, h = ab_terms(log_b, log_a, alpha, beta, inside)
                    slopes += h
                elif PAIR == "jsd":
                    each, h = jsd_terms(log_b, b, log_a, a, tl.load(numbers_ptr + MIXTURE), inside)
                    slopes += h
                elif PAIR == "nkd":
                    each = tl.where(b == 0, 0.0, -b * log_a)
                else:
                    each = kl_terms(log_b, b, log_a)
                terms += each
            divergence = tl.sum(terms, 1)
            if PAIR != "ab" and PAIR != "jsd" and PAIR != "nkd":  # noqa: SIM102 - this one is for the compiler
                if tl.min(divergence) < AGREEMENT:
                    agreeing = kl_of_agreeing(
                        logits_ptrs,
                        i,
                        row,
                        label,
                        counted,
                        own_b,
                        of_row,
                        (offset, inverse, factor_a),
                        (offset_b, inverse_b, factor_b),
                        ROW_STRIDES,
                        COLUMN_STRIDES,
                        K,
                        PAIR,
                        STANDARDISED,
                        ROWS,
                        COLUMNS,
                    )
                    divergence = tl.where(divergence < AGREEMENT, agreeing, divergence)
            sum_of_slopes = tl.sum(slopes, 1)
            if PAIR == "dkd" or PAIR == "nkd" or PAIR == "rld":
                third += share * tau_squared * divergence
                slope = others_weight * temperature * scaled_share
            elif PAIR == "kd":
                pair += share * tau_squared * divergence
                slope = pair_weight * temperature * scaled_share
            else:
                pair += share * row_factor * divergence
                slope = pair_weight * scaled_share * row_factor * factor_a
            partners = partners + ((offset_b, inverse_b, own_b, of_row, of_label, slope, sum_of_slopes),)  # noqa: RUF005 - Triton does not unpack
        pairs += tl.where(counted, pair, 0.0)
        thirds += tl.where(counted, third, 0.0)

        chained = tl.zeros((ROWS,), tl.float32)
        for final in tl.static_range(0 if STANDARDISED else 1, 2):
            lanes = tl.zeros((ROWS, COLUMNS), tl.float32)
            for start in range(0, K, COLUMNS):
                columns = start + tl.arange(0, COLUMNS)
                is_label = columns[None, :] == label[:, None]
                anchor = load_tile(logits_ptrs[0], row, columns, counted, ROW_STRIDES[0], COLUMN_STRIDES[0], K)
                student = compared(anchor, offset, inverse, STANDARDISED)
                gradient = tl.zeros((ROWS, COLUMNS), tl.float32)
                for i in tl.static_range(1, PARTNERS + 1):
                    offset_b, inverse_b, own_b, of_row, of_label, slope, sum_of_slopes = partners[i - 1]
                    partner = load_tile(logits_ptrs[i], row, columns, counted, ROW_STRIDES[i], COLUMN_STRIDES[i], K)
                    inside = is_inside(partner, columns, label, own_b, K, PAIR)
                    teacher = compared(partner, offset_b, inverse_b, STANDARDISED)
                    gradient += gradient_of_pair(
                        student,
                        teacher,
                        inside,
                        is_label,
                        of_row,
                        of_label,
                        slope,
                        sum_of_slopes,
                        factor_a,
                        factor_b,
                        factor_label,
                        numbers_ptr,
                        PAIR,
                    )
                if final == 0:
                    lanes += tl.where(columns[None, :] < K, gradient * student, 0.0)
                else:
                    if STANDARDISED:  # through the mean and the deviation; the gradients of a row sum to 0
                        gradient = inverse[:, None] * (gradient - chained[:, None] * student)
                    _log_p, p = distribution(anchor, p_peak, p_log_total, 1.0)
                    gradient += ce_slope * (p - is_label)
                    if gradient_ptrs[0] is not None:
                        store_tile(gradient_ptrs[0], tl.where(counted[:, None], gradient, 0.0), row, columns, exists, K)
            if final == 0:
                divisor: tl.constexpr = K - 1 if K > 1 else 1
                flat = deviation == 0
                chained = tl.where(flat, 0.0, tl.sum(lanes, 1) / (divisor * tl.where(flat, 1.0, deviation * inverse)))
    store_sums(sums_ptr, counted_rows, anchor_ces, pairs, thirds, hits)
