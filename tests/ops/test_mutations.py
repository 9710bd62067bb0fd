"""The executor sees what is wrong: PTX of fastkd's kernels, changed in one place, and what has to be found then."""

from functools import cache
from typing import NamedTuple

import pytest
from helpers.executed import needs_compiler
from helpers.mutated import SYNCHRONISES, Outcome, replaced, without
from helpers.mutation_cases import LAUNCHES, recorded
from ptx.findings import (
    DIVERGENCE,
    IN_FLIGHT,
    INACTIVE,
    MATRIX_REGISTERS,
    MISALIGNED,
    OUTSIDE,
    PROXY,
    RACE,
    RACE_BETWEEN_BLOCKS,
    TRAP,
    UNDEFINED,
    UNINITIALISED,
)

pytestmark = [pytest.mark.ptx, needs_compiler]
VALUES = "other values, nothing else"
"""In place of a kind: no access has moved, and only the results tell."""
QUICK = ("rows", "finish", "pair", "dense", "kept", "scale rows", "augment", "scores wgmma", "add")
"""Launches that are mutated in `make test`: small ones, whose code other tests of it execute too."""


class Mutation(NamedTuple):
    launch: str
    what: str
    found: str
    pattern: str
    by: str = ""
    """What stands in place of the match; nothing leaves it out."""
    nth: int = 0


_STORED_THEN_MET = r"(st\.shared[^;]*;)((?:(?!bar\.sync)[^;])*)(bar\.sync\s+0;)"
_MET_THEN_LOADED = r"(bar\.sync\s+0;)([^;]*?)((?:@%p\d+ )?ld\.shared[^;]*;)"
_SHUFFLE = r"(shfl\.sync\.bfly\.b32\s+%r\d+, %r\d+), 16, 31, -1"
_WIDE_LOAD = r"(ld\.global\.v4\S* \{[^}]*\}, \[ %rd\d+) \+ 0 \]"
_WIDE_STORE = r"(st\.global\.v4\S* \[ %rd\d+) \+ 0 \]"
_LABEL = r"(ld\.global\.b64 \{[^}]*\}, \[ %rd\d+) \+ 0 \]"
_COPY = r"(cp\.async\.cg\S* \[ %r\d+) \+ 0 \], (\[ %rd\d+) \+ 0"
_ARRIVED = r"(cp\.async\.wait_group\s+\w+;)"
_MATRIX_LOAD = r"(ldmatrix\S* \{[^}]*\}, \[%r\d+)\]"
_MATRICES_DONE = r"wgmma\.wait_group\.sync\.aligned 0;"
_PROXY_FENCE = r"fence\.proxy\.async\.shared::cta;"
_CLASSES_100 = r"(setp\.lt\.u32\s+%p\d+, %r\d+), 100;"
_CLASSES_2100 = r"(setp\.lt\.u64\s+%p\d+, %rd\d+), 2100;"
_MASKED_LOAD, _MASKED_STORE = r"@%p\d+ (ld\.global\.v4\S*)", r"@%p\d+ (st\.global\.v4\S*)"
_MET_THEN_STORED = r"(?s)(bar\.sync\s+0;)((?:(?!bar\.sync).)*?)(@%p\d+ st\.global\.v4[^;]*;)"
_PROGRAM = r"(mov\.u32\s+%r\d+), %ctaid\.x"
_SHARED_ATOMIC = r"atom\.shared\.add\.u32\s+%r\d+, (\[[^\]]*\]), (%r\d+);"

