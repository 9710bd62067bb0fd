"""Loads, stores, atomics and copies move the bytes that the manual says they move."""

import numpy as np
import pytest
from ptx import Pointer, Struct, array, decoded, kernels, launch
from ptx.launching import Buffer
from ptx.writing import at, kinds, run, sequence

SIGNED = {"s8": np.int8, "s16": np.int16, "s32": np.int32, "s64": np.int64}
UNSIGNED = {f"{kind}{size}": f"u{size // 8}" for kind in "bu" for size in (8, 16, 32, 64)}
TYPES = {**SIGNED, **UNSIGNED, "f32": "u4", "f64": "u8"}


def register(bits: int, place: int) -> str:
    return f"%{'h' if bits <= 16 else 'r' if bits == 32 else 'd'}{place}"


@pytest.mark.parametrize("space", ["global", "shared"])
@pytest.mark.parametrize("kind", TYPES)
def test_a_load_and_a_store_of_every_type(kind, space, engine):
    dtype = np.dtype(TYPES[kind])
    size, bits = dtype.itemsize, 8 * dtype.itemsize
    source = np.random.default_rng(0).integers(0, 256, 32 * size, np.uint8)
    out = np.zeros_like(source)
    own = register(bits, 16)
    body = [at(0, "%r0", size), f"ld.global.{kind} {own}, [%d10];"]
    if space == "shared":
        body += [
            f".shared .align 8 .b8 tile[{32 * size}];",
            f"mov.u32 %r4, tile; mad.lo.u32 %r4, %r0, {size}, %r4; st.shared.{kind} [%r4], {own};",
            f"mov.u32 %r4, tile; mad.lo.u32 %r4, %r0, {size}, %r4; ld.shared.{kind} {register(bits, 17)}, [%r4];",
        ]
        own = register(bits, 17)
    body += [at(1, "%r0", size), f"st.global.{kind} [%d10], {own};"]
    assert not kinds(run(sequence(body), source, out, engine=engine))
    assert (out == source).all()


@pytest.mark.parametrize("kind", [*SIGNED, "u8", "u16", "u32", "b8"])
def test_a_load_into_a_wider_register_is_extended_as_its_type_says(kind, engine):
    dtype = np.dtype(TYPES[kind])
    source, out = np.array([dtype.type(-3 % 256 if dtype.kind == "u" else -3)]), np.zeros(1, np.uint64)
    body = f"ld.global.{kind} %d4, [%d0]; st.global.b64 [%d1], %d4;"
    assert not kinds(run(body, source, out, threads=1, engine=engine))
    assert out[0] == np.uint64(int(source[0]) % 2**64)


@pytest.mark.parametrize("vector", [2, 4])
@pytest.mark.parametrize("hints", ["", ".L1::evict_last", ".L1::no_allocate.L2::128B", ".nc.L1::evict_first"])
def test_vectors_and_hints(vector, hints, engine):
    source, out = np.arange(32 * vector, dtype=np.uint32), np.zeros(32 * vector, np.uint32)
    own = ", ".join(f"%r{16 + i}" for i in range(vector))
    stored = "" if "nc" in hints or "L2" in hints else hints
    body = sequence(
        at(0, "%r0", 4 * vector),
        f"ld.global{hints}.v{vector}.b32 {{{own}}}, [%d10];",
        at(1, "%r0", 4 * vector),
        f"st.global{stored}.v{vector}.b32 [%d10], {{{own}}};",
    )
    assert not kinds(run(body, source, out, engine=engine))
    assert (out == source).all()


def test_vectors_of_64_bits_and_sinks(engine):
    source, out = np.arange(2, dtype=np.uint64), np.zeros(2, np.uint64)
    body = "ld.global.v2.b64 {_, %d4}, [%d0]; st.global.v2.b64 [%d1], {%d4, %d4};"
    assert not kinds(run(body, source, out, threads=1, engine=engine))
    assert out.tolist() == [1, 1]


