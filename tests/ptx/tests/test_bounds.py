"""Accesses out of place, and of what was never written: found by kind, line, block and thread; what is right is not."""

import numpy as np
import pytest
from ptx import Pointer, findings
from ptx.launching import Buffer
from ptx.writing import TILE, at, kinds, only, run, sequence, text_of, words

OUT = sequence(at(0, "%r0", 4), "st.global.b32 [%d10], %r14;")


@pytest.mark.parametrize(
    ("body", "size"),
    [
        ("ld.global.b32 %r4, [%d0+128];", 32),
        ("ld.global.b32 %r4, [%d0+-4];", 32),
        ("mov.u64 %d4, 0; ld.global.b32 %r4, [%d4];", 32),
        ("ld.shared.b32 %r4, [4096];", 32),
        ("mov.u32 %r5, 4; ld.global.v4.b32 {%r4, %r5, %r6, %r7}, [%d0+112+16];", 32),
        ("cp.async.ca.shared.global [tile], [%d0+128], 4;", 32),
        ("atom.global.add.u32 %r4, [%d0+128], 1;", 32),
    ],
)
def test_outside_every_buffer(body, size, engine):
    result = run(f".shared .align 16 .b8 tile[64]; {body}", words(size), engine=engine)
    assert findings.OUTSIDE in kinds(result)


def test_where_it_was_outside(engine):
    """Block 1's thread 5 writes one element too far; every other store is sound."""
    out = words(8)
    body = sequence(
        "mad.lo.u32 %r4, %r1, 6, %r0; setp.eq.u32 %p1, %r4, 11; @%p1 add.u32 %r4, %r4, 100;",
        "setp.lt.u32 %p2, %r4, 8; setp.gt.u32 %p3, %r4, 100; or.pred %p2, %p2, %p3;",
        at(0, "%r4", 4),
        "@%p2 st.global.b32 [%d10], 1;",
    )
    found = only(run(body, out, threads=6, blocks=2, engine=engine), findings.OUTSIDE)
    assert (found.block, found.thread, found.kernel) == (1, 5, "test") and "st.global" in found.text
    assert found.text in text_of(body, pointers=1).splitlines()[found.line - 1]
    assert (out == 1).all(), "the sound stores were made"


def test_inside_the_buffer_but_outside_what_was_given(engine):
    """Rows of 3 in a matrix of 4 columns: the fourth is the caller's own."""
    given = np.tile([True, True, True, False], 4).repeat(4)
    buffer = Buffer(words(16).view(np.uint8), given=given)
    body = sequence(at(0, "%r0", 4), "st.global.b32 [%d10], 1;")
    found = only(run(body, Pointer(buffer), threads=16, engine=engine), findings.NOT_GIVEN)
    assert found.thread == 3
    assert buffer.data.view(np.uint32).reshape(4, 4).sum(0).tolist() == [4, 4, 4, 0]


@pytest.mark.parametrize(
    "body",
    [
        "ld.global.v4.b32 {%r4, %r5, %r6, %r7}, [%d0+4];",
        "ld.global.b32 %r4, [%d0+2];",
        "ld.global.v2.b32 {%r4, %r5}, [%d0+12];",
        "st.shared.v2.b32 [tile+4], {%r0, %r0};",
        "cp.async.cg.shared.global [tile+8], [%d0], 16;",
        "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r4}, [tile+8];",
    ],
)
def test_misaligned(body, engine):
    result = run(f".shared .align 16 .b8 tile[128]; {body}", words(), engine=engine)
    assert findings.MISALIGNED in kinds(result)


def test_global_memory_that_nobody_has_written(engine):
    buffer = Buffer(words(4).view(np.uint8), written=np.repeat([True, True, False, True], 4))
    out = words(4)
    body = sequence(at(0, "%r0", 4), "ld.global.b32 %r4, [%d10];", at(1, "%r0", 4), "st.global.b32 [%d10], %r4;")
    found = only(run(body, Pointer(buffer), out, threads=4, engine=engine), findings.UNINITIALISED)
    assert found.thread == 2


def test_what_a_kernel_has_written_itself_is_written(engine):
    buffer = Buffer(words(32).view(np.uint8), written=np.zeros(128, bool))
    body = sequence(at(0, "%r0", 4), "st.global.b32 [%d10], 1; ld.global.b32 %r4, [%d10];")
    assert not kinds(run(body, Pointer(buffer), engine=engine))


def test_shared_memory_that_nobody_has_written(engine):
    body = f"{TILE} setp.ne.u32 %p1, %r0, 9; @%p1 st.shared.b32 [%r11], %r0; ld.shared.b32 %r14, [%r11]; {OUT}"
    assert only(run(body, words(), engine=engine), findings.UNINITIALISED).thread == 9


@pytest.mark.parametrize(
    "use",
    [
        "st.global.b32 [%d0], %r4;",
        "cvt.u64.u32 %d4, %r4; add.u64 %d4, %d4, %d0; ld.global.b32 %r5, [%d4];",
        "setp.eq.u32 %p2, %r4, 0; @%p2 bra over; mov.u32 %r5, 1; over:",
        "setp.eq.u32 %p2, %r4, 0; @%p2 st.global.b32 [%d0], %r0;",
        "atom.global.add.u32 %r5, [%d0], %r4;",
        "mov.b32 %r5, %r4; add.u32 %r6, %r5, 1; shfl.sync.bfly.b32 %r7, %r6, 1, 31, -1; st.global.b32 [%d0], %r7;",
        "bar.sync %r4;",
    ],
)
def test_an_undefined_register_that_decides_something(use, engine):
    assert findings.UNDEFINED in kinds(run(f"{use}", words(), engine=engine))


@pytest.mark.parametrize(
    "use",
    [
        "mov.b32 %r5, %r4; add.u32 %r6, %r5, 1;",
        "setp.lt.u32 %p1, %r0, 99; selp.b32 %r5, %r0, %r4, %p1; st.global.b32 [%d0], %r5;",
        "mov.u32 %r5, 0; and.b32 %r6, %r4, %r5; st.global.b32 [%d0], %r6;",
        "mov.b64 %d4, {%r0, %r4}; mov.b64 {%r5, _}, %d4; st.global.b32 [%d0], %r5;",
        "mov.b64 %d4, {%r0, %r4}; add.f32x2 %d4, %d4, %d4; mov.b64 {%r5, _}, %d4; st.global.b32 [%d0], %r5;",
        "mov.b64 %d4, {%r0, %r4}; cvt.u32.u64 %r5, %d4; st.global.b32 [%d0], %r5;",
        ".shared .b32 word; st.shared.b32 [word], %r4; ld.shared.b32 %r5, [word];",
    ],
)
def test_an_undefined_register_that_decides_nothing(use, engine):
    """Compilers compute with what masked loads left out, as long as it goes nowhere."""
    assert not kinds(run(use, words(), threads=1, engine=engine))


def test_undefined_values_pass_through_shared_memory(engine):
    body = ".shared .b32 word; st.shared.b32 [word], %r4; ld.shared.b32 %r5, [word]; st.global.b32 [%d0], %r5;"
    assert only(run(body, words(), threads=1, engine=engine), findings.UNDEFINED).text.startswith("ret") is False
