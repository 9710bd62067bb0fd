"""The words of the table that work on bits and integers; the others are in `words.py`."""

from collections.abc import Callable

import numpy as np

Array = np.ndarray


def _cast(dtype: type) -> Callable[[object], Array]:
    return lambda x: np.asarray(x).astype(dtype)


u8, s8, u16, s16 = map(_cast, (np.uint8, np.int8, np.uint16, np.int16))
u32, s32, u64, s64 = map(_cast, (np.uint32, np.int32, np.uint64, np.int64))


def _bits(x: Array) -> int:
    return 8 * x.dtype.itemsize


def _unsigned(x: Array) -> Array:
    return x.view(f"u{x.dtype.itemsize}")


def upper_product(a: Array, b: Array) -> Array:
    """The upper half of the product, which is twice as wide."""
    size = _bits(a)
    if size < 64:
        wide = np.int64 if a.dtype.kind == "i" else np.uint64
        return ((a.astype(wide) * b.astype(wide)) >> wide(size)).astype(a.dtype)
    x, y, low = a.astype(np.uint64), b.astype(np.uint64), np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    x0, x1, y0, y1 = x & low, x >> half, y & low, y >> half
    middle = x1 * y0 + ((x0 * y0) >> half)
    upper = x1 * y1 + (middle >> half) + (((middle & low) + x0 * y1) >> half)
    if a.dtype.kind == "i":
        upper = upper - np.where(a < 0, y, 0).astype(np.uint64) - np.where(b < 0, x, 0).astype(np.uint64)
    return upper.astype(a.dtype)


def quotient(a: Array, b: Array) -> Array:
    """Towards zero; all ones where b is 0, which the manual leaves open."""
    divisor = np.where(b == 0, 1, b).astype(b.dtype)
    if a.dtype.kind == "u":
        found = a // divisor
    else:
        magnitudes = [_unsigned(np.where(x < 0, -x, x).astype(x.dtype)) for x in (a, divisor)]
        found = (magnitudes[0] // magnitudes[1]).astype(a.dtype)
        found = np.where((a < 0) != (b < 0), -found, found)
    return np.where(b == 0, np.array(-1).astype(a.dtype), found).astype(a.dtype)


def remainder(a: Array, b: Array) -> Array:
    """a where b is 0, which the manual leaves open."""
    return np.where(b == 0, a, a - quotient(a, b) * b)


def ones(a: Array) -> Array:
    """How many bits are set."""
    return np.unpackbits(np.ascontiguousarray(a)[:, None].view(np.uint8), axis=1).sum(1).astype(np.uint32)


def leading_zeros(a: Array) -> Array:
    x = _unsigned(a).copy()
    for shift in (1, 2, 4, 8, 16, 32):
        if shift < _bits(a):
            x |= x >> x.dtype.type(shift)
    return (_bits(a) - ones(x)).astype(np.uint32)


def reversed_bits(a: Array) -> Array:
    flags = np.unpackbits(np.ascontiguousarray(a)[:, None].view(np.uint8), axis=1, bitorder="little")
    return np.packbits(np.ascontiguousarray(flags[:, ::-1]), axis=1, bitorder="little").view(a.dtype)[:, 0]


def shifted_left(a: Array, b: Array) -> Array:
    size = _bits(a)
    return np.where(b < size, a << np.minimum(b, size - 1).astype(a.dtype), 0).astype(a.dtype)


def shifted_right(a: Array, b: Array) -> Array:
    """Of a signed type: the sign moves in."""
    size = _bits(a)
    shifted = a >> np.minimum(b, size - 1).astype(a.dtype)
    return shifted if a.dtype.kind == "i" else np.where(b < size, shifted, 0).astype(a.dtype)


def _mask(length: Array, dtype: np.dtype) -> Array:
    """The lowest bits, `length` of them."""
    size = 8 * dtype.itemsize
    all_ones = np.array(-1).astype(dtype)
    return np.where(length >= size, all_ones, ~(all_ones << np.minimum(length, size - 1).astype(dtype))).astype(dtype)


def extracted(a: Array, position: Array, length: Array) -> Array:
    size, unsigned = _bits(a), _unsigned(a)
    position, length = position & 255, length & 255
    mask = _mask(length, unsigned.dtype)
    field = shifted_right(unsigned, position) & mask
    if a.dtype.kind == "i":
        last = np.minimum(position + length - np.where(length == 0, 0, 1).astype(np.uint32), size - 1)
        negative = ((shifted_right(unsigned, last) & 1) == 1) & (length > 0)
        # Bits beyond the field, or beyond the register, are copies of its last one.
        there = _mask(
            np.minimum(length, np.maximum(size - position.astype(np.int64), 0).astype(np.uint32)), field.dtype
        )
        field = np.where(negative, field | ~there, field)
    return field.view(a.dtype)


def inserted(a: Array, b: Array, position: Array, length: Array) -> Array:
    """b with the lowest bits of a at a place."""
    position, length = position & 255, length & 255
    mask = shifted_left(_mask(length, b.dtype), position)
    return (b & ~mask) | (shifted_left(a, position) & mask)


def funnel(a: Array, b: Array, shift: Array, left: int) -> Array:
    joined = (u64(b) << np.uint64(32)) | u64(a)
    return u32((joined << u64(shift)) >> np.uint64(32)) if left else u32(joined >> u64(shift))


def by_truth_table(a: Array, b: Array, c: Array, table: Array) -> Array:
    found = np.zeros_like(a)
    for place in range(8):
        term = (a if place & 4 else ~a) & (b if place & 2 else ~b) & (c if place & 1 else ~c)
        found |= np.where((table >> place) & 1 == 1, term, 0).astype(a.dtype)
    return found


def bytes_chosen(a: Array, b: Array, selector: Array) -> Array:
    joined, found = (u64(b) << np.uint64(32)) | u64(a), np.zeros_like(a)
    for place in range(4):
        choice = (selector >> (4 * place)) & 15
        byte = (joined >> (8 * (u64(choice) & np.uint64(7)))) & np.uint64(255)
        byte = np.where(choice & 8, np.where(byte & np.uint64(128), 255, 0), byte)
        found |= u32(byte) << np.uint32(8 * place)
    return found