def test_parameters_are_memory(engine):
    text = """
.visible .entry test(.param .align 8 .b8 test_param_0[24], .param .f32 test_param_1, .param .u64 test_param_2)
{
    .reg .b16 %h<4>; .reg .b32 %r<8>; .reg .b64 %d<8>;
    mov.b64 %d1, test_param_0;
    ld.param.u64 %d2, [%d1+8];
    ld.param.v2.u8 {%h1, %h2}, [test_param_0+16];
    ld.param.s16 %r3, [test_param_0+18];
    ld.param.f32 %r4, [test_param_1];
    ld.param.u64 %d3, [test_param_2];
    cvt.u32.u16 %r1, %h1; cvt.u32.u16 %r2, %h2;
    st.global.v4.b32 [%d3], {%r1, %r2, %r3, %r4}; st.global.b64 [%d3+16], %d2;
    ret;
}
"""
    out = np.zeros(6, np.uint32)
    given = Struct("qqBBh", (1, 2**40 + 7, 250, 3, -5))
    arguments = (given, 1.5, array(out))
    assert not launch(decoded(kernels(text)["test"]), 1, 1, arguments, engine=engine).findings
    assert out.tolist() == [250, 3, 2**32 - 5, 0x3FC00000, 7, 256]


def test_pointers_within_a_struct_and_within_a_buffer(engine):
    text = """
.visible .entry test(.param .align 8 .b8 test_param_0[16])
{
    .reg .b32 %r<8>; .reg .b64 %d<8>;
    ld.param.u64 %d1, [test_param_0]; ld.param.u64 %d2, [test_param_0+8];
    ld.global.b32 %r1, [%d1]; st.global.b32 [%d2], %r1;
    ret;
}
"""
    words = np.arange(8, dtype=np.uint32)
    buffer = Buffer(words.view(np.uint8))
    given = Struct("PP", (Pointer(buffer, 20), Pointer(buffer, 4)))
    assert not launch(decoded(kernels(text)["test"]), 1, 1, (given,), engine=engine).findings
    assert words.tolist() == [0, 5, 2, 3, 4, 5, 6, 7]


def test_variables_of_the_module(engine):
    before = ".global .align 4 .b32 table[2] = {5, 7};"
    out = np.zeros(1, np.uint32)
    body = "mov.u64 %d4, table; ld.global.b32 %r4, [%d4+4]; ld.global.b32 %r5, [table]; add.u32 %r4, %r4, %r5;"
    assert not kinds(run(f"{body} st.global.b32 [%d0], %r4;", out, before=before, threads=1, engine=engine))
    assert out[0] == 12


def test_dynamic_shared_memory_lies_behind_the_variables(engine):
    before = ".extern .shared .align 16 .b8 dynamic[];"
    out = np.zeros(2, np.uint32)
    body = """
.shared .align 4 .b8 own[20];
mov.u32 %r4, own; mov.u32 %r5, dynamic; sub.u32 %r6, %r5, %r4;
st.shared.b32 [own+16], 3; st.shared.b32 [dynamic], 4; ld.shared.b32 %r7, [own+16];
st.global.b32 [%d0], %r6; st.global.b32 [%d0+4], %r7;
"""
    assert not kinds(run(body, out, before=before, threads=1, shared_bytes=4, engine=engine))
    assert out.tolist() == [32, 3]


ATOMICS = {
    "add": lambda old, b, kind: old + b,
    "min": lambda old, b, kind: min(old, b),
    "max": lambda old, b, kind: max(old, b),
    "and": lambda old, b, kind: old & b,
    "or": lambda old, b, kind: old | b,
    "xor": lambda old, b, kind: old ^ b,
    "exch": lambda old, b, kind: b,
    "inc": lambda old, b, kind: 0 if old >= b else old + 1,
    "dec": lambda old, b, kind: b if old == 0 or old > b else old - 1,
}
TYPES_OF = {
    "add": ("u32", "s32", "u64", "f32", "f64"),
    "min": ("u32", "s32", "u64", "s64"),
    "max": ("u32", "s32", "u64", "s64"),
    "and": ("b32", "b64"),
    "or": ("b32", "b64"),
    "xor": ("b32", "b64"),
    "exch": ("b32", "b64"),
    "inc": ("u32",),
    "dec": ("u32",),
}
NUMPY = {"f32": np.float32, "f64": np.float64, "s32": np.int32, "s64": np.int64}


