"""The words of the table's expressions on numpy arrays; `native/words.h` says the same in C++. Those of bits and
integers are in `bit_words.py`.

Arrays hold the numbers of some threads. Nothing here warns: overflow and NaN are results like any other (callers
compute under `np.errstate(all="ignore")`).
"""

from collections.abc import Callable

import numpy as np

from .bit_words import ones, u32

Array = np.ndarray


def f32(x: object) -> Array:
    return np.asarray(x).astype(np.float32)


def f64(x: object) -> Array:
    return np.asarray(x).astype(np.float64)


def select(condition: Array, one: Array, other: Array) -> Array:
    return np.where(condition, one, other)


def negated(a: Array) -> Array:
    return ~a


def least(a: Array, b: Array) -> Array:
    return np.minimum(a, b)


def greatest(a: Array, b: Array) -> Array:
    return np.maximum(a, b)


def lesser_number(a: Array, b: Array) -> Array:
    """Of NaN and a number, the number; -0 is less than +0."""
    lesser = np.where(a < b, a, np.where(b < a, b, np.where(np.signbit(a), a, b)))
    return np.where(a != a, b, np.where(b != b, a, lesser))


def greater_number(a: Array, b: Array) -> Array:
    greater = np.where(a > b, a, np.where(b > a, b, np.where(np.signbit(a), b, a)))
    return np.where(a != a, b, np.where(b != b, a, greater))


def lesser_or_nan(a: Array, b: Array) -> Array:
    return np.where(unordered(a, b), a.dtype.type(np.nan), lesser_number(a, b))


def greater_or_nan(a: Array, b: Array) -> Array:
    return np.where(unordered(a, b), a.dtype.type(np.nan), greater_number(a, b))


def unordered(a: Array, b: Array) -> Array:
    return (a != a) | (b != b)


def magnitude(a: Array) -> Array:
    return np.abs(a)


def divided(a: Array, b: Array) -> Array:
    return a / b


def divided_quickly(a: Array, b: Array) -> Array:
    """div.approx: a divisor of 2^126 and more makes 0, or NaN of infinity."""
    large = (np.abs(b) > np.float32(2.0**126)) & np.isfinite(b)
    return np.where(large, np.where(np.isinf(a), np.float32(np.nan), np.float32(0)), a / b)


square_root, two_to, log_two = np.sqrt, np.exp2, np.log2
sine, cosine, hyperbolic_tangent = np.sin, np.cos, np.tanh
nearest, toward_zero, downward, upward = np.rint, np.trunc, np.floor, np.ceil


def ulp(r: Array) -> Array:
    return f64(np.spacing(np.abs(r)))


def _to_integer(dtype: type) -> Callable[[Array], Array]:
    """Conversion of a number without fraction: what is too large is the greatest, NaN what the manual says of it."""
    limits, size = np.iinfo(dtype), 8 * np.dtype(dtype).itemsize

    def converted(x: Array) -> Array:
        # Of float64 the greatest 64-bit integers are not numbers: what reaches them is chosen, not converted.
        wide = f64(x)
        inside = (wide > float(limits.min)) & (wide < float(limits.max))
        found = np.where(inside, wide, 0).astype(np.uint64 if limits.min == 0 else np.int64).astype(dtype)
        found = np.where(wide >= float(limits.max), dtype(limits.max), found)
        found = np.where(wide <= float(limits.min), dtype(limits.min), found)
        of_nan = 1 << (size - 1) if size == 64 or x.dtype == np.float64 else 0
        return np.where(wide != wide, np.array(of_nan, np.uint64).astype(dtype), found)

    return converted


to_u8, to_s8, to_u16, to_s16 = map(_to_integer, (np.uint8, np.int8, np.uint16, np.int16))
to_u32, to_s32, to_u64, to_s64 = map(_to_integer, (np.uint32, np.int32, np.uint64, np.int64))


def _to_odd(rounded: Array, error: Array) -> Array:
    """What is not exact goes to the neighbour whose last bit is 1: rounding it once more then rounds the exact
    number."""
    even = (rounded.view(f"i{rounded.dtype.itemsize}") & 1) == 0
    moved = np.nextafter(rounded, np.where(error > 0, np.inf, -np.inf).astype(rounded.dtype))
    return np.where((error != 0) & np.isfinite(rounded) & np.isfinite(error) & even, moved, rounded)


