"""What is wrong is found, by kind, line, block and thread; what is right is not. Each case is a few lines of PTX."""

import numpy as np
import pytest
from ptx import FindingsError, Pointer, findings, launching
from ptx.launching import Buffer
from ptx.writing import at, kinds, program, run, sequence, text_of

TILE = ".shared .align 16 .b8 tile[4096]; mov.u32 %r10, tile; mad.lo.u32 %r11, %r0, 4, %r10;"
NEIGHBOUR = "xor.b32 %r12, %r0, {0}; mad.lo.u32 %r13, %r12, 4, %r10;"
OUT = sequence(at(0, "%r0", 4), "st.global.b32 [%d10], %r14;")


def words(count: int = 128) -> np.ndarray:
    return np.zeros(count, np.uint32)


def only(result, kind: str):
    """The one finding of a result, which has that kind."""
    assert kinds(result) == [kind], [str(finding) for finding in result.findings]
    return result.findings[0]


# Bounds.


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


# What was never written.


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


# Races within a block.

EXCHANGE = "{store} {between} {load}"


def exchange(between: str, distance: int) -> str:
    """Every thread writes its number and reads that of another one."""
    return sequence(
        TILE, NEIGHBOUR.format(distance), "st.shared.b32 [%r11], %r0;", between, "ld.shared.b32 %r14, [%r13];", OUT
    )


def test_a_barrier_between_warps(engine):
    out = words(64)
    assert not kinds(run(exchange("bar.sync 0;", 32), out, threads=64, engine=engine))
    assert (out == np.arange(64) ^ 32).all()


@pytest.mark.parametrize("between", ["", "bar.warp.sync -1;", "membar.cta;"])
def test_no_barrier_between_warps(between, engine):
    found = only(run(exchange(between, 32), words(64), threads=64, engine=engine), findings.RACE)
    assert "ld.shared" in found.text and found.other_line < found.line and "wrote" in found.detail


def test_lanes_of_a_warp_need_a_barrier_too(engine):
    assert not kinds(run(exchange("bar.warp.sync -1;", 1), words(), engine=engine))
    assert not kinds(run(exchange("bar.warp.sync -1;", 1), words(), threads=48, engine=engine))
    only(run(exchange("", 1), words(), engine=engine), findings.RACE)


def test_a_barrier_of_half_a_warp_orders_that_half(engine):
    body = "setp.lt.u32 %p1, %r0, 16; @!%p1 bra over; bar.warp.sync 0xFFFF; over:"
    assert not kinds(run(exchange(f"{body} setp.lt.u32 %p1, %r0, 16; @!%p1 ret;", 1), words(), engine=engine))
    only(run(exchange(body, 1), words(), engine=engine), findings.RACE)


def test_a_read_before_another_warps_write(engine):
    """The second barrier is missing: the next round's writes meet this one's reads."""

    def body(second: str) -> str:
        return sequence(exchange("bar.sync 0;", 32), second, "st.shared.b32 [%r11], %r12;")

    assert not kinds(run(body("bar.sync 0;"), words(64), threads=64, engine=engine))
    found = only(run(body(""), words(64), threads=64, engine=engine), findings.RACE)
    assert "read" in found.detail and "st.shared" in found.text


def test_two_writes(engine):
    body = sequence(TILE, "st.shared.b32 [tile], %r0;", "bar.sync 0; ld.shared.b32 %r14, [tile];", OUT)
    result = run(body, words(64), threads=64, engine=engine)
    assert only(result, findings.RACE).text == "st.shared.b32 [tile], %r0;"


def test_an_address_that_several_lanes_read_and_one_of_them_writes(engine):
    """A warp that loaded together is ordered as its instructions are; two warps are not."""
    body = "ld.global.b32 %r4, [%d0]; add.u32 %r4, %r4, 1; setp.eq.u32 %p1, %r0, 0; @%p1 st.global.b32 [%d0], %r4;"
    assert not kinds(run(body, words(), engine=engine))
    only(run(body, words(), threads=64, engine=engine), findings.RACE)


def test_bytes_beside_each_other_are_no_race(engine):
    body = sequence(
        ".shared .align 4 .b8 tile[64]; mov.u32 %r10, tile; add.u32 %r11, %r10, %r0; cvt.u16.u32 %h4, %r0;",
        "st.shared.b8 [%r11], %h4; ld.shared.b8 %h5, [%r11];",
    )
    assert not kinds(run(body, threads=64, engine=engine))


