"""The kernel for rows that fit into registers: every logit is read once, every gradient written once.

One network is the *anchor*, the others are its *partners*: SFTN's teacher and its branches, a student and its teachers.
The anchor's row and its gradient stay in registers while the partners pass one at a time, so their number is free.

A row costs two reductions, its greatest logit and then all of its sums at once, because they and not the arithmetic are
what a row waits for. KL needs no normalised probabilities: with u = z/τ − max, log p = u − log Σ exp u, so that
KL(p ‖ q) = Σ p (u_p − u_q) − log Σ exp u_p + log Σ exp u_q, and in its gradient the logarithms cancel. That errs by
about 1e-7 whatever KL is; where it is small, as at a high temperature, whose square enlarges both, `divergence_terms`
are added up in its place: for every row they would cost a third more instructions. Exponents are in bits: exp x =
exp2(x / ln 2).
"""

import triton
import triton.language as tl

from fastkd.ops.distill_loss.kernel_parts import (
    AGREEMENT,
    ANCHOR_CE_WEIGHT,
    CE_TEMPERATURE,
    LN_2,
    LOG2_E,
    PAIR_WEIGHT,
    TEMPERATURE,
    add_hits,
    ahead_of,
    below_peak,
    binary_kl,
    cross_entropy_of_two,
    divergence_terms,
    entropy_of_two,
    kl_gaps,
    load_labels,
    load_third_weight,
    load_tile,
    no_hits,
    own_logit,
    partner_share,
    row_sums,
    row_sums_of_four,
    store_sums,
    store_tile,
    virtual_probabilities,
)


