"""The kernel for a teacher that is some kept classes of a row, one row a program.

The student's row is read twice, in chunks: for its normalisers, and for the gradient of the classes that were not kept.
Those that were are gathered once, compared in registers, and their gradients stored last. What the others have together
is summed over them alone: the difference of two sums would lose it where the student is sure.
"""

import triton
import triton.language as tl

from fastkd.ops.distill_loss.kernel_parts import divergence_terms, kl_gaps
from fastkd.ops.row_loss.kernel_parts import (
    CE_WEIGHT,
    LN_2,
    LOG2_E,
    LOGIT_SCALE,
    MISS,
    MIXTURE,
    PAIR_WEIGHT,
    SOFTCAP,
    TEMPERATURE,
    ahead_of,
    below,
    load_label,
    load_logits,
    load_numbers,
    load_own,
    mixture_parts,
    place_of_rows,
    raised,
    row_pointers,
    slope_of,
    store_row,
    transformed,
    weighed,
)


@triton.jit
def is_kept(kept, start, COLUMNS: tl.constexpr):
    """[1,COLUMNS]: which classes of a chunk are among the kept ones [KEPT]."""
    place = kept - start
    inside = (place >= 0) & (place < COLUMNS)
    return tl.histogram(tl.where(inside, place, 0), COLUMNS, mask=inside)[None, :] > 0


@triton.jit
def terms_and_pulls(log_p, log_q, beta, DIVERGENCE: tl.constexpr, SUMS_TO_ONE: tl.constexpr):
    """What each class adds to the divergence, what its derivative is made of, p and q.

    Logarithms are in bits, results in nats. The derivative by a class's logit is pull − q Σ pull, and q Σ p − p for
    the forward divergence. SUMS_TO_ONE: whether p does, but for rounding, which KL then leaves out.
    """
    if DIVERGENCE == "jsd":
        term, pull, p, q = mixture_parts(log_p, log_q, beta)
    else:
        p, q = tl.exp2(log_p), tl.exp2(log_q)
        forward: tl.constexpr = DIVERGENCE == "forward"
        pull = weighed(p, (log_p - log_q) * LN_2) if forward else weighed(q, (log_q - log_p) * LN_2)
        term = pull
        if SUMS_TO_ONE and forward:
            term = divergence_terms(p, q, -LN_2 * kl_gaps(log_p, log_q))
        if SUMS_TO_ONE and not forward:
            term = divergence_terms(q, p, -LN_2 * kl_gaps(log_q, log_p))
    return term, pull, p, q


