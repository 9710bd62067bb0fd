"""The flow of control, barriers, and what the lanes of a warp do together."""

import numpy as np
import pytest
from ptx.writing import at, kinds, run, sequence


def test_loops_of_different_lengths(engine):
    """Every thread counts to its own number; they meet again behind the loop."""
    out = np.zeros(40, np.uint32)
    body = sequence(
        "mov.u32 %r4, 0;",
        "again: setp.ge.u32 %p1, %r4, %r0; @%p1 bra done; add.u32 %r4, %r4, 1; bra.uni again;",
        "done:",
        at(0, "%r0", 4),
        "st.global.b32 [%d10], %r4;",
    )
    result = run(body, out, threads=40, engine=engine)
    assert not kinds(result) and (out == np.arange(40)).all()
    assert result.counts.instructions["st"] == 2, "once a warp: all of its threads are together again"


def test_branches_within_branches(engine):
    out = np.zeros(32, np.uint32)
    body = sequence(
        "and.b32 %r4, %r0, 1; setp.eq.u32 %p1, %r4, 0; and.b32 %r5, %r0, 2; setp.eq.u32 %p2, %r5, 0; mov.u32 %r6, 0;",
        "@%p1 bra even; @%p2 bra odd_low; add.u32 %r6, %r6, 8; bra.uni joined;",
        "odd_low: add.u32 %r6, %r6, 4; bra.uni joined;",
        "even: @!%p2 bra even_high; add.u32 %r6, %r6, 1; bra.uni joined; even_high: add.u32 %r6, %r6, 2;",
        "joined: add.u32 %r6, %r6, 100;",
        at(0, "%r0", 4),
        "st.global.b32 [%d10], %r6;",
    )
    assert not kinds(run(body, out, engine=engine))
    assert (out == 100 + np.tile([1, 4, 2, 8], 8)).all()


def test_some_threads_end_earlier(engine):
    """The barrier waits for the others alone."""
    out = np.zeros(64, np.uint32)
    body = sequence("setp.ge.u32 %p1, %r0, 32; @%p1 ret; bar.sync 0;", at(0, "%r0", 4), "st.global.b32 [%d10], 1;")
    assert not kinds(run(body, out, threads=64, engine=engine))
    assert out.sum() == 32 and out[:32].all()


def shuffled(mode: str, b: int, c: int, lane: int) -> tuple[int, bool]:
    """The manual's pseudo-code: the lane that is read, and whether it is in range."""
    segment, limit = c >> 8 & 31, c & 31
    most, least = (lane & segment) | (limit & ~segment), lane & segment
    j = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": least | (b & ~segment & 31)}[mode]
    inside = j >= most if mode == "up" else j <= most
    return (j, True) if inside else (lane, False)