def _sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b and its rounding error (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _product(a: Array, b: Array) -> tuple[Array, Array]:
    """a · b in float64 and its rounding error (Dekker)."""

    def halves(x: Array) -> tuple[Array, Array]:
        scaled = 134217729.0 * x
        upper = scaled - (scaled - x)
        return upper, x - upper

    product = a * b
    (a1, a0), (b1, b0) = halves(a), halves(b)
    return product, ((a1 * b1 - product) + a1 * b0 + a0 * b1) + a0 * b0


def sum_to_odd(a: Array, b: Array) -> Array:
    """a + b of float32 numbers, in float64, rounded to odd."""
    return _to_odd(*_sum(f64(a), f64(b)))


def _f32_towards(x: Array, toward: Callable[[Array, Array], Array]) -> Array:
    """The float32 number next to x, or x, on the side that `toward` (its float32 and x) says to step to."""
    rounded = f32(x)
    passed = toward(f64(rounded), x)
    return np.where(
        passed != 0, np.nextafter(rounded, np.where(passed > 0, -np.inf, np.inf).astype(np.float32)), rounded
    )


def downward_f32(x: Array) -> Array:
    return _f32_towards(x, lambda rounded, exact: np.where(rounded > exact, 1, 0))


def upward_f32(x: Array) -> Array:
    return _f32_towards(x, lambda rounded, exact: np.where(rounded < exact, -1, 0))


def zero_downward(r: Array, a: Array, b: Array) -> Array:
    """The sum r of a and b, with the sign that a zero has where sums are rounded downwards."""
    return np.where((r == 0) & (np.signbit(a) | np.signbit(b)), np.float32(-0.0), r)


def toward_zero_f32(x: Array) -> Array:
    return np.where(x > 0, downward_f32(x), upward_f32(x))


def fma_to_odd(a: Array, b: Array, c: Array) -> Array:
    """a · b + c of float32 numbers, in float64, rounded to odd: the product is exact there."""
    return _to_odd(*_sum(f64(a) * f64(b), f64(c)))


def fma(a: Array, b: Array, c: Array) -> Array:
    """a · b + c, rounded once."""
    if a.dtype == np.float32:
        return f32(fma_to_odd(a, b, c))
    # Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", 2008.
    upper, lower = _product(a, b)
    high, low = _sum(c, lower)
    top, rest = _sum(upper, high)
    found = top + _to_odd(*_sum(low, rest))
    return np.where(np.isfinite(found) & np.isfinite(lower), found, a * b + c)


def rounded_to_tf32(a: Array) -> Array:
    """To 10 bits of fraction, ties away from zero."""
    bits = a.view(np.uint32)
    rounded = np.where(np.isfinite(a), (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000), bits)
    return np.where(np.isnan(a), np.uint32(0x7FFFFFFF), rounded)


def f16_bits(x: Array) -> Array:
    bits = x.astype(np.float16).view(np.uint16)
    return np.where(x != x, np.uint16(0x7FFF), bits)


def bf16_bits(x: Array) -> Array:
    narrow = f32(x)
    if x.dtype == np.float64:
        narrow = _to_odd(narrow, np.sign(x - f64(narrow)).astype(np.float32))
    bits = np.ascontiguousarray(narrow).view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
    return np.where(narrow != narrow, np.uint16(0x7FFF), rounded)


def paired(upper: Array, lower: Array) -> Array:
    return (u32(upper) << np.uint32(16)) | u32(lower)


def flushed(x: Array) -> Array:
    """Subnormal float32 numbers as zeros of their sign."""
    return np.where(np.abs(x) < np.float32(2.0**-126), np.copysign(np.float32(0), x), x)


def saturated(x: Array) -> Array:
    return np.where(x > 0, np.minimum(x, x.dtype.type(1)), x.dtype.type(0))


def off(r: Array, error: Array, a: Array, mode: int) -> Array:
    """r moved by its error. mode: 1 up, -1 down, 2 up or down by the bits of the operand, 0 not at all."""
    direction = mode if mode != 2 else 1.0 - 2.0 * (ones(a.view(np.uint32)) & 1)
    moved = f32(f64(r) + direction * error)
    return np.where(np.isfinite(r) & np.isfinite(moved), moved, r)
