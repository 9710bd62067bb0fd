"""Numbers as the manual means them, in exact arithmetic: Python's integers and fractions, rounded once.

Nothing here is shared with the engines or the table: it is what they are held against.
"""

import math
from fractions import Fraction
from typing import NamedTuple


class Format(NamedTuple):
    """A floating-point type: bits of the exponent and of the fraction."""

    exponent: int
    fraction: int

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.fraction

    @property
    def bias(self) -> int:
        return (1 << (self.exponent - 1)) - 1

    @property
    def least(self) -> int:
        """The exponent of the least normal number."""
        return 1 - self.bias


FORMATS = {"f16": Format(5, 10), "bf16": Format(8, 7), "f32": Format(8, 23), "f64": Format(11, 52)}
NAN, INFINITY = "nan", "inf"


class Number(NamedTuple):
    negative: bool
    size: Fraction | str
    """Of a number, infinity or NaN, without its sign."""

    @property
    def value(self) -> Fraction:
        assert isinstance(self.size, Fraction)
        return -self.size if self.negative else self.size

    def __neg__(self) -> "Number":
        return Number(not self.negative, self.size)

    def __float__(self) -> float:
        if self.size == NAN:
            return math.nan
        size = math.inf if self.size == INFINITY else float(self.size)
        return -size if self.negative else size

    @property
    def finite(self) -> bool:
        return not isinstance(self.size, str)


def number(bits: int, kind: str) -> Number:
    form = FORMATS[kind]
    negative = bool(bits >> (form.bits - 1))
    exponent = (bits >> form.fraction) & ((1 << form.exponent) - 1)
    fraction = bits & ((1 << form.fraction) - 1)
    if exponent == (1 << form.exponent) - 1:
        return Number(negative, NAN if fraction else INFINITY)
    scale = form.least - form.fraction + max(exponent - 1, 0)
    whole = fraction + ((1 << form.fraction) if exponent else 0)
    return Number(negative, Fraction(whole) * Fraction(2) ** scale)


def canonical_nan(kind: str) -> int:
    return (1 << (FORMATS[kind].bits - 1)) - 1


def rounded(value: Number, kind: str, mode: str = "rn") -> int:
    """The bits of the number of a type that a value is rounded to."""
    form = FORMATS[kind]
    sign = int(value.negative) << (form.bits - 1)
    infinity = ((1 << form.exponent) - 1) << form.fraction
    if value.size == NAN:
        return canonical_nan(kind)
    if value.size == INFINITY:
        return sign | infinity
    assert isinstance(value.size, Fraction)
    if value.size == 0:
        return sign
    exponent = max(_exponent(value.size), form.least)
    scaled = value.size / Fraction(2) ** (exponent - form.fraction)
    whole = _integer(scaled, mode, value.negative)
    bits = whole + ((exponent - form.least) << form.fraction)  # a carry moves on into the exponent
    if bits < infinity:
        return sign | bits
    overflows = mode == "rn" or (mode == "rp" and not value.negative) or (mode == "rm" and value.negative)
    return sign | (infinity if overflows else infinity - 1)


def _exponent(size: Fraction) -> int:
    found = size.numerator.bit_length() - size.denominator.bit_length()
    return found if size >= Fraction(2) ** found else found - 1


def _integer(scaled: Fraction, mode: str, negative: bool) -> int:
    whole, rest = scaled.numerator // scaled.denominator, scaled - scaled.numerator // scaled.denominator
    if mode == "rn":
        return whole + (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2 == 1))
    away = rest > 0 and ((mode == "rp" and not negative) or (mode == "rm" and negative))
    return whole + away


def signed(value: Fraction, *, zero_is_negative: bool = False) -> Number:
    return Number(value < 0 or (value == 0 and zero_is_negative), abs(value))


def plus(a: Number, b: Number, mode: str = "rn") -> Number:
    if NAN in (a.size, b.size) or (INFINITY in (a.size,) and b.size == INFINITY and a.negative != b.negative):
        return Number(False, NAN)
    if a.size == INFINITY or b.size == INFINITY:
        return a if a.size == INFINITY else b
    both = a.size == 0 and b.size == 0 and a.negative and b.negative
    opposite = a.negative != b.negative and mode == "rm"
    return signed(a.value + b.value, zero_is_negative=both or opposite)


def times(a: Number, b: Number) -> Number:
    negative = a.negative != b.negative
    if NAN in (a.size, b.size) or (INFINITY in (a.size, b.size) and 0 in (a.size, b.size)):
        return Number(False, NAN)
    if INFINITY in (a.size, b.size):
        return Number(negative, INFINITY)
    return Number(negative, abs(a.value * b.value))


def over(a: Number, b: Number) -> Number:
    negative = a.negative != b.negative
    if NAN in (a.size, b.size) or (a.size == b.size and a.size in (0, INFINITY)):
        return Number(False, NAN)
    if a.size == INFINITY or b.size == 0:
        return Number(negative, INFINITY)
    return Number(negative, Fraction(0)) if b.size == INFINITY else Number(negative, abs(a.value / b.value))


def root(a: Number, kind: str) -> Number:
    """The square root, to so many bits that rounding it is rounding the exact one."""
    if a.size == 0 or (a.size == INFINITY and not a.negative):
        return a
    if a.size == NAN or a.negative:
        return Number(False, NAN)
    assert isinstance(a.size, Fraction)
    shift = 2 * (FORMATS[kind].fraction + 8) - 2 * (_exponent(a.size) // 2)
    scaled = a.size * Fraction(2) ** shift
    whole = math.isqrt(scaled.numerator // scaled.denominator)
    inexact = whole * whole != scaled
    return Number(False, (Fraction(whole) + (Fraction(1, 4) if inexact else 0)) / Fraction(2) ** (shift // 2))


def integer(bits: int, kind: str) -> int:
    size = int(kind[1:])
    bits &= (1 << size) - 1
    return bits - (1 << size) if kind[0] == "s" and bits >> (size - 1) else bits


def wrapped(value: int, kind: str) -> int:
    return value & ((1 << int(kind[1:])) - 1)


def float_bits(value: float, kind: str) -> int:
    """A Python float rounded to a type: of what was computed to 53 bits."""
    if math.isnan(value):
        return canonical_nan(kind)
    if math.isinf(value):
        return rounded(Number(value < 0, INFINITY), kind)
    return rounded(Number(math.copysign(1, value) < 0, abs(Fraction(value))), kind)
