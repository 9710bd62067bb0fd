"""Barriers, asynchronous copies and matrix instructions: what is not waited for, or not by all."""

import pytest
from ptx import findings
from ptx.writing import NEIGHBOUR, TILE, kinds, only, run, words


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