def test_atomics_of_a_block_do_not_race_but_a_plain_read_does(engine):
    body = ".shared .b32 word; setp.eq.u32 %p1, %r0, 0; @%p1 st.shared.b32 [word], 0; bar.sync 0;"
    body += "atom.shared.add.u32 %r4, [word], 1;"
    assert not kinds(run(body, threads=64, engine=engine))
    assert not kinds(run(f"{body} bar.sync 0; ld.shared.b32 %r5, [word];", threads=64, engine=engine))
    only(run(f"{body} ld.shared.b32 %r5, [word];", threads=64, engine=engine), findings.RACE)


# Races between blocks. %r1 is the block.


def test_blocks_that_write_one_address(engine):
    body = "st.global.b32 [%d0], 1;"
    found = only(run(body, words(), threads=1, blocks=2, engine=engine), findings.RACE_BETWEEN_BLOCKS)
    assert found.block == 1 and "thread 0 of block 0" in found.detail


def test_a_block_that_writes_what_another_has_read(engine):
    """Noticed although nobody knew, when it was read, that it would be written."""
    body = "setp.eq.u32 %p1, %r1, 1; @%p1 st.global.b32 [%d0], 1; ld.global.b32 %r4, [%d0+4]; ld.global.b32 %r5, [%d0];"
    result = run(body, words(), threads=1, blocks=2, engine=engine)
    assert kinds(result) == [findings.RACE_BETWEEN_BLOCKS]


def test_blocks_that_read_the_same_and_write_their_own(engine):
    body = sequence("ld.global.b32 %r4, [%d0]; add.u32 %r5, %r1, 8;", at(0, "%r5", 4), "st.global.b32 [%d10], %r4;")
    assert not kinds(run(body, words(), threads=1, blocks=8, engine=engine))


LAST_BLOCK = """
setp.eq.u32 %p1, %r0, 0;
add.u32 %r4, %r1, 1; mad.wide.u32 %d10, %r4, 4, %d0; {write}
bar.sync 0;
{fence}
@%p1 atom.{atomic} %r5, [%d0], 1;
{after}
setp.eq.u32 %p2, %r5, 3; and.pred %p2, %p2, %p1;
@!%p2 ret;
mov.u32 %r6, 0; mov.u32 %r7, 1;
again: mad.wide.u32 %d10, %r7, 4, %d0; ld.global.b32 %r8, [%d10]; add.u32 %r6, %r6, %r8; add.u32 %r7, %r7, 1;
setp.le.u32 %p3, %r7, 4; @%p3 bra again;
st.global.b32 [%d1], %r6;
"""
"""Four blocks of 64 threads; the last one adds what all of them wrote."""


def last_block(
    write="@%p1 st.global.b32 [%d10], %r4;", fence="", atomic="global.gpu.acq_rel.add.u32", after="", **options
):
    partial, out = words(5), words(1)
    body = LAST_BLOCK.format(write=write, fence=fence, atomic=atomic, after=after)
    return run(body, partial, out, threads=64, blocks=4, **options), out


def test_the_last_block_by_an_atomic_that_acquires_and_releases(engine):
    result, out = last_block(engine=engine)
    assert not kinds(result) and out[0] == 10
    assert result.orders == 4, "each block was the last once"
    assert not result.depends_on_order


def test_the_last_block_by_fences(engine):
    fence = "membar.gl;"
    result, out = last_block(fence=fence, atomic="global.add.u32", after=fence, engine=engine)
    assert not kinds(result) and out[0] == 10
    result, _ = last_block(
        fence="fence.acq_rel.gpu;", atomic="global.gpu.relaxed.add.u32", after="fence.sc.gpu;", engine=engine
    )
    assert not kinds(result)


def test_what_other_threads_wrote_is_carried_along_by_the_barrier(engine):
    """Thread 5 writes, thread 0 releases: the barrier between them orders the one before the other."""
    write = "setp.eq.u32 %p4, %r0, 5; @%p4 st.global.b32 [%d10], %r4;"
    assert not kinds(last_block(write=write, engine=engine)[0])


@pytest.mark.parametrize(
    "options",
    [
        {"atomic": "global.gpu.relaxed.add.u32"},
        {"atomic": "global.add.u32"},
        {"atomic": "global.gpu.release.add.u32"},
        {"atomic": "global.gpu.acquire.add.u32"},
        {"atomic": "global.add.u32", "fence": "membar.gl;"},
        {"atomic": "global.add.u32", "after": "membar.gl;"},
        {"atomic": "global.add.u32", "fence": "membar.cta;", "after": "membar.cta;"},
    ],
    ids=str,
)
def test_what_orders_nothing_between_blocks(options, engine):
    result, _ = last_block(**options, engine=engine)
    assert findings.RACE_BETWEEN_BLOCKS in kinds(result)


