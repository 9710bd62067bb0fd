"""The manual's meaning of every lane instruction, on exact numbers: an oracle for one thread."""

import math
from collections.abc import Callable
from fractions import Fraction

from ptx.forms import FLOATS, Lane

from .bits import bfe, bfi, lop3, prmt, shf, shift
from .exact import (
    INFINITY,
    NAN,
    Number,
    canonical_nan,
    float_bits,
    integer,
    number,
    over,
    plus,
    root,
    rounded,
    signed,
    times,
    wrapped,
)

Bits = int
ALMOST = {"ex2", "lg2", "sin", "cos", "tanh", "rsqrt"}
"""Computed in double precision here: the last bit of a float32 may differ where a double is nearly half way."""


def meaning(form: Lane, operands: list[Bits]) -> Bits:
    """What a form makes of the bits of its operands."""
    mnemonic = form.opcode.split(".")[0]
    numbers = [_operand(bits, kind, form.flush) for bits, kind in zip(operands, form.takes, strict=True)]
    found = _ORACLES[mnemonic](form, numbers)
    if form.gives in ("f16", "bf16", "f32", "f64"):
        return _finished(found, form)
    if form.gives == "pred":
        return int(found)
    # Registers have 16 bits at least: a result of 8 is widened as its type says.
    return wrapped(integer(found, "s8"), "u16") if form.gives == "s8" else wrapped(found, form.gives)


def _operand(bits: Bits, kind: str, flush: bool) -> int | Number:
    if kind == "pred":
        return bits
    if kind not in FLOATS:
        return integer(bits, kind)
    found = number(bits, kind)
    small = kind == "f32" and flush and found.finite and found.size < Fraction(2) ** -126
    return Number(found.negative, Fraction(0)) if small else found


def _finished(found: Number | float | tuple[Number, str], form: Lane) -> Bits:
    value, mode = found if isinstance(found, tuple) and not isinstance(found, Number) else (found, "rn")
    bits = float_bits(value, form.gives) if isinstance(value, float) else rounded(value, form.gives, mode)
    result = number(bits, form.gives)
    if form.flush and form.gives == "f32" and result.finite and 0 < result.size < Fraction(2) ** -126:
        bits = rounded(Number(result.negative, Fraction(0)), form.gives)
    if form.saturate:
        result = number(bits, form.gives)
        if result.size == NAN or result.negative or result.size == 0:
            return 0
        bits = min(bits, rounded(signed(Fraction(1)), form.gives))
    return bits


def _has(form: Lane, *words: str) -> str:
    return next((word for word in words if word in form.opcode.split(".")), "")


def _is_float(form: Lane) -> bool:
    return form.takes[0] in FLOATS


def _mode(form: Lane) -> str:
    return _has(form, "rz", "rm", "rp") or "rn"


def _add(form: Lane, given: list) -> object:
    sign = -1 if form.opcode.startswith("sub") else 1
    if not _is_float(form):
        return given[0] + sign * given[1]
    mode = _mode(form)
    return plus(given[0], given[1] if sign == 1 else -given[1], mode), mode


def _mul(form: Lane, given: list) -> object:
    if _is_float(form):
        return times(*given), _mode(form)
    product = given[0] * given[1]
    return product >> int(form.takes[0][1:]) if _has(form, "hi") else product


def _mad(form: Lane, given: list) -> object:
    if _is_float(form):
        mode = _mode(form)
        return plus(times(given[0], given[1]), given[2], mode), mode
    product = given[0] * given[1]
    return (product >> int(form.takes[0][1:]) if _has(form, "hi") else product) + given[2]


def _div(form: Lane, given: list) -> object:
    if not _is_float(form):
        if given[1] == 0:
            return -1
        size = abs(given[0]) // abs(given[1])
        return size if (given[0] < 0) == (given[1] < 0) else -size
    a, b = given
    if _has(form, "approx") and b.finite and b.size > Fraction(2) ** 126:
        return Number(False, NAN) if a.size in (INFINITY, NAN) else Number(False, Fraction(0))
    return over(a, b)


def _rem(form: Lane, given: list) -> object:
    return given[0] if given[1] == 0 else given[0] - _div(form, given) * given[1]


def _extreme(form: Lane, given: list) -> object:
    least = form.opcode.startswith("min")
    if not _is_float(form):
        return min(given) if least else max(given)
    numbers = [x for x in given if x.size != NAN]
    if not numbers or (_has(form, "NaN") and len(numbers) < 2):
        return Number(False, NAN)

    def place(x: Number) -> tuple[float | Fraction, bool]:
        infinity = -math.inf if x.negative else math.inf
        return infinity if x.size == INFINITY else x.value, not x.negative  # -0 before +0

    return min(numbers, key=place) if least else max(numbers, key=place)


