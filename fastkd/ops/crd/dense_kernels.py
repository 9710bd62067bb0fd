# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
"""The dense path's kernels, in Triton. Imports Triton; `dense.py` launches them.

Every row of the bank is read once, for all samples of a tile: scores as one matrix product, weights by how often the
sample drew the row, the gradient as a second product. See `reference.loss_by_counts`.
"""

import triton
import triton.language as tl

STREAM = tl.constexpr(0x43524400)
POSITIVE_COUNTER = tl.constexpr(0xFFFFFFFF)
KEY_COUNTER = tl.constexpr(0xFFFFFFFE)
DRAW_LANES = tl.constexpr(16)
EPS = tl.constexpr(1e-7)
LOG2_E = tl.constexpr(1.4426950408889634)
SMALLEST_NORM = tl.constexpr(1e-12)
LARGEST = tl.constexpr(3.4028234e38)  # float32


@triton.jit
def words(seed, counter, place, step):
    zero = counter * 0
    return tl.philox(seed, counter, zero + place, zero + step, zero + STREAM)


@triton.jit
def shift(value, other, key, modulus):
    mixed = (other + key) * 0x9E3779B1
    mixed = (mixed ^ (mixed >> 15)) * 0x85EBCA77
    moved = value + tl.umulhi(mixed, modulus + mixed * 0)
    return tl.where(moved >= modulus, moved - modulus, moved)


@triton.jit
def permuted_once(place, a, b, key0, key1, key2, key3):
    left, right = place // b, place % b
    left = shift(left, right, key0, a)
    right = shift(right, left, key1, b)
    left = shift(left, right, key2, a)
    right = shift(right, left, key3, b)
    return left * b + right


@triton.jit
def permuted(place, n, seed, own_place, step):
    """csrc/draws.h's Permutation of 0 … n-1."""
    key0, key1, key2, key3 = words(seed, place * 0 + KEY_COUNTER, own_place, step)
    a = tl.ceil(tl.sqrt(n.to(tl.float64))).to(tl.uint32)
    b = (n + a - 1) // a
    place = permuted_once(place, a, b, key0, key1, key2, key3)
    while tl.max((place >= n).to(tl.int32), 0) > 0:
        place = tl.where(place >= n, permuted_once(place, a, b, key0, key1, key2, key3), place)
    return place


