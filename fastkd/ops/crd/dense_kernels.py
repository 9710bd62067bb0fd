# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
"""The dense path's kernels, in Triton. Imports Triton; `dense.py` launches them.

Every row of the bank is read once, for all samples of a tile: scores as one matrix product, weights by how often the
sample drew the row, the gradient as a second product. See `reference.loss_by_counts`.

Approximate instructions are asked for by name, without the care for subnormal numbers that takes as many instructions
again: a share below 2^-126 counts as none.
"""

import triton
import triton.language as tl

from fastkd.ops.crd.draw_kernels import DRAW_LANES, first_column, rows_of

EPS = tl.constexpr(1e-7)
LN_2 = tl.constexpr(0.6931471805599453)
LOG2_E = tl.constexpr(1.4426950408889634)
SMALLEST_NORM = tl.constexpr(1e-12)
FENCE = tl.constexpr("fence.proxy.async.shared::cta; mov.b32 $0, $1;")
LARGEST = tl.constexpr(3.4028234e38)  # float32
MOST_POWER = tl.constexpr(63.0)  # the product of two shares is finite then
NO_POWER = tl.constexpr(-127.0)  # of which a share of 0 comes


@triton.jit
def two_to(power, INTERPRETED: tl.constexpr):
    if INTERPRETED:
        return tl.where(power <= -127.0, 0.0, tl.exp2(power))
    return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [power], tl.float32, True, 1)


@triton.jit
def one_over(x, INTERPRETED: tl.constexpr):
    if INTERPRETED:
        return 1.0 / x
    return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1)


@triton.jit
def log_one_plus(x, INTERPRETED: tl.constexpr):
    """log(1 + x) for x >= 0, right to 1e-6 of the result also if x is small, as most are."""
    series = x * (1.0 + x * (-0.5 + x * (0.333333333 + x * (-0.25 + x * 0.2))))
    if INTERPRETED:
        log = tl.log2(1.0 + x)
    else:
        log = tl.inline_asm_elementwise("lg2.approx.ftz.f32 $0, $1;", "=f,f", [1.0 + x], tl.float32, True, 1)
    return tl.where(x < 0.0625, series, log * LN_2)


@triton.jit
def narrow(x):
    """The nearest values of bfloat16, two of them by one instruction."""
    return tl.inline_asm_elementwise("cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,r,r", [x], tl.bfloat16, True, 2)


@triton.jit
def halves(x):
    """Two bfloat16 values whose sum is x, to 16 bits."""
    upper = narrow(x)
    return upper, narrow(x - upper.to(tl.float32))


@triton.jit
def product(a, a_rest, b, b_rest, result, PARTS: tl.constexpr):
    """result + a · b. PARTS: of how many bfloat16 values a number of b is the sum; 0: all are float32 (interpreter)."""
    if PARTS == 0:
        result = tl.dot(a, b, result, input_precision="ieee")
    else:
        if PARTS == 2:
            result = tl.dot(a, b_rest, result)
        result = tl.dot(a_rest, b, result)
        result = tl.dot(a, b, result)
    return result


@triton.jit
def of_both(x, y):
    """(1 + x) · (1 + y) - 1: one logarithm for two rows."""
    return tl.fma(x, y, x + y)


