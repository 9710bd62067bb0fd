"""The kernel for rows too wide for registers: one sample a program, its rows in chunks, read from L2 after the first.

Three passes: the log-normalisers and ranks of every network; the loss terms, which are added up once more where KL is
small (see `kernel_rows.py`); the gradients, for which KL must be known.
Words and arguments are those of `kernel_rows.py`.
"""

import triton
import triton.language as tl

from fastkd.ops.distill_loss.kernel_parts import (
    AGREEMENT,
    ANCHOR_CE_WEIGHT,
    CE_TEMPERATURE,
    PAIR_WEIGHT,
    TEMPERATURE,
    add_hits,
    ahead_of,
    binary_kl,
    cross_entropy_of_two,
    divergence_terms,
    entropy_of_two,
    kl_terms,
    load_labels,
    load_third_weight,
    load_tile,
    log_ratio,
    no_hits,
    own_logit,
    partner_share,
    store_sums,
    store_tile,
    virtual_probabilities,
)


@triton.jit
def add_online(peak, total, logits, inverse_temperature):
    """Takes a chunk into each lane's own greatest logit and sum of exponentials: no reduction within the loop."""
    new_peak = tl.maximum(peak, logits)
    base = tl.where(new_peak == -float("inf"), 0.0, new_peak)
    kept = total * tl.exp((peak - base) * inverse_temperature)
    return new_peak, kept + tl.exp((logits - base) * inverse_temperature)


@triton.jit
def combine_lanes(peaks, totals, inverse_temperature):
    """A row's greatest logit and the logarithm of its sum of exponentials, out of its lanes' own."""
    peak = tl.max(peaks, 1)
    total = tl.sum(totals * tl.exp((peaks - peak[:, None]) * inverse_temperature), 1)
    return peak, tl.log(total)


