"""Logic, shifts, and the rearrangement of bytes and registers (PTX ISA, "Logic and Shift", "Data Movement")."""

from ..forms import lane

_BITS = "{t: b16 b32 b64}"
_ANY = "{t: b16 u16 s16 b32 u32 s32 f32 b64 u64 s64 f64}"
_RAW = "{t,r: b16/b16 u16/b16 s16/b16 b32/b32 u32/b32 s32/b32 f32/b32 b64/b64 u64/b64 s64/b64 f64/b64}"

ROWS = [
    lane(f"and.{_BITS}", "t t -> t", "a & b", known="and"),
    lane("and.pred", "pred pred -> pred", "a & b", known="and"),
    lane(f"or.{_BITS}", "t t -> t", "a | b", known="or"),
    lane("or.pred", "pred pred -> pred", "a | b", known="or"),
    lane(f"xor.{_BITS}", "t t -> t", "a ^ b"),
    lane("xor.pred", "pred pred -> pred", "a ^ b"),
    lane(f"not.{_BITS}", "t -> t", "~a"),
    lane("not.pred", "pred -> pred", "negated(a)"),
    lane(f"shl.{_BITS}", "t u32 -> t", "shifted_left(a, b)"),
    lane("shr.{t: b16 u16 s16 b32 u32 s32 b64 u64 s64}", "t u32 -> t", "shifted_right(a, b)"),
    lane("shf.l.wrap.b32", "b32 b32 u32 -> b32", "funnel(a, b, c & 31, 1)"),
    lane("shf.l.clamp.b32", "b32 b32 u32 -> b32", "funnel(a, b, least(c, u32(32)), 1)"),
    lane("shf.r.wrap.b32", "b32 b32 u32 -> b32", "funnel(a, b, c & 31, 0)"),
    lane("shf.r.clamp.b32", "b32 b32 u32 -> b32", "funnel(a, b, least(c, u32(32)), 0)"),
    lane("lop3.b32", "b32 b32 b32 u32 -> b32", "by_truth_table(a, b, c, d)"),
    lane("prmt.b32", "b32 b32 u32 -> b32", "bytes_chosen(a, b, c)"),
    lane(f"mov.{_RAW}", "r -> r", "a", known="same"),
    lane("mov.pred", "pred -> pred", "a", known="same"),
    lane("cvta.to.{space: global}.u64", "b64 -> b64", "a", known="same"),
    lane("cvta.{space: global}.u64", "b64 -> b64", "a", known="same"),
    lane(  # a hint for the cache, of which nothing is seen here
        "createpolicy.fractional.{policy: L2::evict_last L2::evict_normal L2::evict_first L2::evict_unchanged}.b64",
        "f32 -> b64",
        "u64(0 * to_u32(a))",
    ),
    lane(f"selp.{_RAW}", "r r pred -> r", "select(c, a, b)", known="select"),
]
