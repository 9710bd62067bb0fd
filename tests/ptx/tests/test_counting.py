"""Counters: of accesses whose traffic and conflicts are known."""

import numpy as np
import pytest
from ptx.writing import at, kinds, run, sequence


def words(count: int) -> np.ndarray:
    return np.zeros(count, np.uint32)


@pytest.mark.parametrize(("stride", "sectors"), [(1, 4), (2, 8), (8, 32), (16, 32)], ids=lambda value: str(value))
def test_sectors_of_a_warp(stride, sectors, engine):
    body = sequence(f"mul.lo.u32 %r4, %r0, {stride};", at(0, "%r4", 4), "ld.global.b32 %r5, [%d10];")
    counts = run(body, words(32 * stride), engine=engine).counts
    assert counts.read.bytes == 128 and counts.read.sectors == sectors
    assert counts.read.unique_bytes == 128 and counts.read.unique_sectors == sectors
    assert counts.read.coalescing == 128 / (32 * sectors)


def test_one_address_for_all(engine):
    counts = run("ld.global.b32 %r5, [%d0];", words(8), threads=64, blocks=3, engine=engine).counts
    assert counts.read.bytes == 3 * 64 * 4 and counts.read.sectors == 3 * 2
    assert counts.read.unique_bytes == 4 and counts.read.unique_sectors == 1


def test_reads_writes_and_what_a_guard_left_out(engine):
    body = sequence(
        "setp.lt.u32 %p1, %r0, 20;",
        at(0, "%r0", 16),
        "@%p1 ld.global.v4.b32 {%r4, %r5, %r6, %r7}, [%d10]; @!%p1 st.global.v2.b32 [%d10], {%r0, %r0};",
    )
    counts = run(body, words(128), engine=engine).counts
    assert counts.read.bytes == 20 * 16 and counts.read.sectors == 10
    assert counts.written.bytes == 12 * 8 and counts.written.sectors == 6 and counts.written.unique_bytes == 96
    assert counts.instructions["ld"] == 1 + 1 and counts.instructions["st"] == 1, "a parameter, and the load"


def test_atomics_read_and_write(engine):
    counts = run("atom.global.add.u32 %r4, [%d0], 1;", words(1), threads=40, engine=engine).counts
    assert counts.atomics == 40 and counts.read.bytes == counts.written.bytes == 160
    assert counts.read.unique_bytes == counts.written.unique_bytes == 4


def test_an_asynchronous_copy_reads_what_it_copies(engine):
    body = sequence(
        ".shared .align 16 .b8 tile[512]; mov.u32 %r4, tile; mad.lo.u32 %r4, %r0, 16, %r4;",
        at(0, "%r0", 16),
        "cp.async.cg.shared.global [%r4], [%d10], 16; cp.async.commit_group; cp.async.wait_group 0;",
    )
    counts = run(body, words(128), engine=engine).counts
    assert counts.read.bytes == 512 and counts.read.sectors == 16
    assert counts.shared_passes == counts.shared_least_passes == 4


@pytest.mark.parametrize(
    ("index", "size", "passes", "least"),
    [
        ("%r0", 4, 1, 1),
        ("mul 2", 4, 2, 1),
        ("mul 32", 4, 32, 1),
        ("mul 33", 4, 1, 1),
        ("zero", 4, 1, 1),
        ("%r0", 8, 2, 2),
        ("%r0", 16, 4, 4),
        ("mul 2", 16, 8, 4),
        ("mul 8", 16, 32, 4),
        ("%r0", 2, 1, 1),
    ],
)
def test_bank_conflicts(index, size, passes, least, engine):
    """In elements of the access: two lanes of one word are no conflict, two words of one bank are."""
    place = {"%r0": "mov.u32 %r5, %r0;", "zero": "mov.u32 %r5, 0;"}.get(index) or f"mul.lo.u32 %r5, %r0, {index[4:]};"
    load = {2: "b16 %h4", 4: "b32 %r4", 8: "b64 %d4", 16: "v4.b32 {%r20, %r21, %r22, %r23}"}[size]
    kind, target = load.split(" ", 1)
    body = sequence(
        ".shared .align 16 .b8 tile[8192]; mov.u32 %r6, tile;",
        place,
        f"mad.lo.u32 %r7, %r5, {size}, %r6; ld.shared.{kind} {target}, [%r7];",
    )
    counts = run(body, engine=engine).counts
    assert (counts.shared_passes, counts.shared_least_passes) == (passes, least)
    assert counts.worst_conflict == passes // least
    assert bool(counts.conflicts) == (passes > least)
    if counts.conflicts:
        assert "ld.shared" in counts.conflicts[0].text


def test_instructions_and_barriers_are_counted_by_warp(engine):
    body = "setp.lt.u32 %p1, %r0, 40; @!%p1 bra over; add.u32 %r4, %r0, 1; over: bar.sync 0;"
    counts = run(body, threads=96, blocks=2, engine=engine).counts
    assert counts.instructions["add"] == 2 * 2 and counts.instructions["bar"] == 2 * 3 == counts.barriers
    assert counts.blocks == 2 and counts.warp_instructions == sum(counts.instructions.values())


def test_unchecked_launches_count_the_same(engine):
    body = sequence(at(0, "%r0", 4), "ld.global.b32 %r4, [%d10]; bar.sync 0; st.global.b32 [%d10], %r0;")
    data = [words(64), words(64)]
    results = [
        run(body, d, threads=64, checked=checked, engine=engine) for d, checked in zip(data, (True, False), strict=True)
    ]
    assert results[0].counts == results[1].counts and not any(map(kinds, results))
    assert (data[0] == data[1]).all()