@triton.jit
def read_row(
    ptr,
    row,
    label,
    counted,
    inverse_temperature,
    inverse_ce_temperature,
    ROW_STRIDE: tl.constexpr,
    COLUMN_STRIDE: tl.constexpr,
    K: tl.constexpr,
    DECOUPLED: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The label's logit and rank, then the greatest logit and the log of the sum of exponentials, twice.

    The first pair is that of the cross-entropy, the second that of KL: each at its own temperature, the second one,
    if decoupled, of the classes other than the label.
    """
    own, _ = own_logit(ptr, row, label, ROW_STRIDE, COLUMN_STRIDE, K)
    ranks = tl.zeros((1, COLUMNS), tl.float32)
    ce_peaks = tl.full((1, COLUMNS), -float("inf"), tl.float32)
    ce_totals = tl.zeros((1, COLUMNS), tl.float32)
    peaks = tl.full((1, COLUMNS), -float("inf"), tl.float32)
    totals = tl.zeros((1, COLUMNS), tl.float32)
    for start in range(0, K, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        logits = load_tile(ptr, row, columns, counted, ROW_STRIDE, COLUMN_STRIDE, K)
        ranks += ahead_of(logits, own, columns, label)
        ce_peaks, ce_totals = add_online(ce_peaks, ce_totals, logits, inverse_ce_temperature)
        if DECOUPLED:
            logits = tl.where(columns[None, :] == label[:, None], -float("inf"), logits)
        peaks, totals = add_online(peaks, totals, logits, inverse_temperature)
    ce_peak, ce_log_total = combine_lanes(ce_peaks, ce_totals, inverse_ce_temperature)
    peak, log_total = combine_lanes(peaks, totals, inverse_temperature)
    return own, tl.sum(ranks, 1), ce_peak, ce_log_total, peak, log_total


@triton.jit
def log_probabilities(logits, peak, log_total, inverse_temperature):
    log_p = (logits - peak[:, None]) * inverse_temperature - log_total[:, None]
    return log_p, tl.exp(log_p)


@triton.jit
def kl_of_agreeing(
    ptrs,
    p: tl.constexpr,  # the places of both networks
    q: tl.constexpr,
    row,
    label,
    counted,
    p_peak,
    p_log_total,
    q_peak,
    q_log_total,
    inverse_temperature,
    ROW_STRIDES: tl.constexpr,
    COLUMN_STRIDES: tl.constexpr,
    K: tl.constexpr,
    DECOUPLED: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """KL(p ‖ q) of a row once more, without a difference of logarithms."""
    lanes = tl.zeros((1, COLUMNS), tl.float32)
    for start in range(0, K, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        of_p = load_tile(ptrs[p], row, columns, counted, ROW_STRIDES[p], COLUMN_STRIDES[p], K)
        of_q = load_tile(ptrs[q], row, columns, counted, ROW_STRIDES[q], COLUMN_STRIDES[q], K)
        if DECOUPLED:
            is_label = columns[None, :] == label[:, None]
            of_p, of_q = tl.where(is_label, -float("inf"), of_p), tl.where(is_label, -float("inf"), of_q)
        d = log_ratio(of_p, p_peak, inverse_temperature, p_log_total, of_q, q_peak, inverse_temperature, q_log_total)
        _, each_p = log_probabilities(of_p, p_peak, p_log_total, inverse_temperature)
        _, each_q = log_probabilities(of_q, q_peak, q_log_total, inverse_temperature)
        lanes += divergence_terms(each_p, each_q, d)
    return tl.sum(lanes, 1)


@triton.jit(do_not_specialize=["B"])
def wide_kernel(
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
    ANCHOR_IS_TARGET: tl.constexpr,
    PARTNERS_LEARN: tl.constexpr,
    DECOUPLED: tl.constexpr,
    VIRTUAL: tl.constexpr,
    CROSS_ENTROPY: tl.constexpr,
    DETACHED: tl.constexpr,
    TAU_SQUARED: tl.constexpr,
    CHECK_LABELS: tl.constexpr,
    ROWS: tl.constexpr,  # 1
    COLUMNS: tl.constexpr,
):
    temperature = tl.load(numbers_ptr + TEMPERATURE)
    inverse_temperature = 1.0 / temperature
    tau_squared = temperature * temperature if TAU_SQUARED else 1.0
    inverse_ce_temperature = 1.0 / tl.load(numbers_ptr + CE_TEMPERATURE) if PARTNERS_LEARN else 1.0
    per_row = 1.0 / B.to(tl.float32)
    ce_slope = tl.load(numbers_ptr + ANCHOR_CE_WEIGHT) * per_row * inverse_ce_temperature
    pair_slope = tl.load(numbers_ptr + PAIR_WEIGHT) * per_row * tau_squared * inverse_temperature
    third_weight = load_third_weight(numbers_ptr, PARTNERS_LEARN, DECOUPLED) * per_row

    counted_rows = tl.zeros((ROWS,), tl.float32)
    anchor_ces = tl.zeros((ROWS,), tl.float32)
    pairs = tl.zeros((ROWS,), tl.float32)
    thirds = tl.zeros((ROWS,), tl.float32)
    hits = no_hits(1 + PARTNERS if PARTNERS_LEARN else 1, ROWS)
    for block in range(tl.program_id(0), B, tl.num_programs(0)):
        row = tl.zeros((ROWS,), tl.int64) + block
        exists = row < B
        label, counted = load_labels(labels_ptr, row, B, IGNORE_INDEX, K, CHECK_LABELS)
        counted_rows += counted.to(tl.float32)

        # Sums over whole rows come first: every gradient needs them.
        own, rank, p_peak, p_log_total, a_peak, a_log_total = read_row(
            logits_ptrs[0],
            row,
            label,
            counted,
            inverse_temperature,
            inverse_ce_temperature,
            ROW_STRIDES[0],
            COLUMN_STRIDES[0],
            K,
            DECOUPLED,
            COLUMNS,
        )
        hits = add_hits(hits, 0, counted, own, rank)
        log_p_label = (own - p_peak) * inverse_ce_temperature - p_log_total
        anchor_ces -= tl.where(counted, log_p_label, 0.0)
        pair = tl.zeros((ROWS,), tl.float32)
        third = tl.zeros((ROWS,), tl.float32)
        excess = tl.zeros((ROWS,), tl.float32)
        partners = ()
        for i in tl.static_range(1, PARTNERS + 1):
            share = partner_share(shares_ptr, i - 1, row, counted, PARTNERS, SHARE_ROW_STRIDE, SHARE_COLUMN_STRIDE)
            own_b, rank, q_peak, q_log_total, b_peak, b_log_total = read_row(
                logits_ptrs[i],
                row,
                label,
                counted,
                inverse_temperature,
                inverse_ce_temperature,
                ROW_STRIDES[i],
                COLUMN_STRIDES[i],
                K,
                DECOUPLED,
                COLUMNS,
            )
            if PARTNERS_LEARN:
                hits = add_hits(hits, i, counted, own_b, rank)
                third -= ((own_b - q_peak) * inverse_ce_temperature - q_log_total) * (1.0 / PARTNERS)
            if DECOUPLED:
                a_margin = (own - a_peak) * inverse_temperature - a_log_total
                b_margin = (own_b - b_peak) * inverse_temperature - b_log_total
                target_kl, excess = binary_kl(b_margin, a_margin)
                pair += share * tau_squared * target_kl

            kl_lanes = tl.zeros((ROWS, COLUMNS), tl.float32)
            for start in range(0, K, COLUMNS):
                columns = start + tl.arange(0, COLUMNS)
                is_label = columns[None, :] == label[:, None]
                anchor = load_tile(logits_ptrs[0], row, columns, counted, ROW_STRIDES[0], COLUMN_STRIDES[0], K)
                partner = load_tile(logits_ptrs[i], row, columns, counted, ROW_STRIDES[i], COLUMN_STRIDES[i], K)
                if DECOUPLED:
                    anchor = tl.where(is_label, -float("inf"), anchor)
                    partner = tl.where(is_label, -float("inf"), partner)
                log_a, a = log_probabilities(anchor, a_peak, a_log_total, inverse_temperature)
                log_b, b = log_probabilities(partner, b_peak, b_log_total, inverse_temperature)
                kl_lanes += kl_terms(log_a, a, log_b) if ANCHOR_IS_TARGET else kl_terms(log_b, b, log_a)
            kl = tl.sum(kl_lanes, 1)
            if tl.min(kl) < AGREEMENT:
                kl = kl_of_agreeing(
                    logits_ptrs,
                    0 if ANCHOR_IS_TARGET else i,
                    i if ANCHOR_IS_TARGET else 0,
                    row,
                    label,
                    counted,
                    a_peak if ANCHOR_IS_TARGET else b_peak,
                    a_log_total if ANCHOR_IS_TARGET else b_log_total,
                    b_peak if ANCHOR_IS_TARGET else a_peak,
                    b_log_total if ANCHOR_IS_TARGET else a_log_total,
                    inverse_temperature,
                    ROW_STRIDES,
                    COLUMN_STRIDES,
                    K,
                    DECOUPLED,
                    COLUMNS,
                )
            if DECOUPLED:
                third += share * tau_squared * kl
            else:
                pair += share * tau_squared * kl
            partners = partners + ((share, kl, q_peak, q_log_total, b_peak, b_log_total),)  # noqa: RUF005 - Triton does not unpack

        if VIRTUAL != "":
            q_label, q_other = virtual_probabilities(numbers_ptr, K, VIRTUAL, CROSS_ENTROPY)
            others_lanes = tl.zeros((ROWS, COLUMNS), tl.float32)
            for start in range(0, K, COLUMNS):
                columns = start + tl.arange(0, COLUMNS)
                anchor = load_tile(logits_ptrs[0], row, columns, counted, ROW_STRIDES[0], COLUMN_STRIDES[0], K)
                log_p, p = log_probabilities(anchor, p_peak, p_log_total, inverse_ce_temperature)
                skipped = (columns[None, :] == label[:, None]) | (columns[None, :] >= K)
                others_lanes += tl.where(skipped, 0.0, log_p)
            pair += cross_entropy_of_two(q_label, q_other, log_p_label, tl.sum(others_lanes, 1))
            if not CROSS_ENTROPY:
                pair -= entropy_of_two(q_label, q_other, K)
        pairs += tl.where(counted, pair, 0.0)
        thirds += tl.where(counted, third, 0.0)

        for start in range(0, K, COLUMNS):
            columns = start + tl.arange(0, COLUMNS)
            is_label = columns[None, :] == label[:, None]
            anchor = load_tile(logits_ptrs[0], row, columns, counted, ROW_STRIDES[0], COLUMN_STRIDES[0], K)
            log_p, p = log_probabilities(anchor, p_peak, p_log_total, inverse_ce_temperature)
            gradient = ce_slope * (p - is_label)
            if VIRTUAL != "":
                gradient += tl.load(numbers_ptr + PAIR_WEIGHT) * per_row * (p - tl.where(is_label, q_label, q_other))
            if DECOUPLED:
                anchor = tl.where(is_label, -float("inf"), anchor)
            log_a, a = log_probabilities(anchor, a_peak, a_log_total, inverse_temperature)
            for i in tl.static_range(1, PARTNERS + 1):
                share, kl, q_peak, q_log_total, b_peak, b_log_total = partners[i - 1]
                slope = (pair_slope * share)[:, None]
                partner = load_tile(logits_ptrs[i], row, columns, counted, ROW_STRIDES[i], COLUMN_STRIDES[i], K)
                if DECOUPLED:
                    others = tl.where(is_label, -float("inf"), partner)
                    log_b, b = log_probabilities(others, b_peak, b_log_total, inverse_temperature)
                    gradient += slope * excess[:, None] * (is_label - a)
                    gradient += third_weight * share[:, None] * tau_squared * inverse_temperature * (a - b)
                else:
                    log_b, b = log_probabilities(partner, b_peak, b_log_total, inverse_temperature)
                    if ANCHOR_IS_TARGET:
                        anchor_part = kl_terms(log_a, a, log_b) - a * kl[:, None]
                        partner_part = b - a
                    else:
                        anchor_part = a - b
                        partner_part = kl_terms(log_b, b, log_a) - b * kl[:, None]
                    if not DETACHED:
                        gradient += slope * anchor_part
                    if gradient_ptrs[i] is not None:
                        _, q = log_probabilities(partner, q_peak, q_log_total, inverse_ce_temperature)
                        weight = third_weight * inverse_ce_temperature * (1.0 / PARTNERS)
                        partner_gradient = slope * partner_part + weight * (q - is_label)
                        partner_gradient = tl.where(counted[:, None], partner_gradient, 0.0)
                        store_tile(gradient_ptrs[i], partner_gradient, row, columns, exists, K)
            if gradient_ptrs[0] is not None:
                store_tile(gradient_ptrs[0], tl.where(counted[:, None], gradient, 0.0), row, columns, exists, K)
    store_sums(sums_ptr, counted_rows, anchor_ces, pairs, thirds, hits)
