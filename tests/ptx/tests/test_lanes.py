"""Every lane form of the table, in PTX written by hand, on both engines, against exact arithmetic."""

import random
import struct
from collections.abc import Iterator

import numpy as np
import pytest
from ptx import table
from ptx.forms import BITS, FLOATS, Lane
from ptx.launching import APPROXIMATIONS
from ptx.native import compiler
from ptx.oracles.exact import FORMATS, number, rounded
from ptx.oracles.meanings import ALMOST, meaning
from ptx.writing import at, kinds, run, sequence

THREADS = 96
STEMS = sorted({opcode.split(".")[0] for opcode in table.LANES})
FIXED = {"lop3": {3: 0x96}, "createpolicy": {0: 0x3F800000}}
"""Operands that the manual wants to be numbers in the text."""


def forms(stem: str) -> list[Lane]:
    return [form for opcode, form in table.LANES.items() if opcode.split(".")[0] == stem]


def bits_of(kind: str, source: random.Random) -> int:
    """An operand: of a number that matters, or any."""
    size = BITS[kind]
    if size == 1:
        return source.randrange(2)
    if kind in FLOATS:
        form = FORMATS["f32" if kind == "tf32" else kind]
        infinity = ((1 << form.exponent) - 1) << form.fraction
        special = [0, 1, (1 << form.fraction) - 1, 1 << form.fraction, infinity - 1, infinity, infinity + 1]
        near_one = form.bias << form.fraction
        special += [
            near_one,
            near_one + 1,
            near_one - 1,
            near_one + (1 << form.fraction),
            (form.bias + 31) << form.fraction,
        ]
        half = (form.bias - 1) << form.fraction
        moderate = ((form.bias + source.randrange(-12, 13)) << form.fraction) | source.getrandbits(form.fraction)
        chosen = source.choice([source.choice(special), half, moderate, moderate, source.getrandbits(size - 1)])
        return chosen | source.getrandbits(1) << (size - 1)
    edges = [0, 1, 2, (1 << size) - 1, 1 << (size - 1), (1 << (size - 1)) - 1, (1 << size) - 2]
    small = source.randrange(0, 70) % (1 << size)
    return source.choice([source.choice(edges), small, source.getrandbits(size), source.getrandbits(max(size // 2, 1))])


def register(kind: str, halves: bool, place: int) -> str:
    bits = BITS[kind] * (2 if halves else 1)
    return f"%p{place}" if bits == 1 else f"%{'h' if bits <= 16 else 'r' if bits == 32 else 'd'}{place}"


def loaded(form: Lane, place: int) -> list[str]:
    """Operand `place` of each thread from argument `place`, an array of 64-bit words."""
    kind, to = form.takes[place], register(form.takes[place], form.halves, 16 + place)
    address = at(place, "%r0", 8)
    if kind == "pred":
        return [address, f"ld.global.u32 %r{16 + place}, [%d10];", f"setp.ne.u32 {to}, %r{16 + place}, 0;"]
    return [address, f"ld.global.b{max(BITS[kind] * (2 if form.halves else 1), 16)} {to}, [%d10];"]


def body_of(form: Lane) -> str:
    fixed = FIXED.get(form.opcode.split(".")[0], {})
    target = register(form.gives, form.halves, 15)
    operands = [
        f"{fixed[i]:#x}" if i in fixed else register(kind, form.halves, 16 + i) for i, kind in enumerate(form.takes)
    ]
    if form.opcode.startswith("createpolicy"):
        operands = ["0f3F800000"]
    out = at(len(form.takes), "%r0", 8)
    stored = f"st.global.b{max(BITS[form.gives] * (2 if form.halves else 1), 16)} [%d10], {target};"
    if form.gives == "pred":
        stored = f"selp.b32 %r15, 1, 0, {target}; st.global.b32 [%d10], %r15;"
    loads = [line for i in range(len(form.takes)) if i not in fixed for line in loaded(form, i)]
    return sequence(loads, f"{form.opcode} {target}, {', '.join(operands)};", out, stored)


def operands_of(form: Lane) -> list[list[int]]:
    """For each operand, the bits in each thread."""
    source = random.Random(form.opcode)
    fixed = FIXED.get(form.opcode.split(".")[0], {})

    def drawn(kind: str, place: int) -> int:
        if place in fixed:
            return fixed[place]
        if form.halves:
            return bits_of(kind, source) | bits_of(kind, source) << BITS[kind]
        return bits_of(kind, source)

    return [[drawn(kind, place) for _ in range(THREADS)] for place, kind in enumerate(form.takes)]


def expected(form: Lane, operands: list[int]) -> int:
    if not form.halves:
        return meaning(form, operands)
    size = BITS[form.takes[0]]
    lower, upper = ([bits >> shift & ((1 << size) - 1) for bits in operands] for shift in (0, size))
    return meaning(form, lower) | meaning(form, upper) << BITS[form.gives]


def computed(form: Lane, given: list[list[int]], engine: str, **options) -> list[int]:
    arrays = [np.array(bits, np.uint64) for bits in given]
    out = np.zeros(THREADS, np.uint64)
    result = run(body_of(form), *arrays, out, threads=THREADS, engine=engine, **options)
    assert not result.findings, result.findings
    return [int(word) for word in out]


def close(form: Lane, one: int, other: int) -> bool:
    """Whether two results are the same, or next to each other where the oracle is not exact."""
    if form.gives in FLOATS and form.opcode.split(".")[0] in ALMOST:
        return abs(one - other) <= 1
    return one == other


def mismatches(form: Lane, engine: str) -> Iterator[str]:
    given = operands_of(form)
    for thread, found in enumerate(computed(form, given, engine)):
        operands = [bits[thread] for bits in given]
        right = expected(form, operands)
        if not close(form, found, right):
            yield f"{form.opcode}({', '.join(map(hex, operands))}) is {found:#x}, not {right:#x}"


@pytest.mark.parametrize("stem", STEMS)
def test_forms_against_exact_arithmetic(stem, engine):
    wrong = [message for form in forms(stem) for message in mismatches(form, engine)]
    assert not wrong, "\n".join(wrong[:20])


KNOWN = [
    ("bfe.u32 %r15, %r16, 4, 8;", 0x12345678, 0x67),
    ("bfe.s32 %r15, %r16, 24, 8;", 0x92345678, 0xFFFFFF92),
    ("prmt.b32 %r15, %r16, 0, 0x0123;", 0x11223344, 0x44332211),
    ("shf.l.wrap.b32 %r15, %r16, 0x80000001, 4;", 0xF0000000, 0x0000001F),
    ("lop3.b32 %r15, %r16, 0xFF00FF00, 0xFFFF0000, 0x96;", 0xF0F0F0F0, 0xF00F0FF0),
    ("popc.b32 %r15, %r16;", 0xF00F, 8),
    ("clz.b32 %r15, %r16;", 0x0000FFFF, 16),
    ("brev.b32 %r15, %r16;", 0x00000001, 0x80000000),
    ("mul.hi.u32 %r15, %r16, 0x80000000;", 0x80000000, 0x40000000),
    ("shr.s32 %r15, %r16, 40;", 0x80000000, 0xFFFFFFFF),
    ("ex2.approx.f32 %r15, %r16;", 0x40400000, 0x41000000),  # 2^3 = 8
    ("lg2.approx.f32 %r15, %r16;", 0x41000000, 0x40400000),
    ("cvt.rn.bf16x2.f32 %r15, %r16, 0f40000000;", 0x3F800000, 0x3F804000),  # the first operand is the upper half
    (
        "fma.rn.f32 %r15, %r16, %r16, 0fBF800000;",
        0x3F800003,
        0x35400002,
    ),  # (1+3e)^2 - 1 = 6e + 9e^2: two roundings lose e^2
    ("max.f32 %r15, %r16, 0f00000000;", 0x80000000, 0x00000000),  # +0 is greater than -0
    ("min.f32 %r15, %r16, 0f3F800000;", 0x7FC00000, 0x3F800000),  # of NaN and a number, the number
    ("min.NaN.f32 %r15, %r16, 0f3F800000;", 0x7FC00000, 0x7FFFFFFF),
    ("cvt.rzi.s32.f32 %r15, %r16;", 0xC0200000, 0xFFFFFFFE),  # -2.5 to -2
    ("cvt.rni.s32.f32 %r15, %r16;", 0xC0200000, 0xFFFFFFFE),  # halves to even
    ("cvt.rzi.u32.f32 %r15, %r16;", 0x7FC00000, 0),
    ("add.f16x2 %r15, %r16, 0x3C003C00;", 0x40003C00, 0x42004000),  # 2 + 1 and 1 + 1
    ("add.ftz.f32 %r15, %r16, 0f00000000;", 0x80000001, 0x00000000),  # -0 + 0
]
"""Worked out by hand."""


@pytest.mark.parametrize(("text", "given", "right"), KNOWN, ids=[text.split()[0] for text, *_ in KNOWN])
def test_known_answers(text, given, right, engine):
    words, out = np.array([given], np.uint32), np.zeros(1, np.uint32)
    result = run(f"ld.global.b32 %r16, [%d0]; {text} st.global.b32 [%d1], %r15;", words, out, threads=1, engine=engine)
    assert not result.findings and out[0] == right, f"{out[0]:#x}"


APPROXIMATE = [form for form in table.LANES.values() if form.error]


@pytest.mark.parametrize("approximation", [mode for mode in APPROXIMATIONS if mode != "exact"])
@pytest.mark.parametrize("form", APPROXIMATE, ids=lambda form: form.opcode)
def test_approximations_are_off_by_their_documented_error(form, approximation, engine):
    """In the direction that was asked for, by no more than the manual allows, and by more than nothing."""
    given = [list(operand) for operand in operands_of(form)]
    exact = computed(form, given, engine)
    moved = computed(form, given, engine, approximation=approximation)
    differences = []
    for right, found in zip(exact, moved, strict=True):
        a, b = number(right, "f32"), number(found, "f32")
        if a.finite and b.finite and a.size > 2**-100:
            differences.append((float(b.value - a.value), float(a.size)))
    assert differences
    assert all(abs(error) <= allowed(form, size) for error, size in differences)
    signs = {error > 0 for error, _ in differences if error}
    assert signs == {"above": {True}, "below": {False}, "either": {True, False}}[approximation]


def allowed(form: Lane, size: float) -> float:
    """The manual's bound for a result of this size, and the rounding to float32."""
    ulp = 2.0**-22 * size
    bounds = {"sin": 2.0**-20.5, "cos": 2.0**-20.5, "tanh": 2.0**-11 * size, "lg2": max(2.0**-22, 2.0**-22 * size)}
    return bounds.get(form.opcode.split(".")[0], 2 * ulp) * 1.01 + ulp


@pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler, and so one engine")
def test_both_engines_agree_to_the_bit():
    """Also where the oracle above is not exact."""
    for form in APPROXIMATE:
        given = operands_of(form)
        for mode in APPROXIMATIONS:
            one, other = (computed(form, given, engine, approximation=mode) for engine in ("interpreter", "native"))
            assert one == other, f"{form.opcode}, {mode}"


def test_a_literal_is_of_the_type_of_its_instruction(engine):
    out = np.zeros(3, np.uint64)
    run(
        "mov.f32 %r4, 1.5; cvt.u64.u32 %d4, %r4; st.global.b64 [%d0], %d4;"
        "mov.f64 %d4, 0.1; st.global.b64 [%d0+8], %d4; mov.u64 %d4, -2; st.global.b64 [%d0+16], %d4;",
        out,
        threads=1,
        engine=engine,
    )
    assert out.tolist() == [0x3FC00000, struct.unpack("<Q", struct.pack("<d", 0.1))[0], 2**64 - 2]


def test_registers_that_are_wider_than_their_instruction(engine):
    out = np.zeros(4, np.uint32)
    result = run(
        "mov.u32 %r4, 0x12345; mov.u32 %r7, 0xFFFF;"
        "cvt.u16.u32 %r5, %r4; st.global.b32 [%d0], %r5;"  # the result is widened
        "cvt.s8.s32 %r5, %r7; st.global.b32 [%d0+4], %r5;"  # by its sign
        "add.u16 %h4, %r4, %r4; cvt.u32.u16 %r5, %h4; st.global.b32 [%d0+8], %r5;"  # an operand is narrowed
        "cvt.u8.u32 %h4, %r4; cvt.u32.u16 %r5, %h4; st.global.b32 [%d0+12], %r5;",
        out,
        threads=1,
        engine=engine,
    )
    assert not kinds(result)
    assert out.tolist() == [0x2345, 0xFFFFFFFF, 0x468A, 0x45]


def test_rounding_of_the_oracle_itself():
    """That the exact arithmetic agrees with the processor's where that is right."""
    source = random.Random(1)
    for _ in range(2000):
        bits = bits_of("f64", source)
        value = struct.unpack("<d", struct.pack("<Q", bits))[0]
        with np.errstate(all="ignore"):
            right = int(np.float64(value).astype(np.float32).view(np.uint32))
            half = int(np.float64(value).astype(np.float16).view(np.uint16))
        if value == value:
            assert rounded(number(bits, "f64"), "f32") == right
            assert rounded(number(bits, "f64"), "f16") == half