@pytest.mark.parametrize("clamp", [0x1F, 0x0, 0x1C03, 0x181F, 0x1807])
@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
def test_shuffles(mode, clamp, engine):
    for by in (0, 1, 3, 16, 31):
        out = np.zeros((64, 2), np.uint32)
        body = sequence(
            "add.u32 %r4, %r0, 1000;",
            f"shfl.sync.{mode}.b32 %r5|%p1, %r4, {by}, {clamp}, -1; selp.b32 %r6, 1, 0, %p1;",
            at(0, "%r0", 8),
            "st.global.v2.b32 [%d10], {%r5, %r6};",
        )
        result = run(body, out, threads=64, engine=engine)
        for thread in range(64):
            lane, inside = shuffled(mode, by, clamp, thread % 32)
            if not 0 <= lane < 32:
                continue
            assert out[thread].tolist() == [1000 + thread // 32 * 32 + lane, inside], (mode, by, clamp, thread)
        assert kinds(result) in ([], ["inactive lane"])


def test_votes_and_masks(engine):
    out = np.zeros((64, 6), np.uint32)
    body = sequence(
        "and.b32 %r4, %r0, 35; setp.eq.u32 %p1, %r4, 0; setp.lt.u32 %p2, %r0, 32;",
        "vote.sync.ballot.b32 %r5, %p1, -1; vote.sync.all.pred %p3, %p2, -1; vote.sync.any.pred %p4, %p1, -1;",
        "vote.sync.uni.pred %p5, %p2, -1; vote.sync.any.pred %p6, !%p2, -1; activemask.b32 %r6;",
        [f"selp.b32 %r{7 + i}, 1, 0, %p{3 + i};" for i in range(4)],
        at(0, "%r0", 24),
        [f"st.global.b32 [%d10+{4 * i}], %r{5 + i};" for i in range(6)],
    )
    assert not kinds(run(body, out, threads=64, engine=engine))
    ballot = sum(1 << lane for lane in range(32) if lane & 3 == 0)
    assert (out[:32] == [ballot, 0xFFFFFFFF, 1, 1, 1, 0]).all()
    assert (out[32:] == [0, 0xFFFFFFFF, 0, 0, 1, 1]).all()


def test_a_vote_of_some_lanes(engine):
    out = np.zeros(32, np.uint32)
    body = sequence(
        "setp.lt.u32 %p1, %r0, 8; @!%p1 bra over; and.b32 %r4, %r0, 1; setp.eq.u32 %p2, %r4, 0;",
        "vote.sync.ballot.b32 %r5, %p2, 0xFF;",
        at(0, "%r0", 4),
        "st.global.b32 [%d10], %r5; over:",
    )
    assert not kinds(run(body, out, engine=engine))
    assert (out[:8] == 0x55).all() and not out[8:].any()


@pytest.mark.parametrize(
    ("form", "function"),
    [
        ("add.u32", lambda x: x.sum(dtype=np.uint32)),
        ("min.u32", np.min),
        ("max.u32", np.max),
        ("min.s32", lambda x: x.view(np.int32).min().view(np.uint32)),
        ("max.s32", lambda x: x.view(np.int32).max().view(np.uint32)),
        ("and.b32", np.bitwise_and.reduce),
        ("or.b32", np.bitwise_or.reduce),
        ("xor.b32", np.bitwise_xor.reduce),
    ],
)
def test_reductions_of_a_warp(form, function, engine):
    given = np.random.default_rng(1).integers(0, 2**32, 64, np.uint32)
    out = np.zeros_like(given)
    body = sequence(
        at(0, "%r0", 4), "ld.global.b32 %r4, [%d10];", f"redux.sync.{form} %r5, %r4, -1;", at(1, "%r0", 4),
        "st.global.b32 [%d10], %r5;",
    )  # fmt: skip
    assert not kinds(run(body, given, out, threads=64, engine=engine))
    assert (out.reshape(2, 32) == [[function(half)] * 32 for half in given.reshape(2, 32)]).all()


@pytest.mark.parametrize(
    ("form", "expected"),
    [("max.f32", 3.0), ("min.f32", -7.0), ("max.abs.f32", 7.0), ("max.NaN.f32", np.nan), ("min.abs.NaN.f32", np.nan)],
)
def test_reductions_of_floats(form, expected, engine):
    given = np.full(32, 1.0, np.float32)
    given[3], given[9], given[20] = 3, -7, np.nan
    out = np.zeros_like(given)
    body = sequence(
        at(0, "%r0", 4), "ld.global.b32 %r4, [%d10];", f"redux.sync.{form} %r5, %r4, -1;", at(1, "%r0", 4),
        "st.global.b32 [%d10], %r5;",
    )  # fmt: skip
    assert not kinds(run(body, given, out, engine=engine))
    np.testing.assert_array_equal(out, np.full(32, expected, np.float32))


def test_a_leader_is_elected(engine):
    out = np.zeros((64, 2), np.uint32)
    body = sequence(
        "elect.sync %r4|%p1, -1; selp.b32 %r5, 1, 0, %p1;", at(0, "%r0", 8), "st.global.v2.b32 [%d10], {%r4, %r5};"
    )
    assert not kinds(run(body, out, threads=64, engine=engine))
    assert (out[:, 0] == 0).all() and (np.flatnonzero(out[:, 1]) == [0, 32]).all()


@pytest.mark.parametrize(("form", "expected"), [("or.pred", [1, 0]), ("and.pred", [0, 0]), ("popc.u32", [3, 0])])
def test_barriers_that_reduce(form, expected, engine):
    """Three of 64 threads say yes, then none."""
    out = np.zeros((64, 2), np.uint32)
    target = "%r{0}" if "popc" in form else "%p{0}"
    ends = "" if "popc" in form else "selp.b32 %r6, 1, 0, %p6; selp.b32 %r7, 1, 0, %p7;"
    body = sequence(
        "and.b32 %r4, %r0, 31; setp.eq.u32 %p1, %r4, 7; setp.eq.u32 %p2, %r0, 1; or.pred %p1, %p1, %p2;",
        "setp.gt.u32 %p3, %r0, 99;",
        f"bar.red.{form} {target.format(6)}, 0, %p1; bar.red.{form} {target.format(7)}, 0, %p3;",
        ends,
        at(0, "%r0", 8),
        "st.global.v2.b32 [%d10], {%r6, %r7};",
    )
    assert not kinds(run(body, out, threads=64, engine=engine))
    assert (out == expected).all()


def test_a_barrier_that_reduces_the_opposite(engine):
    out = np.zeros(32, np.uint32)
    body = sequence(
        "setp.lt.u32 %p1, %r0, 99; bar.red.or.pred %p2, 0, !%p1; selp.b32 %r4, 1, 0, %p2;",
        at(0, "%r0", 4),
        "st.global.b32 [%d10], %r4;",
    )
    assert not kinds(run(body, out, engine=engine)) and not out.any()


def test_barriers_of_some_warps(engine):
    """Two warps meet at barrier 1, the two others at barrier 2; a producer arrives and goes on."""
    words = np.zeros(128, np.uint32)
    body = sequence(
        ".shared .align 4 .b8 tile[512]; mov.u32 %r10, tile; mad.lo.u32 %r4, %r0, 4, %r10; st.shared.b32 [%r4], %r0;",
        "shr.u32 %r5, %r0, 6; add.u32 %r6, %r5, 1; bar.sync %r6, 64;",
        "xor.b32 %r7, %r0, 32; mad.lo.u32 %r4, %r7, 4, %r10; ld.shared.b32 %r8, [%r4];",
        at(0, "%r0", 4),
        "st.global.b32 [%d10], %r8;",
    )
    assert not kinds(run(body, words, threads=128, engine=engine))
    assert (words == np.arange(128) ^ 32).all()


def test_arriving_without_waiting(engine):
    out = np.zeros(64, np.uint32)
    body = sequence(
        ".shared .align 4 .b8 tile[128]; mov.u32 %r10, tile; and.b32 %r4, %r0, 31; mad.lo.u32 %r4, %r4, 4, %r10;",
        "setp.lt.u32 %p1, %r0, 32; @!%p1 bra consume; st.shared.b32 [%r4], %r0; bar.arrive 3, 64; bra.uni over;",
        "consume: bar.sync 3, 64; ld.shared.b32 %r5, [%r4];",
        at(0, "%r0", 4),
        "st.global.b32 [%d10], %r5;",
        "over:",
    )
    assert not kinds(run(body, out, threads=64, engine=engine))
    assert (out[32:] == np.arange(32)).all()


def test_comparisons_that_are_short_for_several(engine):
    out = np.zeros(6, np.uint32)
    body = sequence(
        "mov.b32 %r4, 0x3C004000; mov.b32 %r5, 0x3C003C00; setp.gt.f16x2 %p1|%p2, %r4, %r5;",  # (1, 2) beside (1, 1)
        "setp.eq.s32 %p3|%p4, %r4, %r5; setp.lt.and.s32 %p5, %r5, %r4, %p1; setp.lt.xor.u32 %p6, %r5, %r4, !%p2;",
        [f"selp.b32 %r6, 1, 0, %p{i + 1}; st.global.b32 [%d0+{4 * i}], %r6;" for i in range(6)],
    )
    assert not kinds(run(body, out, threads=1, engine=engine))
    assert out.tolist() == [1, 0, 0, 1, 1, 0]


def test_packing_and_unpacking(engine):
    out = np.zeros(4, np.uint64)
    body = """
mov.b32 %r4, 0x11112222; mov.b32 {%h4, %h5}, %r4; mov.b32 %r5, {%h5, %h4}; mov.b64 %d4, {%r4, %r5};
mov.b64 {_, %r6}, %d4; mov.b64 {%h1, %h2, %h3, %h4}, %d4; mov.b64 %d5, {%h4, %h3, %h2, %h1};
cvt.u64.u32 %d6, %r5; cvt.u64.u32 %d7, %r6;
st.global.v2.b64 [%d0], {%d4, %d5}; st.global.v2.b64 [%d0+16], {%d6, %d7};
"""
    assert not kinds(run(body, out, threads=1, engine=engine))
    assert [f"{int(x):x}" for x in out] == ["2222111111112222", "2222111111112222", "22221111", "22221111"]