def _setp(form: Lane, given: list) -> bool:
    comparison = form.opcode.split(".")[1]
    a, b = given
    if not _is_float(form):
        return _COMPARISONS[{"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}.get(comparison, comparison)](a, b)
    unordered = NAN in (a.size, b.size)
    if comparison in ("num", "nan"):
        return unordered == (comparison == "nan")
    if unordered:
        return comparison.endswith("u")
    return _COMPARISONS[comparison[:2]](float(a), float(b))


_COMPARISONS: dict[str, Callable] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}


def _cvt(form: Lane, given: list) -> object:
    (source, *_), target = form.takes, form.gives
    if "x2" in form.opcode:
        kind = form.opcode.split(".")[2].removesuffix("x2")
        return rounded(given[0], kind) << 16 | rounded(given[1], kind)
    if "tf32" in form.opcode:
        return _tf32(given[0])
    if source not in FLOATS:
        return signed(Fraction(given[0])) if target in FLOATS else given[0]
    rounding = _has(form, "rni", "rzi", "rmi", "rpi")
    if target in FLOATS:
        return _to_whole(given[0], rounding) if rounding else (given[0], _mode(form))
    return _to_integer(_to_whole(given[0], rounding), source, target)


def _to_whole(x: Number, rounding: str) -> Number:
    if not x.finite:
        return x
    value = {
        "rni": lambda: round(x.value),
        "rzi": lambda: math.trunc(x.value),
        "rmi": lambda: math.floor(x.value),
        "rpi": lambda: math.ceil(x.value),
    }[rounding]()
    return Number(x.negative, Fraction(abs(value)))


def _to_integer(x: Number, source: str, target: str) -> int:
    size = int(target[1:])
    low, high = (-(1 << (size - 1)), (1 << (size - 1)) - 1) if target[0] == "s" else (0, (1 << size) - 1)
    if x.size == NAN:
        return 1 << (size - 1) if size == 64 or source == "f64" else 0
    if x.size == INFINITY:
        return low if x.negative else high
    return min(max(int(x.value), low), high)


def _tf32(x: Number) -> Bits:
    """To 10 bits of fraction, halves away from zero."""
    if not x.finite or x.size == 0:
        return rounded(x, "f32") if x.size != NAN else canonical_nan("f32")
    exponent = max(math.frexp(float(x.size))[1] - 1, -126)
    unit = Fraction(2) ** (exponent - 10)
    whole = (x.size / unit + Fraction(1, 2)).__floor__()
    return rounded(Number(x.negative, whole * unit), "f32")


def _approximated(function: Callable[[float], float]) -> Callable[[Lane, list], object]:
    def oracle(form: Lane, given: list) -> object:
        try:
            return function(float(given[0]))
        except ValueError:
            return math.nan
        except OverflowError:
            return math.inf

    return oracle


def _exp2(x: float) -> float:
    return 0.0 if x == -math.inf else math.exp2(x)


def _log2(x: float) -> float:
    return -math.inf if x == 0 else math.log2(x)


def _reciprocal_root(x: float) -> float:
    return math.copysign(math.inf, x) if x == 0 else 1 / math.sqrt(x)


_ORACLES: dict[str, Callable[[Lane, list], object]] = {
    "add": _add,
    "sub": _add,
    "mul": _mul,
    "mad": _mad,
    "fma": _mad,
    "div": _div,
    "rem": _rem,
    "min": _extreme,
    "max": _extreme,
    "abs": lambda form, given: Number(False, given[0].size) if _is_float(form) else abs(given[0]),
    "neg": lambda form, given: -given[0],
    "popc": lambda form, given: given[0].bit_count(),
    "clz": lambda form, given: int(form.takes[0][1:]) - given[0].bit_length(),
    "brev": lambda form, given: int(f"{given[0]:0{form.takes[0][1:]}b}"[::-1], 2),
    "bfe": bfe,
    "bfi": bfi,
    "and": lambda form, given: given[0] & given[1],
    "or": lambda form, given: given[0] | given[1],
    "xor": lambda form, given: given[0] ^ given[1],
    "not": lambda form, given: 1 - given[0] if form.takes[0] == "pred" else ~given[0],
    "shl": lambda form, given: shift(given[0], given[1], int(form.gives[1:]), left=True),
    "shr": lambda form, given: shift(given[0], given[1], int(form.gives[1:]), left=False),
    "shf": shf,
    "lop3": lop3,
    "prmt": prmt,
    "mov": lambda form, given: given[0],
    "cvta": lambda form, given: given[0],
    "createpolicy": lambda form, given: 0,
    "selp": lambda form, given: given[0] if given[2] else given[1],
    "setp": _setp,
    "cvt": _cvt,
    "rcp": lambda form, given: over(signed(Fraction(1)), given[0]),
    "sqrt": lambda form, given: root(given[0], form.takes[0]),
    "rsqrt": _approximated(_reciprocal_root),
    "ex2": _approximated(_exp2),
    "lg2": _approximated(_log2),
    "sin": _approximated(math.sin),
    "cos": _approximated(math.cos),
    "tanh": _approximated(math.tanh),
}