def test_an_atomic_of_block_scope_is_no_atomic_between_blocks(engine):
    body = "atom.global.cta.relaxed.add.u32 %r4, [%d0], 1;"
    only(run(body, words(), threads=32, blocks=2, engine=engine), findings.RACE_BETWEEN_BLOCKS)
    assert not kinds(run(body, words(), threads=32, blocks=1, engine=engine))
    assert not kinds(run(body.replace("cta", "gpu"), words(), threads=32, blocks=2, engine=engine))


def test_strong_loads_and_stores(engine):
    """A flag that is released and acquired hands on what was written before it; a relaxed one does not."""

    def body(store: str, load: str) -> str:
        return sequence(
            "setp.ne.u32 %p1, %r1, 0; @%p1 bra reader; st.global.b32 [%d0], 7;",
            f"st.{store}.gpu.global.b32 [%d0+64], 1; bra.uni over;",
            f"reader: ld.{load}.gpu.global.b32 %r4, [%d0+64]; setp.eq.u32 %p2, %r4, 1;",
            "@%p2 ld.global.b32 %r5, [%d0]; over:",
        )

    assert not kinds(run(body("release", "acquire"), words(), threads=1, blocks=2, orders=1, engine=engine))
    for store, load in (("relaxed", "acquire"), ("release", "relaxed")):
        result = run(body(store, load), words(), threads=1, blocks=2, orders=1, engine=engine)
        only(result, findings.RACE_BETWEEN_BLOCKS)


def test_what_depends_on_the_order_of_blocks_is_said(engine):
    body = "atom.global.add.u32 %r4, [%d0], 1; mad.wide.u32 %d10, %r1, 4, %d1; st.global.b32 [%d10], %r4;"
    result = run(body, words(1), words(4), threads=1, blocks=4, engine=engine)
    assert not kinds(result) and result.depends_on_order == ("argument 1",)


# Barriers and warps.


@pytest.mark.parametrize("barrier", ["0, 32", "%r5, 32"])
def test_a_barrier_that_one_warp_completes_alone(barrier, engine):
    """Although both warps come to it: 32 threads are all that it waits for."""
    other = "xor.b32 %r12, %r0, 32; mad.lo.u32 %r13, %r12, 4, %r10; ld.shared.b32 %r14, [%r13];"
    body = f"{TILE} st.shared.b32 [%r11], %r0; shr.u32 %r5, %r0, 5; bar.sync {{}}; {other}"
    only(run(body.format(barrier), threads=64, engine=engine), findings.RACE)
    assert not kinds(run(body.format("0, 64"), threads=64, engine=engine))


def test_a_barrier_that_some_warps_do_not_reach(engine):
    body = "setp.lt.u32 %p1, %r0, 32; @%p1 bar.sync 0; bar.sync 1;"
    found = only(run(body, threads=64, engine=engine), findings.DIVERGENCE)
    assert found.thread == 32 and "never comes to barrier 0" in found.detail


def test_a_barrier_that_half_a_warp_reaches(engine):
    body = "setp.lt.u32 %p1, %r0, 16; @%p1 bar.sync 0; @!%p1 bar.sync 0;"
    assert kinds(run(body, engine=engine)) == [findings.DIVERGENCE]


def test_warps_that_meet_at_different_barriers(engine):
    body = "setp.lt.u32 %p1, %r0, 32; @%p1 bra one; bar.sync 0; bra.uni over; one: bar.sync 0; over:"
    found = only(run(body, threads=64, engine=engine), findings.DIVERGENCE)
    assert "another barrier" in found.detail and found.other_line


def test_lanes_that_a_shuffle_misses(engine):
    body = "setp.lt.u32 %p1, %r0, 8; @!%p1 bra over; shfl.sync.bfly.b32 %r4, %r0, {0}, 31, {1}; over:"
    assert not kinds(run(body.format(4, "0xFF"), engine=engine))
    assert kinds(run(body.format(8, "0xFF"), engine=engine)) == [findings.INACTIVE], "it reads a lane that is not here"
    assert kinds(run(body.format(4, "-1"), engine=engine)) == [findings.INACTIVE], "the mask names absent lanes"
    assert kinds(run(body.format(4, "0x7F"), engine=engine)) == [findings.INACTIVE], "the mask leaves out a present one"