@triton.jit(do_not_specialize=["n", "negatives", "classes", "seed", "first_place"])
def draw_kernel(
    out_ptr,  # COUNT: int32 [samples, STRIDE / 2], two counts of 16 bits in each; else int64 [samples, negatives + 1]
    positives_ptr,  # int64 [samples]
    rows_ptr,
    chosen_ptr,
    starts_ptr,
    step_ptr,
    z_ptr,
    n,
    negatives,
    classes,
    seed,
    first_place,
    STRIDE: tl.constexpr,
    COUNT: tl.constexpr,
    REPLACEMENT: tl.constexpr,
    RELAXED: tl.constexpr,
    UNLESS_KNOWN: tl.constexpr,
    SEARCH: tl.constexpr,
    LANES: tl.constexpr,
):
    """A program draws 4 · LANES columns of one sample."""
    if UNLESS_KNOWN and tl.load(z_ptr) > 0:
        return
    sample = tl.program_id(0)
    lane = tl.arange(0, LANES)
    first = tl.program_id(1) * (4 * LANES)
    column0 = first + lane // DRAW_LANES * (4 * DRAW_LANES) + lane % DRAW_LANES
    own_row = tl.load(rows_ptr + sample)
    if chosen_ptr is None:
        low, high = 0, classes
        for _ in tl.static_range(SEARCH):
            middle = (low + high) // 2
            after = (tl.load(starts_ptr + middle) <= own_row) & (high - low > 1)
            before = (high - low > 1) & (not after)
            low = tl.where(after, middle, low)
            high = tl.where(before, middle, high)
        start = tl.load(starts_ptr + low).to(tl.uint32)
        size = tl.load(starts_ptr + low + 1).to(tl.uint32) - start
        others = n.to(tl.uint32) - size
        place = (first_place + sample).to(tl.uint32)
        step = tl.load(step_ptr).to(tl.uint32)
        if REPLACEMENT or others < negatives:
            counter = (first // 4 + lane).to(tl.uint32)
            word0, word1, word2, word3 = words(seed, counter, place, step)
            others_L = others + counter * 0
            row0, row1 = tl.umulhi(word0, others_L), tl.umulhi(word1, others_L)
            row2, row3 = tl.umulhi(word2, others_L), tl.umulhi(word3, others_L)
        else:
            row0 = permuted(inside(column0, negatives), others, seed, place, step)
            row1 = permuted(inside(column0 + DRAW_LANES, negatives), others, seed, place, step)
            row2 = permuted(inside(column0 + 2 * DRAW_LANES, negatives), others, seed, place, step)
            row3 = permuted(inside(column0 + 3 * DRAW_LANES, negatives), others, seed, place, step)
        row0 = tl.where(row0 < start, row0, row0 + size).to(tl.int64)
        row1 = tl.where(row1 < start, row1, row1 + size).to(tl.int64)
        row2 = tl.where(row2 < start, row2, row2 + size).to(tl.int64)
        row3 = tl.where(row3 < start, row3, row3 + size).to(tl.int64)
        positive = own_row
        if RELAXED:
            word, _, _, _ = words(seed, (lane * 0).to(tl.uint32) + POSITIVE_COUNTER, place, step)
            positive = (start + tl.max(tl.umulhi(word, size + word * 0), 0)).to(tl.int64)
    else:
        own = chosen_ptr + sample.to(tl.int64) * (negatives + 1) + 1
        row0 = tl.load(own + column0, column0 < negatives, 0)
        row1 = tl.load(own + column0 + DRAW_LANES, column0 + DRAW_LANES < negatives, 0)
        row2 = tl.load(own + column0 + 2 * DRAW_LANES, column0 + 2 * DRAW_LANES < negatives, 0)
        row3 = tl.load(own + column0 + 3 * DRAW_LANES, column0 + 3 * DRAW_LANES < negatives, 0)
        positive = tl.load(own - 1)
    put(out_ptr, sample, column0, row0, negatives, STRIDE, COUNT)
    put(out_ptr, sample, column0 + DRAW_LANES, row1, negatives, STRIDE, COUNT)
    put(out_ptr, sample, column0 + 2 * DRAW_LANES, row2, negatives, STRIDE, COUNT)
    put(out_ptr, sample, column0 + 3 * DRAW_LANES, row3, negatives, STRIDE, COUNT)
    if first == 0:
        if COUNT:
            tl.store(positives_ptr + sample, positive)
        else:
            tl.store(out_ptr + sample.to(tl.int64) * (negatives + 1), positive)


@triton.jit
def inside(column, negatives):
    return tl.where(column < negatives, column, 0).to(tl.uint32)


@triton.jit
def put(out_ptr, sample, column, row, negatives, STRIDE: tl.constexpr, COUNT: tl.constexpr):
    if COUNT:
        one = tl.where(row % 2 == 0, 1, 65536)  # integers: whatever order they are added in, the sums are the same
        tl.atomic_add(out_ptr + sample.to(tl.int64) * (STRIDE // 2) + row // 2, one, column < negatives, sem="relaxed")
    else:
        tl.store(out_ptr + sample.to(tl.int64) * (negatives + 1) + 1 + column, row, column < negatives)


@triton.jit
def product(a, b, SPLIT: tl.constexpr):
    """a · b in float32 accuracy; SPLIT: b is bfloat16, a is taken as the sum of two."""
    if SPLIT:
        upper = a.to(tl.bfloat16)
        lower = (a - upper.to(tl.float32)).to(tl.bfloat16)
        result = tl.dot(lower, b)
        result = tl.dot(upper, b, result)
    else:
        result = tl.dot(a, b, input_precision="tf32x3")
    return result


@triton.jit(do_not_specialize=["samples", "n", "negatives"])
def scores_kernel(
    student_ptr,
    teacher_ptr,
    bank_ptr,
    counts_ptr,  # int16 [samples, STRIDE]
    positives_ptr,
    z_ptr,
    settings_ptr,
    gradients_ptr,  # [programs, 2, samples, D]
    sums_ptr,  # [2, programs · tiles]
    samples,
    n,
    negatives,
    STRIDE: tl.constexpr,
    D: tl.constexpr,
    PADDED: tl.constexpr,
    MEASURES: tl.constexpr,
    SPLIT: tl.constexpr,
    SAMPLES: tl.constexpr,
    ROWS: tl.constexpr,
):
    """A program takes every num_programs(0)-th block of rows, a tile of samples, one side."""
    if MEASURES and tl.load(z_ptr) > 0:
        return
    program, tile, side = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    programs = tl.num_programs(0)
    sample = tile * SAMPLES + tl.arange(0, SAMPLES)
    counted = sample < samples
    d = tl.arange(0, PADDED)
    mask_SD = counted[:, None] & (d < D)[None, :]
    anchor_ptr = student_ptr if side == 0 else teacher_ptr
    anchor_SD = tl.load(anchor_ptr + sample[:, None] * D + d[None, :], mask_SD, 0.0)
    positive_S = tl.load(positives_ptr + sample, counted, -1)
    temperature = tl.load(settings_ptr)
    inverse_z = 1.0 / tl.load(z_ptr + side)
    rows_over_negatives = n.to(tl.float32) / negatives.to(tl.float32)
    slope = 1.0 / (temperature * samples.to(tl.float32))
    gradient_SD = tl.zeros((SAMPLES, PADDED), tl.float32)
    total = 0.0
    for block in range(program, tl.cdiv(n, ROWS), programs):
        row = block * ROWS + tl.arange(0, ROWS)
        in_bank = row < n
        # The student's embedding meets the teacher's half of the bank, the teacher's the student's.
        from_bank = bank_ptr + (row.to(tl.int64)[:, None] * 2 + (1 - side)) * D + d[None, :]
        bank_RD = tl.load(from_bank, in_bank[:, None] & (d < D)[None, :], 0.0)
        if not SPLIT:
            bank_RD = bank_RD.to(tl.float32)
        drawn = tl.load(
            counts_ptr + sample.to(tl.int64)[:, None] * STRIDE + row[None, :], counted[:, None] & in_bank[None, :], 0
        )
        count_SR = (drawn.to(tl.int32) & 65535).to(tl.float32)
        is_positive_SR = (positive_S[:, None] == row[None, :]).to(tl.float32)
        score_SR = product(anchor_SD, tl.trans(bank_RD), SPLIT)
        power_SR = tl.exp2(score_SR * (LOG2_E / temperature))
        if MEASURES:
            total += tl.sum(tl.where(count_SR + is_positive_SR > 0, power_SR * (count_SR + is_positive_SR), 0.0))
        else:
            share_SR = power_SR * inverse_z
            excess_SR = (share_SR + EPS) * rows_over_negatives
            above_SR = 1.0 + excess_SR
            # log(1 + excess), to the last bits also where excess is small.
            rounded_SR = tl.where(above_SR == 1.0, 1.0, above_SR - 1.0)
            log_SR = tl.where(above_SR == 1.0, excess_SR, tl.log(above_SR) * (excess_SR / rounded_SR))
            positive_term_SR = log_SR - score_SR / temperature - tl.log(inverse_z * rows_over_negatives)
            drawn_SR = tl.where(count_SR > 0, count_SR * log_SR, 0.0)
            total += tl.sum(drawn_SR + tl.where(is_positive_SR > 0, positive_term_SR, 0.0))
            pull_SR = is_positive_SR * (1.0 + EPS * rows_over_negatives)
            push_SR = count_SR * share_SR * rows_over_negatives
            weight_SR = slope * (push_SR - pull_SR) / above_SR
            gradient_SD += product(weight_SR, bank_RD, SPLIT)
    tiles = tl.num_programs(1)
    tl.store(sums_ptr + (side * programs + program) * tiles + tile, total)
    if not MEASURES:
        to = gradients_ptr + ((program.to(tl.int64) * 2 + side) * samples + sample[:, None]) * D + d[None, :]
        tl.store(to, gradient_SD, mask_SD)


@triton.jit
def finish_kernel(
    gradients_ptr,
    sums_ptr,
    total_ptr,
    sides_ptr,
    student_gradient_ptr,
    teacher_gradient_ptr,
    samples,
    size,  # samples · D
    programs,
    sums,
    SUMS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Adds the programs' parts in a fixed order."""
    place = tl.program_id(0) * LANES + tl.arange(0, LANES)
    student = tl.zeros((LANES,), tl.float32)
    teacher = tl.zeros((LANES,), tl.float32)
    for program in range(0, programs):
        own = gradients_ptr + tl.cast(program, tl.int64) * 2 * size + place
        student += tl.load(own, place < size, 0.0)
        teacher += tl.load(own + size, place < size, 0.0)
    tl.store(student_gradient_ptr + place, student, place < size)
    tl.store(teacher_gradient_ptr + place, teacher, place < size)
    if tl.program_id(0) == 0:
        i = tl.arange(0, SUMS)
        ours = tl.sum(tl.load(sums_ptr + i, i < sums, 0.0), 0) / samples
        theirs = tl.sum(tl.load(sums_ptr + sums + i, i < sums, 0.0), 0) / samples
        tl.store(sides_ptr, ours)
        tl.store(sides_ptr + 1, theirs)
        tl.store(total_ptr, ours + theirs)


@triton.jit(do_not_specialize=["samples", "n", "negatives", "sums"])
def finish_normaliser_kernel(sums_ptr, z_ptr, out_ptr, samples, n, negatives, sums, SUMS: tl.constexpr):
    known = tl.load(z_ptr) > 0
    scores = samples.to(tl.float32) * (negatives.to(tl.float32) + 1.0)
    i = tl.arange(0, SUMS)
    for side in tl.static_range(2):
        measured = tl.sum(tl.load(sums_ptr + side * sums + i, (i < sums) & (not known), 0.0), 0) / scores * n
        tl.store(out_ptr + side, tl.where(known, tl.load(z_ptr + side), measured))


@triton.jit
def update_kernel(
    bank_ptr,
    z_ptr,
    step_ptr,
    rows_ptr,
    student_ptr,
    teacher_ptr,
    new_z_ptr,
    settings_ptr,
    samples,
    D: tl.constexpr,
    PADDED: tl.constexpr,
    SAMPLES: tl.constexpr,
):
    """A program moves one sample's row, if no later sample of the batch has the same."""
    sample = tl.program_id(0)
    row = tl.load(rows_ptr + sample)
    other = tl.arange(0, SAMPLES)
    again = (tl.load(rows_ptr + other, other < samples, -1) == row) & (other > sample)
    repeated = tl.max(again.to(tl.int32), 0)
    momentum = tl.load(settings_ptr + 1)
    d = tl.arange(0, PADDED)
    for side in tl.static_range(2):
        embedding_ptr = student_ptr if side == 0 else teacher_ptr
        embedding = tl.load(embedding_ptr + sample.to(tl.int64) * D + d, d < D, 0.0)
        own = bank_ptr + (row * 2 + side) * D + d
        mixed = momentum * tl.load(own, d < D, 0.0).to(tl.float32) + (1.0 - momentum) * embedding
        norm = tl.sqrt(tl.sum(mixed * mixed, 0))
        # Not of what is not finite: the training may go on without this step.
        kept = tl.where(norm <= LARGEST, 1 - repeated, 0)
        fresh = mixed / tl.maximum(norm, SMALLEST_NORM)
        tl.store(own, fresh.to(bank_ptr.dtype.element_ty), (d < D) & (kept > 0))
        if sample == 0:
            new_z = tl.load(new_z_ptr + side)
            tl.store(z_ptr + side, new_z, tl.abs(new_z) <= LARGEST)
    if sample == 0:
        tl.store(step_ptr, tl.load(step_ptr) + 1)
