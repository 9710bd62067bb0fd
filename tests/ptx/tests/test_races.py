"""Accesses that nothing orders: within a block, and between blocks."""

import numpy as np
import pytest
from ptx import findings
from ptx.writing import NEIGHBOUR, TILE, at, kinds, only, run, sequence, words

OUT = sequence(at(0, "%r0", 4), "st.global.b32 [%d10], %r14;")


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