def test_a_matrix_instruction_needs_its_whole_warp(engine):
    body = "mov.b32 %r4, 0; setp.lt.u32 %p1, %r0, 31; @%p1 mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 "
    body += "{%r5, %r6, %r7, %r8}, {%r4, %r4}, {%r4}, {%r4, %r4, %r4, %r4};"
    assert kinds(run(body, engine=engine)) == [findings.INACTIVE]


# Asynchronous copies.

COPY = f"{TILE} mad.wide.u32 %d10, %r0, 4, %d0; cp.async.ca.shared.global [%r11], [%d10], 4; cp.async.commit_group;"


@pytest.mark.parametrize("wait", ["cp.async.wait_group 0;", "cp.async.wait_all;"])
def test_a_copy_that_is_waited_for(wait, engine):
    assert not kinds(run(f"{COPY} {wait} ld.shared.b32 %r14, [%r11];", words(), engine=engine))
    body = f"{COPY} {wait} bar.sync 0; {NEIGHBOUR.format(32)} ld.shared.b32 %r14, [%r13];"
    assert not kinds(run(body, words(), threads=64, engine=engine))


@pytest.mark.parametrize("wait", ["", "cp.async.wait_group 1;", "bar.sync 0;"])
def test_a_copy_that_is_not_waited_for(wait, engine):
    found = only(run(f"{COPY} {wait} ld.shared.b32 %r14, [%r11];", words(), engine=engine), findings.IN_FLIGHT)
    assert found.other_line, "the line of the copy"


def test_waiting_is_each_threads_own(engine):
    """Another warp's copy has arrived, but nothing orders it before this warp's read."""
    body = f"{COPY} cp.async.wait_group 0; {NEIGHBOUR.format(32)} ld.shared.b32 %r14, [%r13];"
    assert kinds(run(body, words(), threads=64, engine=engine)) == [findings.RACE]


def test_copies_in_several_groups(engine):
    second = "cp.async.ca.shared.global [%r11+2048], [%d10], 4; cp.async.commit_group;"
    first = f"{COPY} {second} cp.async.wait_group 1;"
    assert not kinds(run(f"{first} ld.shared.b32 %r14, [%r11];", words(), engine=engine))
    only(run(f"{first} ld.shared.b32 %r14, [%r11+2048];", words(), engine=engine), findings.IN_FLIGHT)


def test_a_copy_that_was_not_committed_is_not_waited_for(engine):
    body = COPY.replace("cp.async.commit_group;", "cp.async.wait_group 0;")
    only(run(f"{body} ld.shared.b32 %r14, [%r11];", words(), engine=engine), findings.IN_FLIGHT)


def test_a_write_to_where_a_copy_goes(engine):
    only(run(f"{COPY} st.shared.b32 [%r11], 1; cp.async.wait_all;", words(), engine=engine), findings.IN_FLIGHT)


# Hopper's matrix instructions.

WGMMA = """
.shared .align 1024 .b8 tile[4096]; mov.u32 %r9, tile; mad.lo.u32 %r3, %r0, 4, %r9;
mov.b32 %r4, 0; st.shared.b32 [%r3], %r4; {write}
{fence} {barrier}
mov.b32 %r10, 0; mov.b32 %r20, 0; mov.b32 %r21, 0; mov.b32 %r22, 0; mov.b32 %r23, 0;
mov.b64 %d4, {descriptor}; mov.pred %p2, 1;
{registers}
wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16
  {{%r20, %r21, %r22, %r23}}, {{%r10, %r10, %r10, %r10}}, %d4, %p2, 1, 1, 0;
{between}
wgmma.commit_group.sync.aligned;
{wait}
{after}
"""
DESCRIPTOR = 16 << 32 | 16 << 16 | 3 << 62
SOUND = {
    "write": "",
    "fence": "fence.proxy.async.shared::cta;",
    "barrier": "bar.sync 0;",
    "descriptor": DESCRIPTOR,
    "registers": "wgmma.fence.sync.aligned;",
    "between": "",
    "wait": "wgmma.wait_group.sync.aligned 0;",
    "after": "add.f32 %r24, %r20, %r21; mov.b32 %r10, 1; bar.sync 0; st.shared.b32 [%r3], %r4;",
}


def wgmma(engine, **changes):
    return run(WGMMA.format(**{**SOUND, **changes}), threads=128, engine=engine)