@triton.jit(do_not_specialize=["B"])
def rows_kernel(
    logits_ptrs,  # anchor, partners
    gradient_ptrs,  # in the same order; None if not wanted
    labels_ptr,
    numbers_ptr,
    shares_ptr,  # [PARTNERS, B] or None
    sums_ptr,  # [4 + 2 a network, programs]
    B,
    K: tl.constexpr,
    ROW_STRIDES: tl.constexpr,  # of the logits
    COLUMN_STRIDES: tl.constexpr,
    SHARE_ROW_STRIDE: tl.constexpr,
    SHARE_COLUMN_STRIDE: tl.constexpr,
    PARTNERS: tl.constexpr,
    IGNORE_INDEX: tl.constexpr,
    ANCHOR_IS_TARGET: tl.constexpr,  # KL(anchor ‖ partner), else KL(partner ‖ anchor)
    PARTNERS_LEARN: tl.constexpr,  # partners have a cross-entropy and hits
    DECOUPLED: tl.constexpr,  # DKD's two parts instead of KL
    VIRTUAL: tl.constexpr,  # "", "plain", "spread" or "softened": a teacher of two numbers
    CROSS_ENTROPY: tl.constexpr,  # cross-entropy with the virtual teacher instead of KL
    DETACHED: tl.constexpr,  # the pair term sends no gradient to the anchor
    TAU_SQUARED: tl.constexpr,
    CHECK_LABELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SHARED: tl.constexpr,  # several warps share a row
    STAGES: tl.constexpr,  # stages of the loop over samples: 3 load the next ones while these are computed
):
    temperature = tl.load(numbers_ptr + TEMPERATURE)
    tau_squared = temperature * temperature if TAU_SQUARED else 1.0
    inverse_temperature = 1.0 / temperature
    inverse_ce_temperature = 1.0 / tl.load(numbers_ptr + CE_TEMPERATURE) if PARTNERS_LEARN else 1.0
    scale, ce_scale = inverse_temperature * LOG2_E, inverse_ce_temperature * LOG2_E
    per_row = 1.0 / B.to(tl.float32)
    ce_slope = tl.load(numbers_ptr + ANCHOR_CE_WEIGHT) * per_row * inverse_ce_temperature
    pair_slope = tl.load(numbers_ptr + PAIR_WEIGHT) * per_row * tau_squared * inverse_temperature
    third_slope = load_third_weight(numbers_ptr, PARTNERS_LEARN, DECOUPLED) * per_row

    columns = tl.arange(0, COLUMNS)
    rows = tl.arange(0, ROWS)
    counted_rows = tl.zeros((ROWS,), tl.float32)
    anchor_ces = tl.zeros((ROWS,), tl.float32)
    pairs = tl.zeros((ROWS,), tl.float32)
    thirds = tl.zeros((ROWS,), tl.float32)
    hits = no_hits(1 + PARTNERS if PARTNERS_LEARN else 1, ROWS)
    programs = tl.num_programs(0)
    for block in tl.range(tl.program_id(0), tl.cdiv(B, ROWS), programs, num_stages=STAGES):
        row = (block * ROWS + rows).to(tl.int64)
        exists = row < B
        # Not carried from round to round: it decides what is copied ahead, and Triton would wait for each copy at once.
        label, counted = load_labels(labels_ptr, row, B, IGNORE_INDEX, K, CHECK_LABELS)
        weight = counted.to(tl.float32)  # 0 for a row whose label is ignored
        anchor = load_tile(logits_ptrs[0], row, columns, counted, ROW_STRIDES[0], COLUMN_STRIDES[0], K)
        own, known_label = own_logit(logits_ptrs[0], row, label, ROW_STRIDES[0], COLUMN_STRIDES[0], K)

        is_label = columns[None, :] == known_label[:, None]
        p_below, p_peak = below_peak(anchor)
        p = tl.exp2(p_below * ce_scale)
        ahead = ahead_of(anchor, own, columns, known_label)
        if PARTNERS > 0:
            a_below, a_peak = below_peak(tl.where(is_label, -float("inf"), anchor)) if DECOUPLED else (p_below, p_peak)
            a_bits = a_below * scale
            a = tl.exp2(a_bits)
            p_total, rank, a_total, _ = row_sums_of_four(p, ahead, a, a, SHARED)
            a *= (1.0 / a_total)[:, None]
        else:
            below_others = tl.where(is_label | (columns[None, :] >= K), 0.0, p_below)
            p_total, rank, others, _ = row_sums_of_four(p, ahead, below_others, below_others, SHARED)
        p_log_total = tl.log2(p_total) * LN_2
        log_p_label = (own - p_peak) * inverse_ce_temperature - p_log_total
        slope = ce_slope * weight
        pair = tl.zeros((ROWS,), tl.float32)
        third = tl.zeros((ROWS,), tl.float32)

        if VIRTUAL != "":
            q_label, q_other = virtual_probabilities(numbers_ptr, K, VIRTUAL, CROSS_ENTROPY)
            pair += cross_entropy_of_two(q_label, q_other, log_p_label, others - (K - 1) * p_log_total)
            if not CROSS_ENTROPY:
                pair -= entropy_of_two(q_label, q_other, K)
            virtual_slope = tl.load(numbers_ptr + PAIR_WEIGHT) * per_row * weight
            targets = tl.where(is_label, (slope + virtual_slope * q_label)[:, None], (virtual_slope * q_other)[:, None])
            slope += virtual_slope
        else:
            targets = tl.where(is_label, slope[:, None], 0.0)
        gradient = p * (slope / p_total)[:, None] - targets

        for i in tl.static_range(1, PARTNERS + 1):
            partner = load_tile(logits_ptrs[i], row, columns, counted, ROW_STRIDES[i], COLUMN_STRIDES[i], K)
            share = partner_share(shares_ptr, i - 1, row, counted, PARTNERS, SHARE_ROW_STRIDE, SHARE_COLUMN_STRIDE)
            slope = pair_slope * share * weight
            own_partner, known_label = own_logit(logits_ptrs[i], row, label, ROW_STRIDES[i], COLUMN_STRIDES[i], K)
            is_label = columns[None, :] == known_label[:, None]
            b_below, b_peak = below_peak(tl.where(is_label, -float("inf"), partner) if DECOUPLED else partner)
            b_bits = b_below * scale
            b = tl.exp2(b_bits)
            gap = kl_gaps(a_bits, b_bits) if ANCHOR_IS_TARGET else kl_gaps(b_bits, a_bits)
            weighted = gap * (a if ANCHOR_IS_TARGET else b)
            if PARTNERS_LEARN:
                q = tl.exp2(b_below * ce_scale)
                ahead = ahead_of(partner, own_partner, columns, known_label)
                b_total, mean_gap, q_total, rank_partner = row_sums_of_four(b, weighted, q, ahead, SHARED)
            else:
                b_total, mean_gap = row_sums(b, weighted, SHARED)
            mean_gap = mean_gap + 0.0 * b_total if ANCHOR_IS_TARGET else mean_gap / b_total  # NaN comes from the total
            excess_total = tl.log2(a_total / b_total)
            kl = (mean_gap - excess_total if ANCHOR_IS_TARGET else mean_gap + excess_total) * LN_2
            gap -= mean_gap[:, None]
            inverse_total = 1.0 / b_total
            difference = b * inverse_total[:, None] - a

            if DECOUPLED:
                a_margin = (own - a_peak) * inverse_temperature - tl.log2(a_total) * LN_2
                b_margin = (own_partner - b_peak) * inverse_temperature - tl.log2(b_total) * LN_2
                target_kl, excess = binary_kl(b_margin, a_margin)
                pair += share * tau_squared * target_kl
                others_slope = third_slope * share * tau_squared * inverse_temperature * weight
                gradient += (slope * excess)[:, None] * (is_label - a) - others_slope[:, None] * difference
            else:
                skewed = (slope * LN_2)[:, None] * gap
                if not DETACHED:
                    gradient += a * skewed if ANCHOR_IS_TARGET else -slope[:, None] * difference

            if PARTNERS_LEARN:
                hits = add_hits(hits, i, counted, own_partner, rank_partner)
                log_q_label = (own_partner - b_peak) * inverse_ce_temperature - tl.log2(q_total) * LN_2
                third -= log_q_label * (1.0 / PARTNERS)
                if gradient_ptrs[i] is not None:
                    q_slope = third_slope * inverse_ce_temperature * (1.0 / PARTNERS) * weight
                    partner_gradient = q * (q_slope / q_total)[:, None] - tl.where(is_label, q_slope[:, None], 0.0)
                    if ANCHOR_IS_TARGET:
                        partner_gradient += slope[:, None] * difference
                    else:
                        partner_gradient += b * inverse_total[:, None] * skewed
                    store_tile(gradient_ptrs[i], partner_gradient, row, columns, exists, K)

            if tl.min(kl) < AGREEMENT:  # the last, since it takes registers
                b_share, d = b * inverse_total[:, None], gap * -LN_2 - kl[:, None]
                terms = divergence_terms(a, b_share, d) if ANCHOR_IS_TARGET else divergence_terms(b_share, a, d)
                kl = tl.where(kl < AGREEMENT, tl.sum(terms, 1), kl)
            if DECOUPLED:
                third += share * tau_squared * kl
            else:
                pair += share * tau_squared * kl

        if gradient_ptrs[0] is not None:
            store_tile(gradient_ptrs[0], gradient, row, columns, exists, K)
        hits = add_hits(hits, 0, counted, own, rank)
        counted_rows += weight
        anchor_ces -= tl.where(counted, log_p_label, 0.0)
        pairs += tl.where(counted, pair, 0.0)
        thirds += tl.where(counted, third, 0.0)
    store_sums(sums_ptr, counted_rows, anchor_ces, pairs, thirds, hits)