@triton.jit(do_not_specialize=["batches", "R"])
def kept_kernel(
    student_ptr,
    gradient_ptr,
    kept_ptr,  # [N,KEPT]
    log_probs_ptr,  # [N,KEPT]
    log_rest_ptr,  # [N]
    labels_ptr,
    shares_ptr,
    weights_ptr,
    numbers_ptr,
    losses_ptr,
    parts_ptr,
    ranks_ptr,
    batches,
    R,
    K: tl.constexpr,
    KEPT: tl.constexpr,
    STUDENT: tl.constexpr,
    GRADIENT: tl.constexpr,
    SHARES: tl.constexpr,
    TEACHER: tl.constexpr,  # "renormalised", "lumped" or "sampled"
    LABELS: tl.constexpr,
    DIVERGENCE: tl.constexpr,
    TAU_SQUARED: tl.constexpr,
    CAPPED: tl.constexpr,
    IN_PLACE: tl.constexpr,
    CHECK_LABELS: tl.constexpr,
    ROWS: tl.constexpr,  # 1
    COLUMNS: tl.constexpr,
    PADDED: tl.constexpr,  # of KEPT
):
    scale, cap = tl.load(numbers_ptr + LOGIT_SCALE), tl.load(numbers_ptr + SOFTCAP)
    temperature, beta = tl.load(numbers_ptr + TEMPERATURE), tl.load(numbers_ptr + MIXTURE)
    tau_squared = temperature * temperature if TAU_SQUARED else 1.0
    bits = LOG2_E / temperature
    slots = tl.arange(0, PADDED)
    for block in range(tl.program_id(0), batches * R, tl.num_programs(0)):
        row, batch, inner, exists = place_of_rows(block, R, ROWS)
        weight = tl.load(weights_ptr + row, mask=exists, other=0.0)
        counts = weight != 0
        students = row_pointers(student_ptr, batch, inner, STUDENT)
        used = counts[:, None] & (slots[None, :] < KEPT)
        kept = tl.load(kept_ptr + row[:, None] * KEPT + slots[None, :], mask=used, other=-1).to(tl.int32)
        used = kept >= 0
        log_p = tl.load(log_probs_ptr + row[:, None] * KEPT + slots[None, :], mask=used, other=-float("inf"))
        log_p = log_p.to(tl.float32) * LOG2_E
        kept_places = tl.where(used, kept, 0).to(tl.int64)
        raw = tl.load(students[:, None] + kept_places * STUDENT[2], mask=used, other=0.0).to(tl.float32)
        ready = transformed(raw, scale, cap, CAPPED)

        peak = tl.full((ROWS,), -float("inf"), tl.float32)
        rank = tl.zeros((ROWS,), tl.int32) + K + MISS
        ce_lanes = tl.zeros((ROWS, COLUMNS), tl.float32)
        rank_lanes = tl.zeros((ROWS, COLUMNS), tl.int32)
        rest_lanes = tl.zeros((ROWS, COLUMNS), tl.float32)
        share_lanes = tl.zeros((ROWS, COLUMNS), tl.float32)
        product_lanes = tl.zeros((ROWS, COLUMNS), tl.float32)
        if LABELS != "none":
            label = load_label(labels_ptr, row, counts, K, CHECK_LABELS)
            own = load_own(students, label, STUDENT, K)
        if LABELS == "probabilities":
            shares = row_pointers(shares_ptr, batch, inner, SHARES)
        if LABELS != "none" or TEACHER != "renormalised":
            for start in range(0, K, COLUMNS):
                columns = start + tl.arange(0, COLUMNS)
                z, raw_z = load_logits(students, columns, counts, scale, cap, STUDENT, K, CAPPED)
                peak, drop = raised(peak, z)
                z = below(z, peak)
                if LABELS != "none":
                    ce_lanes = ce_lanes * tl.exp2(drop * LOG2_E)[:, None] + tl.exp2(z * LOG2_E)
                    rank_lanes += tl.where(columns[None, :] < K, ahead_of(raw_z, own, columns, label), 0)
                if LABELS == "probabilities":
                    share = load_numbers(shares, columns, counts, 0.0, SHARES, K)
                    product_lanes += share_lanes * drop[:, None] + weighed(share, z)
                    share_lanes += share
                if TEACHER != "renormalised":
                    others = tl.where(is_kept(tl.reshape(kept, (PADDED,)), start, COLUMNS), 0.0, tl.exp2(z * bits))
                    rest_lanes = rest_lanes * tl.exp2(drop * bits)[:, None] + others

        ce = tl.zeros((ROWS,), tl.float32)
        ce_log_total = tl.zeros((ROWS,), tl.float32)
        target_total = tl.full((ROWS,), 1.0, tl.float32)
        if LABELS != "none":
            ce_log_total = tl.log(tl.sum(ce_lanes, 1))
            rank = tl.where(own == own, tl.sum(rank_lanes, 1), rank)
        if LABELS == "classes":
            ce = ce_log_total - (transformed(own, scale, cap, CAPPED) - peak)
        if LABELS == "probabilities":
            target_total = tl.sum(share_lanes, 1)
            ce = weighed(target_total, ce_log_total) - tl.sum(product_lanes, 1)

        # The reduced problem: the kept classes in registers, and one more class, `rest`. Logarithms are above `base`.
        base = tl.max(tl.where(used, ready, -float("inf")), 1) if TEACHER == "renormalised" else peak
        own_bits = tl.where(used, below(ready, base) * bits, -float("inf"))
        own_total = tl.sum(tl.exp2(own_bits), 1)
        log_total = tl.log2(own_total)
        rest_log = tl.full((ROWS,), -float("inf"), tl.float32)
        p_rest_log = tl.full((ROWS,), -float("inf"), tl.float32)
        if TEACHER == "renormalised":
            p_peak = tl.max(log_p, 1)
            log_p -= (tl.log2(tl.sum(tl.exp2(below(log_p, p_peak)), 1)) + p_peak)[:, None]
        else:
            rest_total = tl.sum(rest_lanes, 1)
            rest_log = tl.log2(rest_total)
            log_total = tl.log2(own_total + rest_total)
        if TEACHER == "lumped":
            p_rest_log = tl.load(log_rest_ptr + row, mask=counts, other=-float("inf")).to(tl.float32) * LOG2_E
        log_q = tl.where(used, own_bits - log_total[:, None], -float("inf"))
        log_p = tl.where(used, log_p, -float("inf"))
        sums_to_one: tl.constexpr = TEACHER != "sampled"
        term, pull, p, q = terms_and_pulls(log_p, log_q, beta, DIVERGENCE, sums_to_one)
        rest_term, rest_pull, p_rest, q_rest = terms_and_pulls(
            p_rest_log, rest_log - log_total, beta, DIVERGENCE, sums_to_one
        )
        divergence = tl.sum(term, 1) + rest_term
        mean, p_mass = tl.sum(pull, 1) + rest_pull, tl.sum(p, 1) + p_rest
        forward_pull, forward_rest_pull = q * p_mass[:, None] - p, q_rest * p_mass - p_rest
        pull -= q * mean[:, None]
        rest_pull -= q_rest * mean
        if DIVERGENCE == "forward":
            pull, rest_pull = forward_pull, forward_rest_pull
        elif DIVERGENCE == "jsd":
            pull = tl.where(beta == 0.0, forward_pull, pull)
            rest_pull = tl.where(beta == 0.0, forward_rest_pull, rest_pull)
        divergence *= tau_squared
        store_row(losses_ptr, parts_ptr, ranks_ptr, row, exists, weight, ce, divergence, rank, numbers_ptr, batches * R)

        if gradient_ptr is not None:
            gradients = row_pointers(gradient_ptr, batch, inner, GRADIENT)
            pair_slope = (tl.load(numbers_ptr + PAIR_WEIGHT) * tau_squared / temperature) * weight
            ce_slope = tl.load(numbers_ptr + CE_WEIGHT) * weight
            rest_slope = tl.where(rest_log == -float("inf"), 0.0, pair_slope * rest_pull)
            rest_base = tl.where(rest_log == -float("inf"), 0.0, rest_log)
            for start in range(0, K, COLUMNS):
                columns = start + tl.arange(0, COLUMNS)
                full, _ = load_logits(students, columns, counts, scale, cap, STUDENT, K, CAPPED)
                gradient = tl.zeros((ROWS, COLUMNS), tl.float32)
                if TEACHER != "renormalised":  # a kept class may be above all others: what it gets here is not kept
                    share_of_rest = tl.exp2(tl.minimum(below(full, base) * bits - rest_base[:, None], 0.0))
                    gradient += rest_slope[:, None] * share_of_rest
                if LABELS != "none":
                    q1 = tl.exp2((below(full, peak) - ce_log_total[:, None]) * LOG2_E) * target_total[:, None]
                    if LABELS == "classes":
                        target = (columns[None, :] == label[:, None]).to(tl.float32)
                    else:
                        target = load_numbers(shares, columns, counts, 0.0, SHARES, K)
                    gradient += ce_slope[:, None] * (q1 - target)
                gradient = tl.where(counts[:, None], gradient * slope_of(full, scale, cap, CAPPED), 0.0)
                if IN_PLACE:
                    tl.debug_barrier()
                places = gradients[:, None] + (columns.to(tl.int64) * GRADIENT[2])[None, :]
                mask = exists[:, None] & (columns[None, :] < K)
                tl.store(places, gradient.to(gradient_ptr.dtype.element_ty), mask=mask)
            final = pair_slope[:, None] * pull
            if LABELS != "none":
                q1 = tl.exp2((below(ready, peak) - ce_log_total[:, None]) * LOG2_E) * target_total[:, None]
                if LABELS == "classes":
                    target = (kept == label[:, None]).to(tl.float32)
                else:
                    target = tl.load(shares[:, None] + kept_places * SHARES[2], mask=used, other=0.0).to(tl.float32)
                final += ce_slope[:, None] * (q1 - target)
            final *= slope_of(ready, scale, cap, CAPPED)
            tl.debug_barrier()  # other threads have written these places
            places = gradients[:, None] + kept_places * GRADIENT[2]
            tl.store(places, final.to(gradient_ptr.dtype.element_ty), mask=used)
