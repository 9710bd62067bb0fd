"""The kernel for a teacher that is a dense row, logits or probabilities, or that is not there: labels alone.

A program works on a few rows at once, chunk by chunk, so that a row may be of any width. KL needs two passes. In the
first its sums are kept relative to the greatest logits so far, both networks', and moved when a chunk raises one, so
that nothing large cancels at the end; the second writes the gradient. The divergence between both KLs has a pass of its
own in the middle. Exponents are in bits: exp x = exp2(x / ln 2).
"""

import triton
import triton.language as tl

from fastkd.ops.distill_loss.kernel_parts import AGREEMENT, divergence_terms, kl_gaps
from fastkd.ops.row_loss.kernel_parts import (
    CE_WEIGHT,
    LN_2,
    LOG2_E,
    LOGIT_SCALE,
    MISS,
    MIXTURE,
    PAIR_WEIGHT,
    SOFTCAP,
    TEACHER_LOGIT_SCALE,
    TEACHER_SOFTCAP,
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
def load_teacher(
    pointers,
    columns,
    read,
    scale,
    cap,
    STRIDES: tl.constexpr,
    K: tl.constexpr,
    TEACHER: tl.constexpr,
    CAPPED: tl.constexpr,
):
    """Logits, or logarithms of probabilities in bits."""
    if TEACHER == "probabilities":
        tile = tl.log2(load_numbers(pointers, columns, read, 0.0, STRIDES, K))
    else:
        tile, _ = load_logits(pointers, columns, read, scale, cap, STRIDES, K, CAPPED)
    return tile


@triton.jit(do_not_specialize=["batches", "R"])
def dense_kernel(
    student_ptr,
    gradient_ptr,  # None if not wanted; may be the student's logits
    teacher_ptr,
    labels_ptr,  # [N]
    shares_ptr,  # labels as probabilities
    weights_ptr,  # [N]
    numbers_ptr,
    losses_ptr,  # [N]
    parts_ptr,  # [2,N]
    ranks_ptr,  # [N]
    batches,
    R,
    K: tl.constexpr,
    STUDENT: tl.constexpr,  # strides [B,R,K], as the next three
    GRADIENT: tl.constexpr,
    TEACHERS: tl.constexpr,
    SHARES: tl.constexpr,
    TEACHER: tl.constexpr,  # "none", "logits" or "probabilities"
    LABELS: tl.constexpr,  # "none", "classes" or "probabilities"
    DIVERGENCE: tl.constexpr,  # "forward", "reverse" or "jsd"
    TAU_SQUARED: tl.constexpr,
    CAPPED: tl.constexpr,
    TEACHER_CAPPED: tl.constexpr,
    IN_PLACE: tl.constexpr,
    CHECK_LABELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    scale, cap = tl.load(numbers_ptr + LOGIT_SCALE), tl.load(numbers_ptr + SOFTCAP)
    teacher_scale, teacher_cap = tl.load(numbers_ptr + TEACHER_LOGIT_SCALE), tl.load(numbers_ptr + TEACHER_SOFTCAP)
    temperature, beta = tl.load(numbers_ptr + TEMPERATURE), tl.load(numbers_ptr + MIXTURE)
    tau_squared = temperature * temperature if TAU_SQUARED else 1.0
    bits = LOG2_E / temperature  # a unit of the logits in bits
    teacher_bits = 1.0 if TEACHER == "probabilities" else bits
    for block in range(tl.program_id(0), batches * tl.cdiv(R, ROWS), tl.num_programs(0)):
        row, batch, inner, exists = place_of_rows(block, R, ROWS)
        weight = tl.load(weights_ptr + row, mask=exists, other=0.0)
        counts = weight != 0
        students = row_pointers(student_ptr, batch, inner, STUDENT)
        peak = tl.full((ROWS,), -float("inf"), tl.float32)
        rank = tl.zeros((ROWS,), tl.int32) + K + MISS
        if LABELS != "none":
            label = load_label(labels_ptr, row, counts, K, CHECK_LABELS)
            own = load_own(students, label, STUDENT, K)
            ce_lanes = tl.zeros((ROWS, COLUMNS), tl.float32)
            rank_lanes = tl.zeros((ROWS, COLUMNS), tl.int32)
        if LABELS == "probabilities":
            shares = row_pointers(shares_ptr, batch, inner, SHARES)
            share_lanes = tl.zeros((ROWS, COLUMNS), tl.float32)
            product_lanes = tl.zeros((ROWS, COLUMNS), tl.float32)
        if TEACHER != "none":
            teachers = row_pointers(teacher_ptr, batch, inner, TEACHERS)
            teacher_peak = tl.full((ROWS,), -float("inf"), tl.float32)
            q_lanes = tl.zeros((ROWS, COLUMNS), tl.float32)
            p_lanes = tl.zeros((ROWS, COLUMNS), tl.float32)
            gap_lanes = tl.zeros((ROWS, COLUMNS), tl.float32)

        for start in range(0, K, COLUMNS):
            columns = start + tl.arange(0, COLUMNS)
            z, raw = load_logits(students, columns, counts, scale, cap, STUDENT, K, CAPPED)
            peak, drop = raised(peak, z)
            z = below(z, peak)
            if LABELS != "none":
                ce_lanes = ce_lanes * tl.exp2(drop * LOG2_E)[:, None] + tl.exp2(z * LOG2_E)
                rank_lanes += tl.where(columns[None, :] < K, ahead_of(raw, own, columns, label), 0)
            if LABELS == "probabilities":
                share = load_numbers(shares, columns, counts, 0.0, SHARES, K)
                product_lanes += share_lanes * drop[:, None] + weighed(share, z)
                share_lanes += share
            if TEACHER != "none":
                q = tl.exp2(z * bits)
                q_kept = tl.exp2(drop * bits)[:, None]
                t = load_teacher(
                    teachers,
                    columns,
                    counts,
                    teacher_scale,
                    teacher_cap,
                    TEACHERS,
                    K,
                    TEACHER,
                    TEACHER_CAPPED,
                )
                teacher_peak, teacher_drop = raised(teacher_peak, t)
                t = below(t, teacher_peak) * teacher_bits
                teacher_drop *= teacher_bits
                p = tl.exp2(t)
                p_kept = tl.exp2(teacher_drop)[:, None]
                shift = (teacher_drop - drop * bits)[:, None]
                if DIVERGENCE == "forward":
                    gap_lanes = p_kept * (gap_lanes + p_lanes * shift) + weighed(p, t - z * bits)
                if DIVERGENCE == "reverse":
                    gap_lanes = q_kept * (gap_lanes - q_lanes * shift) + weighed(q, z * bits - t)
                q_lanes = q_lanes * q_kept + q
                p_lanes = p_lanes * p_kept + p

        ce = tl.zeros((ROWS,), tl.float32)
        if LABELS != "none":
            ce_log_total = tl.log(tl.sum(ce_lanes, 1))
            rank = tl.where(own == own, tl.sum(rank_lanes, 1), rank)
        if LABELS == "classes":
            ce = ce_log_total - (transformed(own, scale, cap, CAPPED) - peak)
            target_total = tl.full((ROWS,), 1.0, tl.float32)
        if LABELS == "probabilities":
            target_total = tl.sum(share_lanes, 1)
            ce = weighed(target_total, ce_log_total) - tl.sum(product_lanes, 1)

        divergence = tl.zeros((ROWS,), tl.float32)
        if TEACHER != "none":
            q_total = tl.sum(q_lanes, 1)
            p_total = tl.sum(p_lanes, 1)
            q_log_total, p_log_total = tl.log2(q_total), tl.log2(p_total)
            p_mass, p_unit = tl.full((ROWS,), 1.0, tl.float32), 1.0 / p_total
            if TEACHER == "probabilities":  # they are divided by nothing
                p_unit = tl.exp2(teacher_peak)
                p_mass = p_total * p_unit
                p_log_total = tl.where(teacher_peak == -float("inf"), 0.0, -teacher_peak)
            excess = p_log_total - q_log_total
            mean_gap = tl.sum(gap_lanes, 1)
            if DIVERGENCE == "forward":  # Σ p (log p - log q), p of mass p_mass
                divergence = (mean_gap * p_unit - p_mass * excess) * LN_2
            if DIVERGENCE == "reverse":
                mean_gap = mean_gap / q_total
                divergence = (mean_gap + excess) * LN_2
            if TEACHER == "logits" and DIVERGENCE != "jsd":  # noqa: SIM102 - this one is for the compiler
                if tl.min(divergence) < AGREEMENT:
                    terms = tl.zeros((ROWS, COLUMNS), tl.float32)
                    for start in range(0, K, COLUMNS):
                        columns = start + tl.arange(0, COLUMNS)
                        z, _ = load_logits(students, columns, counts, scale, cap, STUDENT, K, CAPPED)
                        t = load_teacher(
                            teachers,
                            columns,
                            counts,
                            teacher_scale,
                            teacher_cap,
                            TEACHERS,
                            K,
                            TEACHER,
                            TEACHER_CAPPED,
                        )
                        z, t = below(z, peak) * bits, below(t, teacher_peak) * bits
                        p, q = tl.exp2(t - p_log_total[:, None]), tl.exp2(z - q_log_total[:, None])
                        if DIVERGENCE == "forward":
                            terms += divergence_terms(p, q, (excess[:, None] - kl_gaps(t, z)) * LN_2)
                        else:
                            terms += divergence_terms(q, p, (-excess[:, None] - kl_gaps(z, t)) * LN_2)
                    divergence = tl.where(divergence < AGREEMENT, tl.sum(terms, 1), divergence)
            if DIVERGENCE == "jsd":
                student_lanes = tl.zeros((ROWS, COLUMNS), tl.float32)
                both_lanes = tl.zeros((ROWS, COLUMNS), tl.float32)
                for start in range(0, K, COLUMNS):
                    columns = start + tl.arange(0, COLUMNS)
                    z, _ = load_logits(students, columns, counts, scale, cap, STUDENT, K, CAPPED)
                    t = load_teacher(
                        teachers,
                        columns,
                        counts,
                        teacher_scale,
                        teacher_cap,
                        TEACHERS,
                        K,
                        TEACHER,
                        TEACHER_CAPPED,
                    )
                    log_q = below(z, peak) * bits - q_log_total[:, None]
                    log_p = below(t, teacher_peak) * teacher_bits - p_log_total[:, None]
                    both, of_student, _, _ = mixture_parts(log_p, log_q, beta)
                    both_lanes += both
                    student_lanes += of_student
                divergence = tl.sum(both_lanes, 1)
                student_part = tl.sum(student_lanes, 1)
            divergence *= tau_squared
        store_row(losses_ptr, parts_ptr, ranks_ptr, row, exists, weight, ce, divergence, rank, numbers_ptr, batches * R)

        if gradient_ptr is not None:
            gradients = row_pointers(gradient_ptr, batch, inner, GRADIENT)
            pair_slope = (tl.load(numbers_ptr + PAIR_WEIGHT) * tau_squared / temperature) * weight
            ce_slope = tl.load(numbers_ptr + CE_WEIGHT) * weight
            for start in range(0, K, COLUMNS):
                columns = start + tl.arange(0, COLUMNS)
                ready, _ = load_logits(students, columns, counts, scale, cap, STUDENT, K, CAPPED)
                z = below(ready, peak)
                gradient = tl.zeros((ROWS, COLUMNS), tl.float32)
                if LABELS != "none":
                    q = tl.exp2((z - ce_log_total[:, None]) * LOG2_E) * target_total[:, None]
                    if LABELS == "classes":
                        target = (columns[None, :] == label[:, None]).to(tl.float32)
                    else:
                        target = load_numbers(shares, columns, counts, 0.0, SHARES, K)
                    gradient += ce_slope[:, None] * (q - target)
                if TEACHER != "none":
                    log_q = z * bits - q_log_total[:, None]
                    q = tl.exp2(log_q)
                    t = load_teacher(
                        teachers,
                        columns,
                        counts,
                        teacher_scale,
                        teacher_cap,
                        TEACHERS,
                        K,
                        TEACHER,
                        TEACHER_CAPPED,
                    )
                    log_p = below(t, teacher_peak) * teacher_bits - p_log_total[:, None]
                    if DIVERGENCE == "forward":
                        pull = q * p_mass[:, None] - tl.exp2(log_p)
                    elif DIVERGENCE == "reverse":
                        pull = weighed(q, (log_q - log_p - (mean_gap + excess)[:, None]) * LN_2)
                    else:
                        _, of_student, p, q = mixture_parts(log_p, log_q, beta)
                        pull = of_student - q * student_part[:, None]
                        pull = tl.where(beta == 0.0, q * p_mass[:, None] - p, pull)
                    gradient += pair_slope[:, None] * pull
                gradient = tl.where(counts[:, None], gradient * slope_of(ready, scale, cap, CAPPED), 0.0)
                if IN_PLACE:  # loads and stores may be laid out over the threads in different ways
                    tl.debug_barrier()
                places = gradients[:, None] + (columns.to(tl.int64) * GRADIENT[2])[None, :]
                mask = exists[:, None] & (columns[None, :] < K)
                tl.store(places, gradient.to(gradient_ptr.dtype.element_ty), mask=mask)