MUTATIONS = [
    Mutation("rows", "a load without its mask", OUTSIDE, _MASKED_LOAD, r"\1", nth=1),
    Mutation("rows", "a store without its mask", RACE_BETWEEN_BLOCKS, _MASKED_STORE, r"\1", nth=1),
    Mutation("rows", "a load 4 bytes further on", MISALIGNED, _WIDE_LOAD, r"\1 + 4 ]"),
    Mutation("rows", "a store 4 bytes further on", MISALIGNED, _WIDE_STORE, r"\1 + 4 ]"),
    Mutation("rows", "a store 16 bytes further on", OUTSIDE, _WIDE_STORE, r"\1 + 16 ]", nth=1),
    Mutation("rows", "a label 4 bytes further on", MISALIGNED, _LABEL, r"\1 + 4 ]"),
    Mutation("rows", "the next sample's label", OUTSIDE, _LABEL, r"\1 + 8 ]"),
    Mutation("rows", "a store of gradients left out", VALUES, r"@%p\d+ st\.global\.v4[^;]*;"),
    Mutation("rows", "a shuffle with another lane", VALUES, _SHUFFLE, r"\1, 8, 31, -1"),
    Mutation("rows", "a shuffle without the last lane", INACTIVE, _SHUFFLE, r"\1, 16, 31, 0x7FFFFFFF"),
    Mutation("rows", "a store behind its barrier", RACE, _STORED_THEN_MET, r"\3\2\1"),
    Mutation("rows", "a load before its barrier", RACE, _MET_THEN_LOADED, r"\3\2\1"),
    Mutation(
        "rows",
        "every program takes the first one's samples",
        RACE_BETWEEN_BLOCKS,
        r"(mov\.u32\s+%r\d+), %ctaid\.x",
        r"\1, 0",
    ),
    Mutation("rows", "a barrier for some lanes", DIVERGENCE, r"bar\.sync\s+0;", "@%p10 bar.sync 0;"),
    Mutation("rows", "a barrier of one warp", RACE, r"bar\.sync\s+0;", "bar.sync 0, 32;"),
    Mutation("rows", "another barrier for one warp", RACE, r"bar\.sync\s+0;", "bar.sync %r185, 32;"),
    Mutation(
        "rows at once",
        "the bound of the samples is off by one",
        OUTSIDE,
        r"setp\.lt(\.s32\s+%p\d+, )",
        r"setp.le\1",
        nth=2,
    ),
    Mutation("rows at once", "four classes too many", OUTSIDE, r"(setp\.lt\.u32\s+%p\d+, %r\d+), 20;", r"\1, 24;"),
    Mutation("rows ahead", "a copy that is not waited for", IN_FLIGHT, _ARRIVED),
    Mutation("rows ahead", "a wait for one copy fewer", IN_FLIGHT, _ARRIVED, "cp.async.wait_group 6;", nth=2),
    Mutation("rows ahead", "a wait behind its barrier", RACE, rf"{_ARRIVED}([^b]*)(bar\.sync\s+0;)", r"\3\2\1"),
    Mutation("rows ahead", "a copy from 4 bytes further on", MISALIGNED, _COPY, r"\1 + 0 ], \2 + 4"),
    Mutation("rows ahead", "a copy to 4 bytes further on", MISALIGNED, _COPY, r"\1 + 4 ], \2 + 0"),
    Mutation("rows ahead", "a copy to 16 bytes further on", UNINITIALISED, _COPY, r"\1 + 16 ], \2 + 0"),
    Mutation(
        "rows ahead", "eight classes too many", OUTSIDE, r"(setp\.lt\.u32\s+%p\d+, %r\d+), 1000;", r"\1, 1008;", nth=1
    ),
    Mutation("wide", "the barrier of the next sample", RACE, r"bar\.sync\s+0;"),
    Mutation("wide", "eight classes too many", OUTSIDE, r"(%p\d+, %rd\d+), 5000;", r"\1, 5008;"),
    Mutation("finish", "a shuffle with another lane", VALUES, _SHUFFLE, r"\1, 8, 31, -1"),
    Mutation("finish", "a store behind its barrier", RACE, _STORED_THEN_MET, r"\3\2\1"),
    Mutation("add", "a load before its barrier", RACE, _MET_THEN_LOADED, r"\3\2\1"),
    Mutation("scores", "a matrix from 16 bytes further on", UNINITIALISED, _MATRIX_LOAD, r"\1+16]", nth=2),
    Mutation("scores", "a matrix from 4 bytes further on", MISALIGNED, _MATRIX_LOAD, r"\1+4]"),
    Mutation("scores", "a shared store 8 bytes further on", UNINITIALISED, r"(\[%r\d+)\+8192\]", r"\1+8200]"),
    Mutation("scores", "a copy that is not waited for", IN_FLIGHT, _ARRIVED),
    Mutation("scores", "a store behind its barrier", RACE, _STORED_THEN_MET, r"\3\2\1"),
    Mutation("scores wgmma", "a fence of the proxy left out", PROXY, _PROXY_FENCE, nth=1),
    Mutation("scores wgmma", "a barrier in its place", PROXY, _PROXY_FENCE, "bar.sync 0;", nth=1),
    Mutation("scores wgmma", "a fence of registers left out", MATRIX_REGISTERS, r"wgmma\.fence\.sync\.aligned;"),
    Mutation("scores wgmma", "a product that is not waited for", MATRIX_REGISTERS, _MATRICES_DONE, nth=1),
    Mutation(
        "scores wgmma",
        "a wait for all but one product",
        MATRIX_REGISTERS,
        _MATRICES_DONE,
        "wgmma.wait_group.sync.aligned 1;",
        nth=1,
    ),
    Mutation("scores wgmma", "a copy that is not waited for", IN_FLIGHT, _ARRIVED),
    Mutation("pair", "four classes too many", OUTSIDE, _CLASSES_100, r"\1, 104;"),
    Mutation("pair", "a load without its mask", OUTSIDE, _MASKED_LOAD, r"\1"),
    Mutation("pair", "a store without its mask", RACE, _MASKED_STORE, r"\1"),
    Mutation("pair", "a load 4 bytes further on", MISALIGNED, _WIDE_LOAD, r"\1 + 4 ]"),
    Mutation("pair", "a store 16 bytes further on", OUTSIDE, _WIDE_STORE, r"\1 + 16 ]"),
    Mutation("pair", "a label 8 bytes further on", OUTSIDE, _LABEL, r"\1 + 8 ]"),
    Mutation("pair", "a shuffle with another lane", RACE, _SHUFFLE, r"\1, 8, 31, -1", nth=2),
    Mutation("pair", "a shuffle without the last lane", INACTIVE, _SHUFFLE, r"\1, 16, 31, 0x7FFFFFFF"),
    Mutation("pair", "a store behind its barrier", RACE, _STORED_THEN_MET, r"\3\2\1"),
    Mutation("pair", "a load before its barrier", RACE, _MET_THEN_LOADED, r"\3\2\1"),
    Mutation("pair", "every program takes the first one's rows", RACE_BETWEEN_BLOCKS, _PROGRAM, r"\1, 0"),
    Mutation("pair jsd", "a store behind its barrier", RACE, _STORED_THEN_MET, r"\3\2\1"),
    Mutation("pair wide", "four classes too many", OUTSIDE, _CLASSES_2100, r"\1, 2104;"),
    Mutation("pair wide", "a store behind its barrier", DIVERGENCE, _STORED_THEN_MET, r"\3\2\1"),
    Mutation("pair wide", "a load before its barrier", RACE, _MET_THEN_LOADED, r"\3\2\1"),
    Mutation("dense", "a load without its mask", OUTSIDE, _MASKED_LOAD, r"\1", nth=1),
    Mutation("dense", "a store without its mask", RACE, _MASKED_STORE, r"\1"),
    Mutation("dense", "a store 16 bytes further on", RACE, _WIDE_STORE, r"\1 + 16 ]"),
    Mutation("dense", "a store behind its barrier", RACE, _STORED_THEN_MET, r"\3\2\1"),
    Mutation("dense", "a load before its barrier", RACE, _MET_THEN_LOADED, r"\3\2\1"),
    Mutation("dense", "every program takes the first one's rows", RACE_BETWEEN_BLOCKS, _PROGRAM, r"\1, 0"),
    Mutation("dense wide", "four classes too many", OUTSIDE, _CLASSES_2100, r"\1, 2104;", nth=1),
    Mutation("dense wide", "a shuffle with another lane", VALUES, _SHUFFLE, r"\1, 8, 31, -1", nth=2),
    Mutation("dense in place", "a store before the barrier of the loads", UNDEFINED, _MET_THEN_STORED, r"\3\2\1"),
    Mutation("dense in place", "a store 16 bytes further on", OUTSIDE, _WIDE_STORE, r"\1 + 16 ]"),
    Mutation("kept", "four classes too many", OUTSIDE, r"(setp\.lt\.u32\s+%p\d+, %r\d+), 1000;", r"\1, 1004;"),
    Mutation("kept", "a kept class without its mask", OUTSIDE, r"@%p\d+ (ld\.global\.b64\S*)", r"\1"),
    Mutation("kept", "the next kept class", VALUES, _LABEL, r"\1 + 8 ]"),
    Mutation("kept", "a count that is not cleared", UNINITIALISED, r"st\.shared\.b32\s+\[%r\d+\+512\], 0;"),
    Mutation("kept", "a count that is stored in place of added", VALUES, _SHARED_ATOMIC, r"st.shared.b32 \1, \2;"),
    Mutation("kept wide", "a store behind its barrier", RACE, _STORED_THEN_MET, r"\3\2\1"),
    Mutation("kept in place", "a store 16 bytes further on", RACE, _WIDE_STORE, r"\1 + 16 ]"),
    Mutation("scale rows", "a load without its mask", RACE, _MASKED_LOAD, r"\1"),
    Mutation("scale rows", "a store 16 bytes further on", RACE, _WIDE_STORE, r"\1 + 16 ]"),
    Mutation("scale rows", "every program takes the first one's rows", RACE_BETWEEN_BLOCKS, _PROGRAM, r"\1, 0"),
    Mutation("augment", "a pixel without its mask", OUTSIDE, r"@%p\d+ (ld\.global\.b8\S*)", r"\1"),
    Mutation("augment", "a store without its mask", OUTSIDE, r"@%p\d+ (st\.global\S*)", r"\1", nth=-1),
    Mutation("augment", "every program takes the first image", RACE_BETWEEN_BLOCKS, _PROGRAM, r"\1, 0"),
    Mutation("draw", "an atomic for the block alone", RACE_BETWEEN_BLOCKS, r"atom\.global\.gpu", "atom.global.cta"),
    Mutation("update", "a barrier before a store", RACE, r"bar\.sync\s+0;", nth=3),
    Mutation("update", "a barrier before the step is counted", RACE, r"bar\.sync\s+0;", nth=4),
]