def test_a_sound_matrix_instruction(engine):
    assert not kinds(wgmma(engine))
    assert not kinds(wgmma(engine, fence="bar.sync 0; fence.proxy.async;", barrier="bar.sync 0;"))
    assert not kinds(wgmma(engine, fence="bar.sync 0;", barrier="fence.proxy.async;")), "the readers may fence as well"


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"fence": ""}, findings.PROXY),
        ({"barrier": ""}, findings.RACE),
        ({"wait": ""}, findings.MATRIX_REGISTERS),
        ({"wait": "wgmma.wait_group.sync.aligned 1;"}, findings.MATRIX_REGISTERS),
        ({"wait": "", "after": "mov.b32 %r10, 1;"}, findings.MATRIX_REGISTERS),
        ({"wait": "", "after": "bar.sync 0; st.shared.b32 [%r3], %r4;"}, findings.IN_FLIGHT),
        ({"after": "st.shared.b32 [%r3], %r4;"}, findings.RACE),
        ({"registers": ""}, findings.MATRIX_REGISTERS),
        ({"between": "add.f32 %r24, %r20, %r21;"}, findings.MATRIX_REGISTERS),
        ({"write": "", "descriptor": DESCRIPTOR | 4096 >> 4}, findings.OUTSIDE),
        ({"descriptor": DESCRIPTOR | 512 >> 4}, findings.UNINITIALISED),
    ],
    ids=str,
)
def test_what_a_matrix_instruction_needs(changes, kind, engine):
    result = wgmma(engine, **changes)
    assert kind in kinds(result), [str(finding) for finding in result.findings]


@pytest.mark.parametrize("fence", ("", "wgmma.fence.sync.aligned;"))
def test_the_first_matrix_instruction_follows_a_fence(fence, engine):
    """Also where nothing else has touched its registers: both matrices stand in shared memory, and nothing is added."""
    body = WGMMA.replace("mov.b32 %r10, 0; mov.b32 %r20, 0; mov.b32 %r21, 0; mov.b32 %r22, 0; mov.b32 %r23, 0;", "")
    body = body.replace("{{%r10, %r10, %r10, %r10}}, %d4, %p2, 1, 1, 0;", "%d4, %d4, %p2, 1, 1, 0, 0;")
    body = body.replace("mov.pred %p2, 1;", "mov.pred %p2, 0;")
    given = SOUND | {"descriptor": 0, "after": "", "registers": fence}
    result = run(body.format(**given), threads=128, engine=engine)
    assert kinds(result) == ([] if fence else [findings.MATRIX_REGISTERS])


def test_a_copy_that_a_matrix_instruction_reads(engine):
    """It has to be waited for, and is no exception from the fence."""
    source = words(128)
    body = WGMMA.replace(
        "st.shared.b32 [%r3], %r4;",
        "mad.wide.u32 %d10, %r0, 4, %d0; cp.async.ca.shared.global [%r3], [%d10], 4; cp.async.commit_group; {arrive}",
        1,
    )

    def variant(**changes):
        return run(
            body.format(**{**SOUND, "arrive": "cp.async.wait_group 0;", **changes}), source, threads=128, engine=engine
        )

    assert not kinds(variant())
    assert kinds(variant(arrive="")) == [findings.IN_FLIGHT]
    assert kinds(variant(fence="")) == [findings.PROXY]


def test_all_four_warps_take_part(engine):
    body = WGMMA.replace("mov.b64 %d4", "setp.ge.u32 %p9, %r0, 96; @%p9 ret; mov.b64 %d4").format(**SOUND)
    assert findings.INACTIVE in kinds(run(body, threads=128, engine=engine))


# The rest.


def test_a_loop_that_does_not_end(engine, monkeypatch):
    monkeypatch.setattr(launching, "MOST_STEPS", 1000)
    only(run("again: bra.uni again;", engine=engine), findings.ENDLESS)


def test_a_trap_hides_what_follows_from_it(engine):
    body = "setp.eq.u32 %p1, %r0, 3; @%p1 bra bad; bar.sync 0; ret; bad: trap;"
    assert only(run(body, engine=engine), findings.TRAP).thread == 3


def test_a_launch_raises_what_it_found(engine):
    with pytest.raises(
        FindingsError, match="outside every buffer: writes 4 bytes at .*: block 0, thread 0: test, PTX line"
    ):
        launching.launch(program("st.global.b32 [%d0+8], 1;", pointers=1), 1, 1, [words(2)], engine=engine)


def test_findings_of_one_instruction_are_counted(engine):
    result = run(
        "mov.u32 %r4, 0; again: st.global.b32 [%d0+64], 1; add.u32 %r4, %r4, 1;"
        "setp.lt.u32 %p1, %r4, 5; @%p1 bra again;",
        words(2),
        threads=1,
        engine=engine,
    )
    assert only(result, findings.OUTSIDE).times == 5
