"""Comparison of integers, and conversions between types (PTX ISA, "setp", "cvt")."""

from ..forms import INTEGERS, lane

_INTEGERS = "u8 s8 u16 s16 u32 s32 u64 s64"
_ROUNDED = "{r,how: rni/nearest rzi/toward_zero rmi/downward rpi/upward}"
_SIGNED = "{c,op: eq/== ne/!= lt/< le/<= gt/> ge/>=}"

ROWS = [
    lane(f"setp.{_SIGNED}.{{t: {INTEGERS}}}", "t t -> pred", "a {op} b"),
    lane("setp.{c,op: lo/< ls/<= hi/> hs/>=}.{t: u16 u32 u64}", "t t -> pred", "a {op} b"),
    lane("setp.{c,op: eq/== ne/!=}.{t: b16 b32 b64}", "t t -> pred", "a {op} b"),
    lane(f"cvt.{{d: {_INTEGERS}}}.{{s: u8 s8 u16 s16 u32 s32}}", "s -> d", "{d}(a)"),
    lane("cvt.{d: u8 s8 u16 s16 u32 s32}.{s: u64 s64}", "s -> d", "{d}(a)", known="lower"),
    lane("cvt.{d: u64 s64}.{s: u64 s64}", "s -> d", "{d}(a)", known="same"),
    lane(f"cvt.rn.{{d: f32 f64}}.{{s: {_INTEGERS}}}", "s -> d", "{d}(a)"),
    lane("cvt.rn.{d: f16 bf16}.{s: u8 s8 u16 s16 u32 s32}", "s -> d", "f64(a)"),
    lane(f"cvt.{_ROUNDED}[.ftz].{{d: {_INTEGERS}}}.{{s: f16 bf16 f32 f64}}", "s -> d", "to_{d}({how}(a))"),
    lane(f"cvt.{_ROUNDED}[.ftz].f32.f32", "f32 -> f32", "{how}(a)"),
    lane(f"cvt.{_ROUNDED}.f64.f64", "f64 -> f64", "{how}(a)"),
    lane("cvt[.ftz][.sat].f32.f32", "f32 -> f32", "a"),
    lane("cvt[.ftz].f32.{s: f16 bf16}", "s -> f32", "a"),
    lane("cvt[.ftz].f64.f32", "f32 -> f64", "f64(a)"),
    lane("cvt.{r,how: rz/toward_zero rm/downward rp/upward}[.ftz].f32.f64", "f64 -> f32", "{how}_f32(a)"),
    lane("cvt.rn[.ftz].f32.f64", "f64 -> f32", "f32(a)"),
    lane("cvt.rn.{d: f16 bf16}.{s: f32 f64}", "s -> d", "a"),
    lane("cvt.rna.tf32.f32", "f32 -> b32", "rounded_to_tf32(a)"),
    lane("cvt.rn.{d,t: bf16x2/bf16 f16x2/f16}.f32", "f32 f32 -> b32", "paired({t}_bits(a), {t}_bits(b))"),
]