@pytest.mark.parametrize("space", ["global", "shared"])
@pytest.mark.parametrize(("operation", "kind"), [(name, kind) for name, of in TYPES_OF.items() for kind in of])
def test_atomics_change_memory_one_thread_after_the_other(operation, kind, space, engine):
    dtype = np.dtype(NUMPY.get(kind, f"u{int(kind[1:]) // 8}"))
    bits = 8 * dtype.itemsize
    given = np.array([5, 250, 3, 77, 12, 0, 9, 31], dtype)
    word, returned = np.array([7], dtype), np.zeros(8, dtype)
    own, old = register(bits, 16), register(bits, 17)
    place = "%d0" if space == "global" else "word"
    body = [at(1, "%r0", dtype.itemsize), f"ld.global.b{bits} {own}, [%d10];"]
    if space == "shared":
        body += [
            f".shared .align 8 .b{bits} word;",
            f"ld.global.b{bits} {old}, [%d0]; setp.eq.u32 %p1, %r0, 0; @%p1 st.shared.b{bits} [word], {old};",
            "bar.sync 0;",
        ]
    body += [f"atom.{space}.{operation}.{kind} {old}, [{place}], {own};"]
    body += [at(2, "%r0", dtype.itemsize), f"st.global.b{bits} [%d10], {old};", "bar.sync 0;"]
    if space == "shared":
        body += [f"@%p1 ld.shared.b{bits} {old}, [word]; @%p1 st.global.b{bits} [%d0], {old};"]
    assert not kinds(run(sequence(body), word, given, returned, threads=8, engine=engine))
    value = dtype.type(7)
    for b, seen in zip(given, returned, strict=True):
        assert seen == value
        value = dtype.type(ATOMICS[operation](value, b, kind))
    assert word[0] == value


def test_compare_and_swap_and_what_returns_nothing(engine):
    word, out = np.array([4], np.uint32), np.zeros(4, np.uint32)
    body = sequence(
        "add.u32 %r5, %r0, 1; atom.global.cas.b32 %r4, [%d0], 4, %r5;",
        at(1, "%r0", 4),
        "st.global.b32 [%d10], %r4; red.global.gpu.relaxed.add.u32 [%d0], 10; atom.global.add.u32 _, [%d0], 0;",
    )
    assert not kinds(run(body, word, out, threads=4, engine=engine))
    assert out.tolist() == [4, 1, 1, 1] and word[0] == 41


@pytest.mark.parametrize(("cache", "size"), [("ca", 4), ("ca", 8), ("ca", 16), ("cg", 16)])
def test_copies_and_the_zeros_behind_them(cache, size, engine):
    """Thread i copies i % 3 elements of 4 bytes at most, the rest is zeros; a size of 0 reads nothing at all."""
    source = np.arange(1, 32 * size // 4 + 1, dtype=np.uint32)
    out = np.zeros_like(source)
    count = size // 4
    body = sequence(
        f".shared .align 16 .b8 tile[{32 * size}];",
        at(0, "%r0", size),
        f"mov.u32 %r4, tile; mad.lo.u32 %r4, %r0, {size}, %r4; rem.u32 %r5, %r0, 3; shl.b32 %r5, %r5, 2;",
        f"cp.async.{cache}.shared.global [%r4], [%d10], {size}, %r5;",
        "cp.async.commit_group; cp.async.wait_group 0;",
        at(1, "%r0", size),
        [f"ld.shared.b32 %r6, [%r4+{4 * i}]; st.global.b32 [%d10+{4 * i}], %r6;" for i in range(count)],
    )
    assert not kinds(run(body, source, out, engine=engine))
    copied = np.arange(32)[:, None] % 3 > np.arange(count)
    assert (out.reshape(32, count) == np.where(copied, source.reshape(32, count), 0)).all()


def test_special_registers(engine):
    out = np.zeros((4, 40, 8), np.uint32)
    text = """
.visible .entry test(.param .u64 test_param_0)
{
    .reg .b32 %r<16>; .reg .b64 %d<4>;
    ld.param.u64 %d1, [test_param_0];
    mov.u32 %r1, %tid.x; mov.u32 %r2, %tid.y; mov.u32 %r3, %ntid.x; mov.u32 %r4, %ctaid.x; mov.u32 %r5, %ctaid.y;
    mov.u32 %r6, %nctaid.x; mov.u32 %r7, %laneid; mov.u32 %r8, %lanemask_lt;
    mad.lo.u32 %r9, %r5, %r6, %r4; mad.lo.u32 %r10, %r2, %r3, %r1; mad.lo.u32 %r9, %r9, 40, %r10;
    mad.wide.u32 %d1, %r9, 32, %d1;
    st.global.v4.b32 [%d1], {%r1, %r2, %r3, %r4}; st.global.v4.b32 [%d1+16], {%r5, %r6, %r7, %r8};
    ret;
}
"""
    assert not launch(decoded(kernels(text)["test"]), (2, 2), (10, 4), (array(out),), engine=engine).findings
    block, thread = np.divmod(np.arange(160), 40)
    lane = thread % 32
    expected = (thread % 10, thread // 10, 10 + 0 * lane, block % 2, block // 2, 2 + 0 * lane, lane, (1 << lane) - 1)
    assert (out.reshape(160, 8) == np.stack(expected, 1)).all()