@triton.jit
def drawn_by_bits(bits_ptr, sample, counted, block, WORDS: tl.constexpr, SAMPLES: tl.constexpr, ROWS: tl.constexpr):
    """[SAMPLES,ROWS]: whether each sample drew each row of a block."""
    word = block * (ROWS // 32) + tl.arange(0, ROWS // 32)
    bits_SW = tl.load(bits_ptr + sample[:, None] * WORDS + word[None, :], counted[:, None], 0)
    drawn_SWI = (bits_SW[:, :, None] >> tl.arange(0, 32)[None, None, :]) & 1
    return drawn_SWI.reshape(SAMPLES, ROWS) != 0


@triton.jit(do_not_specialize=["n", "negatives"])
def scores_kernel(
    scaled_ptr,  # see `prepare_kernel`
    bank_ptr,
    counts_ptr,  # BITS: int32 [samples, STRIDE / 32], else int16 [samples, STRIDE]
    positives_ptr,
    z_ptr,
    gradients_ptr,  # [programs, 2, samples, D]
    sums_ptr,  # [2, programs · tiles]
    samples,
    prepared,  # samples of scaled_ptr
    n,
    negatives,
    STRIDE: tl.constexpr,
    BITS: tl.constexpr,
    D: tl.constexpr,
    PADDED: tl.constexpr,
    PARTS: tl.constexpr,
    SAMPLES: tl.constexpr,
    ROWS: tl.constexpr,
    STAGES: tl.constexpr,
    FENCED: tl.constexpr,
):
    """A program scores every num_programs(0)-th block of rows, for a tile of samples, on one side."""
    program, tile, side = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    programs = tl.num_programs(0)
    sample = tile * SAMPLES + tl.arange(0, SAMPLES)
    counted = sample < samples
    d = tl.arange(0, PADDED)
    in_row, known_SD = (d < D)[None, :], counted[:, None] & (d < D)[None, :]
    # The student's embedding meets the teacher's half of the bank, the teacher's the student's.
    half_ptr = bank_ptr + (1 - side) * D
    own_SD = scaled_ptr + (side * prepared + sample[:, None]) * D + d[None, :]
    scaled_SD = tl.load(own_SD, known_SD, 0.0)
    scaled_rest_SD = tl.load(own_SD + 2 * prepared * D, known_SD, 0.0)
    # With this shift, 2^product is what the loss compares with 1: P / c in the words of reference.py.
    rows_over_negatives = n.to(tl.float32) / negatives.to(tl.float32)
    shift = tl.log2(rows_over_negatives / tl.load(z_ptr + side))
    least = EPS * rows_over_negatives
    total_S = tl.zeros((SAMPLES,), tl.float32)
    gradient_SD = tl.zeros((SAMPLES, PADDED), tl.float32)
    if program == programs - 1:  # which has the fewest blocks
        positive = tl.load(positives_ptr + sample, counted, 0)
        row_SD = tl.load(half_ptr + positive[:, None] * (2 * D) + d[None, :], known_SD, 0.0).to(tl.float32)
        whole_SD = scaled_SD.to(tl.float32) + scaled_rest_SD.to(tl.float32)
        # Rounded here: contracted with a sum of two threads, a product would differ from one of them to the other.
        product_SD = tl.fma(whole_SD, row_SD, tl.zeros_like(row_SD))
        power_S = tl.sum(product_SD, 1) + shift
        excess_S = two_to(tl.minimum(power_S, 126.0, propagate_nan=tl.PropagateNan.ALL), PARTS == 0) + least
        total_S = tl.where(counted, log_one_plus(excess_S, PARTS == 0) - power_S * LN_2, 0.0)
        gradient_SD = row_SD * (-(1.0 + least) / (1.0 + excess_S))[:, None]
    for block in tl.range(program, tl.cdiv(n, ROWS), programs, num_stages=STAGES):
        row = block * ROWS + tl.arange(0, ROWS)
        in_bank = row < n
        bank_RD = tl.load(half_ptr + row.to(tl.int64)[:, None] * (2 * D) + d[None, :], in_bank[:, None] & in_row, 0.0)
        if BITS:
            drawn_SR = drawn_by_bits(counts_ptr, sample, counted, block, STRIDE // 32, SAMPLES, ROWS)
        else:
            given_SR = tl.load(counts_ptr + sample.to(tl.int64)[:, None] * STRIDE + row[None, :], counted[:, None], 0)
            drawn_SR = given_SR != 0
        if FENCED:
            tl.inline_asm_elementwise(FENCE, "=r,r", [block], tl.int32, False, 1)
        rest_RD = bank_RD
        if PARTS == 0:
            bank_RD = bank_RD.to(tl.float32)
        elif PARTS == 2:
            bank_RD, rest_RD = halves(bank_RD)
        zero_SR = tl.zeros((SAMPLES, ROWS), tl.float32)
        power_SR = product(scaled_SD, scaled_rest_SD, tl.trans(bank_RD), tl.trans(rest_RD), zero_SR, PARTS) + shift
        power_SR = tl.where(drawn_SR, power_SR, NO_POWER)
        share_SR = two_to(tl.minimum(power_SR, MOST_POWER, propagate_nan=tl.PropagateNan.ALL), PARTS == 0)
        excess_SR = share_SR + tl.where(drawn_SR, least, 0.0)
        weight_SR = share_SR * one_over(1.0 + excess_SR, PARTS == 0)
        if BITS:
            excess_SP = tl.reduce(excess_SR.reshape(SAMPLES, ROWS // 2, 2), 2, of_both)
            total_S += tl.sum(log_one_plus(excess_SP, PARTS == 0), 1)
        else:
            count_SR = (given_SR.to(tl.int32) & 65535).to(tl.float32)
            total_S += tl.sum(count_SR * log_one_plus(excess_SR, PARTS == 0), 1)
            weight_SR *= count_SR
        weight_rest_SR = weight_SR
        if PARTS > 0:
            weight_SR, weight_rest_SR = halves(weight_SR)
        gradient_SD = product(weight_SR, weight_rest_SR, bank_RD, rest_RD, gradient_SD, PARTS)
    tl.store(sums_ptr + (side * programs + program) * tl.num_programs(1) + tile, tl.sum(total_S, 0))
    to = gradients_ptr + ((program.to(tl.int64) * 2 + side) * samples + sample[:, None]) * D + d[None, :]
    tl.store(to, gradient_SD, counted[:, None] & in_row)


@triton.jit(do_not_specialize=["samples"])
def finish_kernel(
    gradients_ptr,  # [programs, 2, samples, D]
    sums_ptr,
    numbers_ptr,
    total_ptr,
    sides_ptr,
    student_gradient_ptr,
    teacher_gradient_ptr,
    samples,
    programs,
    sums,
    D: tl.constexpr,
    SUMS: tl.constexpr,
    PROGRAMS: tl.constexpr,
    AT_ONCE: tl.constexpr,
    LANES: tl.constexpr,
):
    """Adds the programs' parts in a fixed order; a program takes LANES numbers of one side's gradient."""
    side = tl.program_id(1)
    size = samples * D
    place = tl.program_id(0) * LANES + tl.arange(0, LANES)
    part_PL = tl.zeros((AT_ONCE, LANES), tl.float32)  # a thread's own numbers: warps meet once, behind the loop
    for first in tl.static_range(0, PROGRAMS, AT_ONCE):
        part = first + tl.arange(0, AT_ONCE)
        own = gradients_ptr + (part.to(tl.int64) * 2 + side)[:, None] * size + place[None, :]
        part_PL += tl.load(own, (part < programs)[:, None] & (place < size)[None, :], 0.0)
    slope = 1.0 / (tl.load(numbers_ptr) * samples.to(tl.float32))
    gradient_ptr = student_gradient_ptr if side == 0 else teacher_gradient_ptr
    tl.store(gradient_ptr + place, tl.sum(part_PL, 0) * slope, place < size)
    if (tl.program_id(0) == 0) & (side == 0):
        i = tl.arange(0, SUMS)
        ours = tl.sum(tl.load(sums_ptr + i, i < sums, 0.0), 0) / samples
        theirs = tl.sum(tl.load(sums_ptr + sums + i, i < sums, 0.0), 0) / samples
        tl.store(sides_ptr, ours)
        tl.store(sides_ptr + 1, theirs)
        tl.store(total_ptr, ours + theirs)


@triton.jit
def scale(sample, samples, student_ptr, teacher_ptr, numbers_ptr, scaled_ptr, D: tl.constexpr, PADDED: tl.constexpr):
    """Stores what the large kernel multiplies the bank by: embeddings · log2(e) / T, each number as the sum of two."""
    d = tl.arange(0, PADDED)
    place = sample.to(tl.int64) * D + d
    size = samples.to(tl.int64) * D
    for side in tl.static_range(2):
        embedding_ptr = student_ptr if side == 0 else teacher_ptr
        scaled_D = tl.load(embedding_ptr + place, d < D, 0.0) * (LOG2_E / tl.load(numbers_ptr))
        if scaled_ptr.dtype.element_ty == tl.bfloat16:
            upper_D = scaled_D.to(tl.bfloat16)
            rest_D = (scaled_D - upper_D.to(tl.float32)).to(tl.bfloat16)
        else:
            upper_D, rest_D = scaled_D, scaled_D * 0.0
        tl.store(scaled_ptr + side * size + place, upper_D, d < D)
        tl.store(scaled_ptr + (2 + side) * size + place, rest_D, d < D)


@triton.jit
def powers(student_D, teacher_D, bank_ptr, row, counted, to_power, D: tl.constexpr, PADDED: tl.constexpr):
    """The sums of exp(score / T) over some rows, one for each side."""
    d = tl.arange(0, PADDED)
    row_LD = bank_ptr + row[:, None] * (2 * D) + d[None, :]
    mask_LD = counted[:, None] & (d < D)[None, :]
    ours = tl.sum(tl.load(row_LD + D, mask_LD, 0.0).to(tl.float32) * student_D[None, :], 1)
    theirs = tl.sum(tl.load(row_LD, mask_LD, 0.0).to(tl.float32) * teacher_D[None, :], 1)
    ours, theirs = tl.exp2(ours * to_power), tl.exp2(theirs * to_power)
    return tl.sum(tl.where(counted, ours, 0.0), 0), tl.sum(tl.where(counted, theirs, 0.0), 0)


@triton.jit(do_not_specialize=["samples", "n", "negatives", "classes", "seed", "first_place"])
def prepare_kernel(
    student_ptr,
    teacher_ptr,
    bank_ptr,
    rows_ptr,
    chosen_ptr,
    starts_ptr,
    step_ptr,
    z_ptr,
    numbers_ptr,
    scaled_ptr,  # [2, 2, samples, D]
    out_ptr,  # [2]: Z
    samples,
    n,
    negatives,
    classes,
    seed,
    first_place,
    REPLACEMENT: tl.constexpr,
    RELAXED: tl.constexpr,
    SEARCH: tl.constexpr,
    D: tl.constexpr,
    PADDED: tl.constexpr,
):
    """A program scales one sample's embeddings. The first stores Z: as it is known, else n times the mean of
    exp(score / T) over the rows of all samples, which it gathers: once in a training, so it need not be quick."""
    sample = tl.program_id(0)
    scale(sample, samples, student_ptr, teacher_ptr, numbers_ptr, scaled_ptr, D, PADDED)
    if sample > 0:
        return
    if tl.load(z_ptr) > 0:
        tl.store(out_ptr, tl.load(z_ptr))
        tl.store(out_ptr + 1, tl.load(z_ptr + 1))
        return
    d = tl.arange(0, PADDED)
    to_power = LOG2_E / tl.load(numbers_ptr)
    lane = tl.arange(0, DRAW_LANES)
    ours, theirs = 0.0, 0.0
    for number in range(samples):
        one = sample + number  # the first program's is 0
        student_D = tl.load(student_ptr + one.to(tl.int64) * D + d, d < D, 0.0)
        teacher_D = tl.load(teacher_ptr + one.to(tl.int64) * D + d, d < D, 0.0)
        own, its = 0.0, 0.0
        for first in range(0, negatives, 4 * DRAW_LANES):
            row0, row1, row2, row3, positive = rows_of(
                first,
                lane,
                one,
                rows_ptr,
                chosen_ptr,
                starts_ptr,
                step_ptr,
                n,
                negatives,
                classes,
                seed,
                first_place,
                REPLACEMENT,
                RELAXED,
                SEARCH,
            )
            column = first_column(first, lane)
            for place in tl.static_range(5):  # four rows of negatives, and once the positive
                row = row0 if place == 0 else row1 if place == 1 else row2 if place == 2 else row3
                counted = column + place * DRAW_LANES < negatives
                if place == 4:
                    row, counted = positive + lane, (lane == 0) & (first == 0)
                more, more_of_theirs = powers(student_D, teacher_D, bank_ptr, row, counted, to_power, D, PADDED)
                own += more
                its += more_of_theirs
        ours += own
        theirs += its
    scores = samples.to(tl.float32) * (negatives.to(tl.float32) + 1.0)
    tl.store(out_ptr, ours / scores * n)
    tl.store(out_ptr + 1, theirs / scores * n)


@triton.jit
def update_kernel(
    bank_ptr,
    z_ptr,
    step_ptr,
    rows_ptr,
    student_ptr,
    teacher_ptr,
    new_z_ptr,
    numbers_ptr,
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
    momentum = tl.load(numbers_ptr + 1)
    d = tl.arange(0, PADDED)
    for side in tl.static_range(2):
        embedding_ptr = student_ptr if side == 0 else teacher_ptr
        embedding = tl.load(embedding_ptr + sample.to(tl.int64) * D + d, d < D, 0.0)
        own = bank_ptr + (row * 2 + side) * D + d
        # A row that is repeated is left to the program of its last sample, which writes it while this one runs.
        before = tl.load(own, (d < D) & (repeated == 0), 0.0).to(tl.float32)
        mixed = momentum * before + (1.0 - momentum) * embedding
        norm = tl.sqrt(tl.sum(mixed * mixed, 0))
        # What is not finite is not kept: the training may go on without this step.
        kept = tl.where(norm <= LARGEST, 1 - repeated, 0)
        fresh = mixed / tl.maximum(norm, SMALLEST_NORM)
        tl.debug_barrier()  # short rows are read by several warps, and written by one
        tl.store(own, fresh.to(bank_ptr.dtype.element_ty), (d < D) & (kept > 0))
        if sample == 0:
            new_z = tl.load(new_z_ptr + side)
            tl.store(z_ptr + side, new_z, tl.abs(new_z) <= LARGEST)
    if sample == 0:
        step = tl.load(step_ptr)
        tl.debug_barrier()  # every warp has read it
        tl.store(step_ptr, step + 1)
