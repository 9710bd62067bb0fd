"""The kernel for rows that fit into registers: every logit is read once, every gradient written once.

One network is the *anchor*, the others are its *partners*: SFTN's teacher and its branches, a student and its teachers.
The anchor's row and its gradient stay in registers while the partners pass one at a time, so their number is free.
"""

import triton
import triton.language as tl

from fastkd.ops.distill_loss.pieces import (
    ANCHOR_CE,
    ANCHOR_CE_WEIGHT,
    CE_TEMPERATURE,
    COUNTED_ROWS,
    PAIR,
    PAIR_WEIGHT,
    TEMPERATURE,
    THIRD,
    THIRD_PART,
    ahead_of,
    binary_kl,
    count_rows,
    cross_entropy_of_two,
    entropy_of_two,
    kl_terms,
    load_labels,
    load_tile,
    log_softmax,
    partner_share,
    store_hits,
    store_sum,
    store_tile,
    virtual_probabilities,
)


@triton.jit(do_not_specialize=["B"])
def rows_kernel(
    logits_ptrs,  # anchor, partners
    gradient_ptrs,  # the same order; None: not wanted
    labels_ptr,
    settings_ptr,
    shares_ptr,  # [PARTNERS, B] or None
    sums_ptr,  # [4 + 2 a network, blocks of ROWS samples]
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
    CROSS_ENTROPY: tl.constexpr,  # of the virtual teacher, instead of KL
    DETACHED: tl.constexpr,  # the pair term sends no gradient to the anchor
    TAU_SQUARED: tl.constexpr,
    CHECK_LABELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    temperature = tl.load(settings_ptr + TEMPERATURE)
    inverse_temperature = 1.0 / temperature
    tau_squared = temperature * temperature if TAU_SQUARED else 1.0
    inverse_ce_temperature = 1.0 / tl.load(settings_ptr + CE_TEMPERATURE) if PARTNERS_LEARN else 1.0
    per_row = 1.0 / count_rows(labels_ptr, B, IGNORE_INDEX)
    ce_slope = tl.load(settings_ptr + ANCHOR_CE_WEIGHT) * per_row * inverse_ce_temperature
    pair_slope = tl.load(settings_ptr + PAIR_WEIGHT) * per_row * tau_squared * inverse_temperature

    columns = tl.arange(0, COLUMNS)
    blocks = tl.cdiv(B, ROWS)
    for block in range(tl.program_id(0), blocks, tl.num_programs(0)):
        rows = block * ROWS + tl.arange(0, ROWS)
        exists = rows < B
        row = tl.minimum(rows, B - 1).to(tl.int64)
        label, counted = load_labels(labels_ptr, row, IGNORE_INDEX, K, CHECK_LABELS)
        counted &= exists
        store_sum(sums_ptr, COUNTED_ROWS, blocks, block, counted, 1.0)
        is_label = columns[None, :] == label[:, None]

        anchor = load_tile(logits_ptrs[0], row, columns, ROW_STRIDES[0], COLUMN_STRIDES[0], K)
        own = tl.sum(tl.where(is_label, anchor, 0.0), 1)
        store_hits(sums_ptr, 0, blocks, block, counted, own, tl.sum(ahead_of(anchor, own, columns, label), 1))
        log_p, p, _, _ = log_softmax(anchor, inverse_ce_temperature)
        log_p_label = tl.sum(tl.where(is_label, log_p, 0.0), 1)
        store_sum(sums_ptr, ANCHOR_CE, blocks, block, counted, -log_p_label)
        gradient = ce_slope * (p - is_label)
        pair = tl.zeros((ROWS,), tl.float32)
        third = tl.zeros((ROWS,), tl.float32)

        if VIRTUAL != "":
            q_label, q_other = virtual_probabilities(settings_ptr, K, VIRTUAL)
            others = tl.sum(tl.where(is_label | (columns[None, :] >= K), 0.0, log_p), 1)
            pair += cross_entropy_of_two(q_label, q_other, log_p_label, others)
            if not CROSS_ENTROPY:
                pair -= entropy_of_two(q_label, q_other, K)
            gradient += tl.load(settings_ptr + PAIR_WEIGHT) * per_row * (p - tl.where(is_label, q_label, q_other))

        if PARTNERS > 0:
            soft_anchor = tl.where(is_label, -float("inf"), anchor) if DECOUPLED else anchor
            log_a, a, a_peak, a_log_total = log_softmax(soft_anchor, inverse_temperature)
        for i in tl.static_range(1, PARTNERS + 1):
            if COLUMNS > 2048:
                tl.debug_barrier()  # else the rows of all partners are loaded ahead, into registers that spill
            partner = load_tile(logits_ptrs[i], row, columns, ROW_STRIDES[i], COLUMN_STRIDES[i], K)
            share = partner_share(shares_ptr, i - 1, row, PARTNERS, SHARE_ROW_STRIDE, SHARE_COLUMN_STRIDE)
            slope = (pair_slope * share)[:, None]
            own_partner = tl.sum(tl.where(is_label, partner, 0.0), 1)
            soft_partner = tl.where(is_label, -float("inf"), partner) if DECOUPLED else partner
            log_b, b, b_peak, b_log_total = log_softmax(soft_partner, inverse_temperature)

            if DECOUPLED:
                a_margin = (own - a_peak) * inverse_temperature - a_log_total
                b_margin = (own_partner - b_peak) * inverse_temperature - b_log_total
                target_kl, excess = binary_kl(b_margin, a_margin)
                pair += tau_squared * target_kl
                third += tau_squared * tl.sum(kl_terms(log_b, b, log_a), 1)
                others_slope = tl.load(settings_ptr + THIRD) * per_row * tau_squared * inverse_temperature
                gradient += slope * excess[:, None] * (is_label - a) + others_slope * (a - b)
            elif ANCHOR_IS_TARGET:
                terms = kl_terms(log_a, a, log_b)
                kl = tl.sum(terms, 1)
                pair += share * tau_squared * kl
                if not DETACHED:  # the difference first: where logits are huge it cancels exactly
                    gradient += slope * (terms - a * kl[:, None])
                partner_gradient = slope * (b - a)
            else:
                terms = kl_terms(log_b, b, log_a)
                kl = tl.sum(terms, 1)
                pair += share * tau_squared * kl
                if not DETACHED:
                    gradient += slope * (a - b)
                partner_gradient = slope * (terms - b * kl[:, None])

            if PARTNERS_LEARN:
                rank = tl.sum(ahead_of(partner, own_partner, columns, label), 1)
                store_hits(sums_ptr, i, blocks, block, counted, own_partner, rank)
                log_p, p, _, _ = log_softmax(partner, inverse_ce_temperature)
                third -= tl.sum(tl.where(is_label, log_p, 0.0), 1) * (1.0 / PARTNERS)
                if gradient_ptrs[i] is not None:
                    weight = tl.load(settings_ptr + THIRD) * per_row * inverse_ce_temperature * (1.0 / PARTNERS)
                    partner_gradient += weight * (p - is_label)
                    partner_gradient = tl.where(counted[:, None], partner_gradient, 0.0)
                    store_tile(gradient_ptrs[i], partner_gradient, row, columns, exists, K)

        store_sum(sums_ptr, PAIR, blocks, block, counted, pair)
        store_sum(sums_ptr, THIRD_PART, blocks, block, counted, third)
        if gradient_ptrs[0] is not None:
            store_tile(gradient_ptrs[0], tl.where(counted[:, None], gradient, 0.0), row, columns, exists, K)
