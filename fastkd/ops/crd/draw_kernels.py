# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
"""The draws of `draws.py` in Triton: a table of them, or how often each sample drew each row. Imports Triton.

Where no row comes twice a bit says whether it was drawn. Triton has no atomics on shared memory, with which
csrc/marks.cuh draws forwards; here each row walks the permutation backwards, which tells whether it is among a sample's
K. With replacement, and for rows that the caller chose, integer atomics add up the counts.
"""

import triton
import triton.language as tl

STREAM = tl.constexpr(0x43524400)
POSITIVE_COUNTER = tl.constexpr(0xFFFFFFFF)
KEY_COUNTER = tl.constexpr(0xFFFFFFFE)
DRAW_LANES = tl.constexpr(16)
PROBES = tl.constexpr(128)


@triton.jit
def words(seed, counter, place, step):
    zero = counter * 0
    return tl.philox(seed, counter, zero + place, zero + step, zero + STREAM)


@triton.jit
def own_class(own_row, starts_ptr, classes, SEARCH: tl.constexpr):
    """The first row of a row's class, and the class's size.

    They are found in SEARCH steps of PROBES probes: PROBES ** SEARCH >= classes.
    """
    low, high = 0, classes
    for _ in tl.static_range(SEARCH):
        stride = (high - low + PROBES - 1) // PROBES
        probe = low + tl.arange(0, PROBES) * stride
        start = tl.load(starts_ptr + probe, probe < high, 0)
        low += (tl.sum(((probe < high) & (start <= own_row)).to(tl.int32), 0) - 1) * stride
        high = tl.minimum(low + stride, high)
    start = tl.load(starts_ptr + low).to(tl.uint32)
    return start, tl.load(starts_ptr + low + 1).to(tl.uint32) - start


@triton.jit
def pairs_of(n):
    """a and b of a permutation of 0 … n-1, n < 2³¹, and the reciprocal of b, with which a place is divided by it."""
    a = tl.sqrt(n.to(tl.float32)).to(tl.uint32)  # ⌈√n⌉, perhaps one more or two less
    a = tl.where(a * a < n, a + 1, a)
    a = tl.where(a * a < n, a + 1, a)
    a = tl.where((a - 1) * (a - 1) >= n, a - 1, a)
    b = (n + a - 1) // a
    return a, b, 0xFFFFFFFF // b  # rounded down: the quotient may be one too small


@triton.jit
def quotient_and_rest(place, b, reciprocal):
    """place // b and place % b."""
    quotient = tl.umulhi(place, reciprocal + place * 0)
    rest = place - quotient * b
    short = rest >= b
    return tl.where(short, quotient + 1, quotient), tl.where(short, rest - b, rest)


@triton.jit
def distance(other, key, modulus):
    """0 … modulus-1: how far one half of a pair moves, which the other half and a key decide."""
    mixed = (other + key) * 0x9E3779B1
    mixed = (mixed ^ (mixed >> 15)) * 0x85EBCA77
    return tl.umulhi(mixed, modulus + mixed * 0)


@triton.jit
def forward(value, other, key, modulus):
    """Moves one half of a pair by `distance`, modulo `modulus`."""
    moved = value + distance(other, key, modulus)
    return tl.where(moved >= modulus, moved - modulus, moved)


@triton.jit
def backward(value, other, key, modulus):
    """The inverse of `forward`."""
    by = distance(other, key, modulus)
    return tl.where(value >= by, value - by, value + modulus - by)


@triton.jit
def permuted_once(place, a, b, reciprocal, key0, key1, key2, key3):
    """One step of the walk: the result may stand outside 0 … n-1."""
    left, right = quotient_and_rest(place, b, reciprocal)
    left = forward(left, right, key0, a)
    right = forward(right, left, key1, b)
    left = forward(left, right, key2, a)
    right = forward(right, left, key3, b)
    return left * b + right


@triton.jit
def returned_once(place, a, b, reciprocal, key0, key1, key2, key3):
    """The inverse of `permuted_once`."""
    left, right = quotient_and_rest(place, b, reciprocal)
    right = backward(right, left, key3, b)
    left = backward(left, right, key2, a)
    right = backward(right, left, key1, b)
    left = backward(left, right, key0, a)
    return left * b + right


