"""Lane forms on numpy: the expression of a table row, compiled once, over the registers of the threads that are
active."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from .. import bit_words, words
from ..forms import Lane

CONTAINERS: dict[int, Any] = {1: np.bool_, 16: np.uint16, 32: np.uint32, 64: np.uint64}
"""Registers by their bits."""

_SMALL = {"u8": np.uint8, "s8": np.int8, "b8": np.uint8}
_PLAIN = {
    "u16": np.uint16,
    "s16": np.int16,
    "u32": np.uint32,
    "s32": np.int32,
    "u64": np.uint64,
    "s64": np.int64,
    "f32": np.float32,
    "f64": np.float64,
    "tf32": np.float32,
    "b16": np.uint16,
    "b32": np.uint32,
    "b64": np.uint64,
}
_NAMES = {name: word for name, word in (vars(bit_words) | vars(words)).items() if not name.startswith("_")}


def loaded(bits: np.ndarray, kind: str) -> np.ndarray:
    """Registers as the numbers of a type; 16-bit floats as the float32 numbers that they stand for."""
    if kind == "pred":
        return bits
    if kind in _SMALL:
        return bits.astype(np.uint8).view(_SMALL[kind])
    if kind == "f16":
        return bits.view(np.float16).astype(np.float32)
    if kind == "bf16":
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return bits.view(_PLAIN[kind])


def stored(numbers: np.ndarray, kind: str) -> np.ndarray:
    """Numbers as registers. A NaN that is computed is the canonical one."""
    if kind == "pred":
        return numbers
    if kind in _SMALL:
        return numbers.astype(np.int16 if kind == "s8" else np.uint16).view(np.uint16)
    if kind == "f16":
        return words.f16_bits(numbers)
    if kind == "bf16":
        return words.bf16_bits(numbers)
    dtype = np.dtype(_PLAIN[kind])
    numbers = np.ascontiguousarray(numbers, dtype)
    bits = numbers.view(f"u{dtype.itemsize}")
    if dtype.kind != "f":
        return bits
    canonical = bits.dtype.type(0x7FFFFFFF if dtype.itemsize == 4 else 0x7FFFFFFFFFFFFFFF)
    return np.where(numbers != numbers, canonical, bits)


@cache
def meaning(form: Lane) -> Callable[..., np.ndarray]:
    return _compiled(form.means, len(form.takes))


@cache
def _compiled(expression: str, operands: int) -> Callable[..., np.ndarray]:
    names = ", ".join("abcd"[:operands])
    return eval(f"lambda {names}: {expression}", dict(_NAMES))


@cache
def _error(form: Lane) -> Callable[..., np.ndarray]:
    return eval(f"lambda r, {', '.join('abcd'[: len(form.takes)])}: {form.error}", dict(_NAMES))


def computed(form: Lane, registers: list[np.ndarray], approximation: int) -> np.ndarray:
    """What a form makes of the registers (containers) of some threads, as a container."""
    if form.halves:
        half = registers[0].dtype.itemsize // 2
        halves = [np.ascontiguousarray(register).view(f"u{half}") for register in registers]
        return np.ascontiguousarray(_numbers(form, halves, approximation)).view(registers[0].dtype)
    return _numbers(form, registers, approximation)


def _numbers(form: Lane, registers: list[np.ndarray], approximation: int) -> np.ndarray:
    operands = [loaded(register, kind) for register, kind in zip(registers, form.takes, strict=True)]
    if form.flush:
        operands = [words.flushed(x) if kind == "f32" else x for x, kind in zip(operands, form.takes, strict=True)]
    result = meaning(form)(*operands)
    if form.error and approximation:
        result = words.off(result, _error(form)(result, *operands), operands[0], approximation)
    if form.flush and form.gives == "f32":
        result = words.flushed(result)
    if form.saturate:
        result = words.saturated(result)
    return stored(np.asarray(result), form.gives)


LOWER, UPPER, WHOLE = np.uint8(1), np.uint8(2), np.uint8(3)
"""What is known of a register: its halves."""


def known(form: Lane, registers: list[np.ndarray], flags: list[np.ndarray]) -> np.ndarray:
    """What is known of a result, given what is known of the operands."""
    together = np.bitwise_and.reduce(flags)
    if form.halves or form.known == "same" or (together == WHOLE).all():
        return together
    if form.known == "select":
        return flags[2] & np.where(registers[2], flags[0], flags[1])
    if form.known == "lower":
        return np.where(together & LOWER, WHOLE, 0).astype(np.uint8)
    found = together == WHOLE
    if form.known in ("and", "or"):
        deciding = np.array(0 if form.known == "and" else -1).astype(registers[0].dtype)
        decided = [(flag == WHOLE) & (bits == deciding) for flag, bits in zip(flags, registers, strict=True)]
        found |= np.logical_or.reduce(decided)
    return np.where(found, WHOLE, 0).astype(np.uint8)
