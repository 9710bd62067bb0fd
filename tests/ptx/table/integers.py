"""Integer arithmetic (PTX ISA, "Integer Arithmetic Instructions")."""

from ..forms import INTEGERS, lane

_ALL = f"{{t: {INTEGERS}}}"
_WIDE = "{t,w: s16/s32 u16/u32 s32/s64 u32/u64}"
_TWO = "{x,t: s16x2/s16 u16x2/u16}"

ROWS = [
    lane(f"add.{_ALL}", "t t -> t", "a + b"),
    lane(f"sub.{_ALL}", "t t -> t", "a - b"),
    lane(f"mul.lo.{_ALL}", "t t -> t", "a * b"),
    lane(f"mul.hi.{_ALL}", "t t -> t", "upper_product(a, b)"),
    lane(f"mul.wide.{_WIDE}", "t t -> w", "{w}(a) * {w}(b)"),
    lane(f"mad.lo.{_ALL}", "t t t -> t", "a * b + c"),
    lane(f"mad.hi.{_ALL}", "t t t -> t", "upper_product(a, b) + c"),
    lane(f"mad.wide.{_WIDE}", "t t w -> w", "{w}(a) * {w}(b) + c"),
    lane(f"div.{_ALL}", "t t -> t", "quotient(a, b)"),
    lane(f"rem.{_ALL}", "t t -> t", "remainder(a, b)"),
    lane(f"min.{_ALL}", "t t -> t", "least(a, b)"),
    lane(f"max.{_ALL}", "t t -> t", "greatest(a, b)"),
    lane("abs.{t: s16 s32 s64}", "t -> t", "select(a < 0, -a, a)"),
    lane("neg.{t: s16 s32 s64}", "t -> t", "-a"),
    lane("popc.{t: b32 b64}", "t -> u32", "ones(a)"),
    lane("clz.{t: b32 b64}", "t -> u32", "leading_zeros(a)"),
    lane("brev.{t: b32 b64}", "t -> t", "reversed_bits(a)"),
    lane("bfe.{t: u32 s32 u64 s64}", "t u32 u32 -> t", "extracted(a, b, c)"),
    lane("bfi.{t: b32 b64}", "t t u32 u32 -> t", "inserted(a, b, c, d)"),
    lane(f"add.{_TWO}", "t t -> t", "a + b", halves=True),
    lane(f"min.{_TWO}", "t t -> t", "least(a, b)", halves=True),
    lane(f"max.{_TWO}", "t t -> t", "greatest(a, b)", halves=True),
]