@triton.jit
def permuted(place, n, seed, own_place, step):
    """The image of a place under the Permutation of 0 … n-1 of csrc/draws.h."""
    key0, key1, key2, key3 = words(seed, place * 0 + KEY_COUNTER, own_place, step)
    a, b, reciprocal = pairs_of(n)
    place = permuted_once(place, a, b, reciprocal, key0, key1, key2, key3)
    while tl.max((place >= n).to(tl.int32), 0) > 0:
        place = tl.where(place >= n, permuted_once(place, a, b, reciprocal, key0, key1, key2, key3), place)
    return place


@triton.jit
def returned(place, n, a, b, reciprocal, key0, key1, key2, key3):
    """The inverse of `permuted`."""
    place = returned_once(place, a, b, reciprocal, key0, key1, key2, key3)
    while tl.max((place >= n).to(tl.int32), 0) > 0:
        place = tl.where(place >= n, returned_once(place, a, b, reciprocal, key0, key1, key2, key3), place)
    return place


@triton.jit
def drawn_with_replacement(first, lane, others, seed, place, step):
    """What the columns first_column(first, lane), and those 16, 32, 48 further on, draw with replacement."""
    word0, word1, word2, word3 = words(seed, (first // 4 + lane).to(tl.uint32), place, step)
    others_L = others + word0 * 0
    row0, row1 = tl.umulhi(word0, others_L), tl.umulhi(word1, others_L)
    return row0, row1, tl.umulhi(word2, others_L), tl.umulhi(word3, others_L)


@triton.jit
def first_column(first, lane):
    """The first of a lane's four columns: lanes 0 to 15 have 64 columns, lanes 16 to 31 the next 64, and so on."""
    return first + lane // DRAW_LANES * (4 * DRAW_LANES) + lane % DRAW_LANES


@triton.jit
def inside(column, negatives):
    """The column, or 0 instead of one that does not exist: only places below n may be permuted."""
    return tl.where(column < negatives, column, 0).to(tl.uint32)


@triton.jit
def in_bank(row, start, size):
    """The row of the bank that is the row-th of other classes."""
    return tl.where(row < start, row, row + size).to(tl.int64)


@triton.jit
def positive_of(own_row, start, size, seed, place, step, RELAXED: tl.constexpr):
    """The sample's own row or, relaxed, any row of its class."""
    positive = own_row
    if RELAXED:
        word, _, _, _ = words(seed, tl.full((DRAW_LANES,), POSITIVE_COUNTER, tl.uint32), place, step)
        positive = (start + tl.max(tl.umulhi(word, size + word * 0), 0)).to(tl.int64)
    return positive


@triton.jit
def rows_of(
    first,
    lane,
    sample,
    rows_ptr,
    chosen_ptr,
    starts_ptr,
    step_ptr,
    n,
    negatives,
    classes,
    seed,
    first_place,
    REPLACEMENT: tl.constexpr,
    RELAXED: tl.constexpr,
    SEARCH: tl.constexpr,
):
    """The rows that the columns first_column(first, lane), and those 16, 32, 48 further on, have; and the positive."""
    column = first_column(first, lane)
    if chosen_ptr is None:
        own_row = tl.load(rows_ptr + sample)
        start, size = own_class(own_row, starts_ptr, classes, SEARCH)
        others = n.to(tl.uint32) - size
        place = (first_place + sample).to(tl.uint32)
        step = tl.load(step_ptr).to(tl.uint32)
        if REPLACEMENT or others < negatives:
            row0, row1, row2, row3 = drawn_with_replacement(first, lane, others, seed, place, step)
        else:
            row0 = permuted(inside(column, negatives), others, seed, place, step)
            row1 = permuted(inside(column + DRAW_LANES, negatives), others, seed, place, step)
            row2 = permuted(inside(column + 2 * DRAW_LANES, negatives), others, seed, place, step)
            row3 = permuted(inside(column + 3 * DRAW_LANES, negatives), others, seed, place, step)
        row0, row1 = in_bank(row0, start, size), in_bank(row1, start, size)
        row2, row3 = in_bank(row2, start, size), in_bank(row3, start, size)
        positive = positive_of(own_row, start, size, seed, place, step, RELAXED)
    else:
        own = chosen_ptr + sample.to(tl.int64) * (negatives + 1) + 1
        row0 = tl.load(own + column, column < negatives, 0)
        row1 = tl.load(own + column + DRAW_LANES, column + DRAW_LANES < negatives, 0)
        row2 = tl.load(own + column + 2 * DRAW_LANES, column + 2 * DRAW_LANES < negatives, 0)
        row3 = tl.load(own + column + 3 * DRAW_LANES, column + 3 * DRAW_LANES < negatives, 0)
        positive = tl.load(own - 1)
    return row0, row1, row2, row3, positive


@triton.jit(do_not_specialize=["n", "negatives", "classes", "seed", "first_place"])
def draw_kernel(
    out_ptr,  # COUNT: int32 [samples, STRIDE / 2], two counts of 16 bits in each; else int64 [samples, negatives + 1]
    positives_ptr,  # int64 [samples]
    rows_ptr,
    chosen_ptr,
    starts_ptr,
    step_ptr,
    n,
    negatives,
    classes,
    seed,
    first_place,
    STRIDE: tl.constexpr,
    COUNT: tl.constexpr,
    REPLACEMENT: tl.constexpr,
    RELAXED: tl.constexpr,
    SEARCH: tl.constexpr,
    LANES: tl.constexpr,
):
    """A program draws 4 · LANES columns of one sample."""
    sample, first = tl.program_id(0), tl.program_id(1) * (4 * LANES)
    lane = tl.arange(0, LANES)
    row0, row1, row2, row3, positive = rows_of(
        first,
        lane,
        sample,
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
    put(out_ptr, sample, column, row0, negatives, STRIDE, COUNT)
    put(out_ptr, sample, column + DRAW_LANES, row1, negatives, STRIDE, COUNT)
    put(out_ptr, sample, column + 2 * DRAW_LANES, row2, negatives, STRIDE, COUNT)
    put(out_ptr, sample, column + 3 * DRAW_LANES, row3, negatives, STRIDE, COUNT)
    if first == 0:
        if COUNT:
            tl.store(positives_ptr + sample, positive)
        else:
            tl.store(out_ptr + sample.to(tl.int64) * (negatives + 1), positive)


@triton.jit
def put(out_ptr, sample, column, row, negatives, STRIDE: tl.constexpr, COUNT: tl.constexpr):
    """Counts a row that a sample drew, or stores it in the table."""
    if COUNT:
        one = tl.where(row % 2 == 0, 1, 65536)  # integers: whatever order they are added in, the sums are the same
        tl.atomic_add(out_ptr + sample.to(tl.int64) * (STRIDE // 2) + row // 2, one, column < negatives, sem="relaxed")
    else:
        tl.store(out_ptr + sample.to(tl.int64) * (negatives + 1) + 1 + column, row, column < negatives)


@triton.jit(do_not_specialize=["n", "negatives", "classes", "seed", "first_place"])
def mark_kernel(
    bits_ptr,  # int32 [samples, STRIDE / 32]
    positives_ptr,
    rows_ptr,
    starts_ptr,
    step_ptr,
    n,
    negatives,
    classes,
    seed,
    first_place,
    STRIDE: tl.constexpr,
    RELAXED: tl.constexpr,
    SEARCH: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Marks which rows of some blocks one sample drew, where no row comes twice."""
    sample = tl.program_id(0)
    own_row = tl.load(rows_ptr + sample)
    start, size = own_class(own_row, starts_ptr, classes, SEARCH)
    others = n.to(tl.uint32) - size
    place = (first_place + sample).to(tl.uint32)
    step = tl.load(step_ptr).to(tl.uint32)
    a, b, reciprocal = pairs_of(others)
    key0, key1, key2, key3 = words(seed, tl.full((ROWS,), KEY_COUNTER, tl.uint32), place, step)
    for first_row in range(tl.program_id(1) * ROWS, STRIDE, tl.num_programs(1) * ROWS):
        row = first_row + tl.arange(0, ROWS)
        other = row.to(tl.uint32)
        other = tl.where(other < start, other, other - size)
        eligible = (row < n) & ((row < start) | (row >= start + size))
        column = returned(tl.minimum(other, others - 1), others, a, b, reciprocal, key0, key1, key2, key3)
        drawn = (eligible & (column < negatives)).to(tl.int32) << (row % 32)
        word = first_row // 32 + tl.arange(0, ROWS // 32)
        marks = tl.sum(drawn.reshape(ROWS // 32, 32), 1)  # bits of their own: their sum is all of them
        tl.store(bits_ptr + sample.to(tl.int64) * (STRIDE // 32) + word, marks, word < STRIDE // 32)
    if tl.program_id(1) == 0:
        tl.store(positives_ptr + sample, positive_of(own_row, start, size, seed, place, step, RELAXED))
