"""Floating-point arithmetic (PTX ISA, "Floating Point", "Half Precision Floating Point" and their comparisons).

An operand of a 16-bit type is the float32 number it stands for; a result is rounded once, to nearest even. Errors of
approximations are those that the manual gives for the instruction.
"""

from ..forms import lane

_HALF = "{t: f16 bf16}"
_TWO_HALVES = "{x,t: f16x2/f16 bf16x2/bf16}"
_ORDERED = "{c,op: eq/== lt/< le/<= gt/> ge/>=}"
_UNORDERED = "{c,op: equ/== ltu/< leu/<= gtu/> geu/>=}"
_DIRECTED = "{r,how: rz/toward_zero rp/upward}"
_TYPES = "{t: f16 bf16 f32 f64}"

_BINARY = (("add", "a + b"), ("sub", "a - b"), ("mul", "a * b"))
_EXTREMES = (("min", "lesser"), ("max", "greater"))

ROWS = [
    *(lane(f"{name}[.rn][.ftz][.sat].f32", "f32 f32 -> f32", means) for name, means in _BINARY),
    *(lane(f"{name}[.rn][.ftz].f32x2", "f32 f32 -> f32", means, halves=True) for name, means in _BINARY),
    *(lane(f"{name}[.rn].f64", "f64 f64 -> f64", means) for name, means in _BINARY),
    *(lane(f"{name}[.rn].{_HALF}", "t t -> t", means) for name, means in _BINARY),
    *(lane(f"{name}[.rn].{_TWO_HALVES}", "t t -> t", means, halves=True) for name, means in _BINARY),
    lane("fma.rn[.ftz][.sat].f32", "f32 f32 f32 -> f32", "fma(a, b, c)"),
    lane(f"add.{_DIRECTED}[.ftz][.sat].f32", "f32 f32 -> f32", "{how}_f32(sum_to_odd(a, b))"),
    lane(f"sub.{_DIRECTED}[.ftz][.sat].f32", "f32 f32 -> f32", "{how}_f32(sum_to_odd(a, -b))"),
    # Downwards, a sum that is 0 is -0, unless both parts of it are +0.
    lane("add.rm[.ftz][.sat].f32", "f32 f32 -> f32", "zero_downward(downward_f32(sum_to_odd(a, b)), a, b)"),
    lane("sub.rm[.ftz][.sat].f32", "f32 f32 -> f32", "zero_downward(downward_f32(sum_to_odd(a, -b)), a, -b)"),
    lane(
        "fma.rm[.ftz][.sat].f32",
        "f32 f32 f32 -> f32",
        "zero_downward(downward_f32(fma_to_odd(a, b, c)), f64(a) * f64(b), f64(c))",
    ),
    lane("mul.rm[.ftz][.sat].f32", "f32 f32 -> f32", "downward_f32(f64(a) * f64(b))"),
    lane(f"mul.{_DIRECTED}[.ftz][.sat].f32", "f32 f32 -> f32", "{how}_f32(f64(a) * f64(b))"),
    lane(f"fma.{_DIRECTED}[.ftz][.sat].f32", "f32 f32 f32 -> f32", "{how}_f32(fma_to_odd(a, b, c))"),
    lane("fma.rn[.ftz].f32x2", "f32 f32 f32 -> f32", "fma(a, b, c)", halves=True),
    lane("fma.rn.f64", "f64 f64 f64 -> f64", "fma(a, b, c)"),
    lane(f"fma.rn.{_HALF}", "t t t -> t", "fma_to_odd(a, b, c)"),
    lane(f"fma.rn.{_TWO_HALVES}", "t t t -> t", "fma_to_odd(a, b, c)", halves=True),
    *(lane(f"{name}[.ftz].f32", "f32 f32 -> f32", f"{word}_number(a, b)") for name, word in _EXTREMES),
    *(lane(f"{name}[.ftz].NaN.f32", "f32 f32 -> f32", f"{word}_or_nan(a, b)") for name, word in _EXTREMES),
    *(lane(f"{name}.f64", "f64 f64 -> f64", f"{word}_number(a, b)") for name, word in _EXTREMES),
    *(lane(f"{name}.{_HALF}", "t t -> t", f"{word}_number(a, b)") for name, word in _EXTREMES),
    *(lane(f"{name}.NaN.{_HALF}", "t t -> t", f"{word}_or_nan(a, b)") for name, word in _EXTREMES),
    *(lane(f"{name}.{_TWO_HALVES}", "t t -> t", f"{word}_number(a, b)", halves=True) for name, word in _EXTREMES),
    *(lane(f"{name}.NaN.{_TWO_HALVES}", "t t -> t", f"{word}_or_nan(a, b)", halves=True) for name, word in _EXTREMES),
    lane("neg[.ftz].{t: f32 f64}", "t -> t", "-a"),
    lane("abs[.ftz].{t: f32 f64}", "t -> t", "magnitude(a)"),
    lane(f"neg.{_HALF}", "t -> t", "-a"),
    lane(f"abs.{_HALF}", "t -> t", "magnitude(a)"),
    lane(f"neg.{_TWO_HALVES}", "t -> t", "-a", halves=True),
    lane(f"abs.{_TWO_HALVES}", "t -> t", "magnitude(a)", halves=True),
    lane("div.rn[.ftz].f32", "f32 f32 -> f32", "divided(a, b)"),
    lane("div.rn.f64", "f64 f64 -> f64", "divided(a, b)"),
    lane("div.full[.ftz].f32", "f32 f32 -> f32", "divided(a, b)", error="2 * ulp(r)"),
    lane("div.approx[.ftz].f32", "f32 f32 -> f32", "divided_quickly(a, b)", error="2 * ulp(r)"),
    lane("rcp.rn[.ftz].f32", "f32 -> f32", "divided(f32(1), a)"),
    lane("rcp.rn.f64", "f64 -> f64", "divided(f64(1), a)"),
    lane("rcp.approx[.ftz].f32", "f32 -> f32", "divided(f32(1), a)", error="ulp(r)"),
    lane("sqrt.rn[.ftz].f32", "f32 -> f32", "square_root(a)"),
    lane("sqrt.rn.f64", "f64 -> f64", "square_root(a)"),
    lane("sqrt.approx[.ftz].f32", "f32 -> f32", "square_root(a)", error="f64(magnitude(r)) * 1.1920928955078125e-07"),
    lane(
        "rsqrt.approx[.ftz].f32",
        "f32 -> f32",
        "f32(divided(f64(1), square_root(f64(a))))",
        error="f64(magnitude(r)) * 1.2776e-07",
    ),
    lane("ex2.approx[.ftz].f32", "f32 -> f32", "f32(two_to(f64(a)))", error="2 * ulp(r)"),
    lane(
        "lg2.approx[.ftz].f32",
        "f32 -> f32",
        "f32(log_two(f64(a)))",
        error="2.384185791015625e-07 * select((a > 0.5) & (a < 2), f64(1), f64(magnitude(r)))",
    ),
    lane("sin.approx[.ftz].f32", "f32 -> f32", "f32(sine(f64(a)))", error="f64(6.743495e-07) + 0 * r"),
    lane("cos.approx[.ftz].f32", "f32 -> f32", "f32(cosine(f64(a)))", error="f64(6.743495e-07) + 0 * r"),
    lane("tanh.approx.f32", "f32 -> f32", "f32(hyperbolic_tangent(f64(a)))", error="f64(magnitude(r)) * 0.00048828125"),
    lane(f"setp.{_ORDERED}[.ftz].{_TYPES}", "t t -> pred", "a {op} b"),
    lane(f"setp.ne[.ftz].{_TYPES}", "t t -> pred", "(a < b) | (a > b)"),
    lane(f"setp.{_UNORDERED}[.ftz].{_TYPES}", "t t -> pred", "(a {op} b) | unordered(a, b)"),
    lane(f"setp.neu[.ftz].{_TYPES}", "t t -> pred", "a != b"),
    lane(f"setp.num[.ftz].{_TYPES}", "t t -> pred", "negated(unordered(a, b))"),
    lane(f"setp.nan[.ftz].{_TYPES}", "t t -> pred", "unordered(a, b)"),
]