@cache
def unchanged(launch: str) -> Outcome:
    return recorded(launch).run()


def marks(launch: str) -> list:
    return [] if launch in QUICK else [pytest.mark.slow]


@pytest.mark.parametrize("launch", [pytest.param(launch, marks=marks(launch)) for launch in LAUNCHES])
def test_unchanged_kernels_report_nothing(launch):
    assert not unchanged(launch).kinds


@pytest.mark.parametrize(
    "mutation", [pytest.param(one, marks=marks(one.launch), id=f"{one.launch}: {one.what}") for one in MUTATIONS]
)
def test_a_mutation_is_reported(mutation):
    found = recorded(mutation.launch).run(replaced(mutation.pattern, mutation.nth, mutation.by))
    if mutation.found == VALUES:
        assert not found.kinds and not found.same_values(unchanged(mutation.launch))
    else:
        assert mutation.found in found.kinds


_NEXT_COMMIT = "The next commit takes its copies along, and every wait is for all groups."
_DRAINED = "Behind the loop: what still arrives is never read, and nothing else is written to its place."
_FIRST_COPIES = "Before the loop: the copies behind it go where nothing was read or written yet."
_SAME_ACCUMULATORS = (
    "Products that add to the same registers need nothing between them, and the next commit takes them along."
)
_FENCED_AGAIN = "The fence that fastkd adds stands between the wait for the copies and the product that reads them."
_OWN = "On both sides of it a thread touches only its own numbers."
_MET_AGAIN = "Another barrier follows before anything is touched that this one orders."
REDUNDANT: dict[str, dict[str, tuple[int, ...]]] = {
    "kept one warp": {_MET_AGAIN: (2,), _OWN: (6,)},
    "kept in place": {_OWN: (2,), _MET_AGAIN: (3,)},
    "rows ahead": {_FIRST_COPIES: (1,), _DRAINED: (41, 42)},
    "scores": {_NEXT_COMMIT: (4,), _FIRST_COPIES: (6,)},
    "scores mma": {_NEXT_COMMIT: (6, 11), _DRAINED: (13, 14)},
    "scores wgmma": {
        _NEXT_COMMIT: (6, 24),
        _FENCED_AGAIN: (8,),
        _SAME_ACCUMULATORS: (13, 14, 15, 19, 20, 21),
    },
}
"""{launch: {why: which of its synchronising instructions, in the order of the text}}: each is reached, and without it
nothing is found and no bit of the results is another, in every order of the blocks that was run."""
EXPECTED = {
    "bar": {RACE},
    "cp": {IN_FLIGHT},
    "fence": {PROXY},
    "wgmma": {MATRIX_REGISTERS, IN_FLIGHT},
}
"""What leaving out a synchronising instruction is reported as, by its first word."""


@pytest.mark.parametrize(
    "launch", [pytest.param(launch, marks=[] if launch == "dense" else [pytest.mark.slow]) for launch in LAUNCHES]
)
def test_every_barrier_wait_and_fence_is_needed_or_listed(launch):
    redundant = {number for numbers in REDUNDANT.get(launch, {}).values() for number in numbers}
    for number, text in enumerate(recorded(launch).synchronising):
        found = recorded(launch).run(without(SYNCHRONISES, number))
        where = f"{launch}, {number}: {text}: {found.kinds}"
        if number in redundant:
            came = recorded(launch).run(replaced(SYNCHRONISES, number, "trap;"))
            assert came.kinds == {TRAP}, f"{where} is not reached"
            assert not found.kinds, where
            assert found.same_values(unchanged(launch)), where
        else:
            assert found.kinds & EXPECTED[text.partition(".")[0]], where
