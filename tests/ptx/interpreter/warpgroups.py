"""Hopper's matrix instructions: wgmma, with its descriptors, fences, groups and waits."""

from typing import Any, NamedTuple

import numpy as np

from ..findings import IN_FLIGHT, INACTIVE, MATRIX_REGISTERS, OUTSIDE, PROXY, RACE, UNINITIALISED
from ..memories import KNOWN, READ, UNDEFINED
from ..program import NONE, Coded
from .clocks import WARP
from .matrices import fragment_a, fragment_c, gathered, numbers_of, product, scatter, warps_of

WARPGROUP = 128


class Reading(NamedTuple):
    """Cells that a warp's matrix instructions read, registers that they use: until its group has been waited for."""

    warp: int
    group: int
    cells: np.ndarray
    accumulators: frozenset[int]
    operands: frozenset[int]


class Pending:
    """The matrix instructions of a block that are still running."""

    def __init__(self, block: Any):
        warps = -(-block.threads // WARP)
        self.block = block
        self.running: list[Reading] = []
        self.open_groups = np.zeros(warps, np.int64)
        self.watches = "multiply_async" in block.program.actions
        self.fresh = np.ones((len(block.program.slots), warps), bool)
        """Registers that no wgmma.fence followed since they were written, by warp; at first there was none."""

    def check(self, coded: Coded, active: np.ndarray) -> None:
        """No instruction but their own touches the registers of those that run."""
        if coded.action == "multiply_async":
            return
        written = set(coded.written)
        for reading in self.running:
            if not active[reading.warp * WARP : (reading.warp + 1) * WARP].any():
                continue
            touched = (set(coded.slots) & reading.accumulators) | (written & reading.operands)
            if touched:
                name = self.block.program.slots[min(touched)].name
                self.block.report(MATRIX_REGISTERS, reading.warp * WARP, f"{name} is in use until the wait")
                return

    def note_written(self, coded: Coded, active: np.ndarray) -> None:
        if coded.action != "multiply_async":
            warps = self.block.warps(active).any(1)
            for slot in coded.written:
                if slot != NONE:
                    self.fresh[slot] |= warps

    def wait(self, warps: np.ndarray, pending: int) -> None:
        watch, remaining = self.block.watch, []
        for reading in self.running:
            if reading.warp in warps and reading.group < self.open_groups[reading.warp] - pending:
                watch.async_reads[reading.cells] -= 1
                watch.readers[reading.cells, reading.warp] = 0xFFFFFFFF
                watch.read_clock[reading.cells, reading.warp] = self.block.clocks.counter[reading.warp]
                watch.read_place[reading.cells] = self.block.place
            else:
                remaining.append(reading)
        self.running = remaining


def matrix_fence(block: Any, coded: Coded, active: np.ndarray, group: Any) -> None:
    block.matrices.fresh[:, warps_of(block, active)] = False


def commit_matrices(block: Any, coded: Coded, active: np.ndarray, group: Any) -> None:
    block.matrices.open_groups[warps_of(block, active)] += 1


def wait_for_matrices(block: Any, coded: Coded, active: np.ndarray, group: Any) -> None:
    block.matrices.wait(warps_of(block, active), coded.numbers[0])


SWIZZLES = {0: 16, 1: 128, 2: 64, 3: 32}
"""Bytes of a row of a tile in shared memory, by the descriptor's mode; 16 is not swizzled."""


DEPTH_BYTES = 32
"""Of k, that an instruction multiplies: 16 numbers of 16 bits, 8 of 32."""


def tile(descriptor: int, along: int, size: int, transposed: bool) -> np.ndarray:
    """Addresses [along, k] of the numbers, of so many bytes, of a matrix in shared memory.

    PTX ISA, "Matrix Descriptor Format", "Strides". transposed: what is contiguous is not k.
    """
    start, lead, stride = ((descriptor >> shift & 0x3FFF) << 4 for shift in (0, 16, 32))
    width = SWIZZLES[descriptor >> 62]
    i, k = np.ogrid[:along, : DEPTH_BYTES // size]
    if transposed:
        if width == 16:
            raise NotImplementedError("wgmma: a transposed matrix that is not swizzled")
        place = size * i // width * lead + k // 8 * stride + k % 8 * width + size * i % width
    else:
        place = i // 8 * stride + size * k // width * lead + i % 8 * width + size * k % width
    address = start + place
    return address ^ ((address >> 7 & (width // 16 - 1)) << 4)


def multiply_async(block: Any, coded: Coded, active: np.ndarray, group: Any) -> None:
    registers, negated_a, negated_b, transposed_a, transposed_b = coded.numbers
    columns, kind = int(coded.form["n"]), coded.form["type"]
    size = 4 if kind == "tf32" else 2
    accumulators, rest = coded.slots[: columns // 2], coded.slots[columns // 2 :]
    a, descriptor_b, added = rest[: max(registers, 1)], rest[-2], rest[-1]
    warps = warps_of(block, active)
    for first in range(0, len(block.warps(active)), 4):
        own = [warp for warp in range(first, first + 4) if warp in warps]
        if not own:
            continue
        threads = np.arange(first * WARP, first * WARP + WARPGROUP)
        if len(own) < 4:
            block.report(INACTIVE, own[0] * WARP, "not all four warps of the group are here")
            continue
        check_fresh(block, (*accumulators, *(a if registers else ())), own)
        used = []
        b_address = tile(int(block.registers[descriptor_b][threads[0]]), columns, size, bool(transposed_b))
        b_kn, b_known = numbers_at(block, b_address, kind, size, threads, used)
        b_kn, b_known = b_kn.T * (-1 if negated_b else 1), b_known.T
        if not registers:
            a_address = tile(int(block.registers[a[0]][threads[0]]), 64, size, bool(transposed_a))
            whole_a, whole_a_known = numbers_at(block, a_address, kind, size, threads, used)
        for warp in own:
            if registers:
                a_mk, a_known = gathered(block, a, fragment_a(registers, size == 2), warp, kind)
            else:
                rows = slice(16 * (warp - first), 16 * (warp - first) + 16)
                a_mk, a_known = whole_a[rows], whole_a_known[rows]
            places = fragment_c(len(accumulators))
            c_mn, c_known = gathered(block, accumulators, places, warp, "f32")
            if not block.registers[added][warp * WARP]:
                c_mn, c_known = np.zeros_like(c_mn), np.ones_like(c_known)
            known = a_known.all(1)[:, None] & b_known.all(0)[None] & c_known
            scatter(block, accumulators, places, warp, product(a_mk * (-1 if negated_a else 1), b_kn, c_mn), known)
            cells = np.unique(np.concatenate(used))
            block.watch.async_reads[cells] += 1
            operands = frozenset(a) if registers else frozenset()
            group_number = int(block.matrices.open_groups[warp])
            block.matrices.running.append(Reading(warp, group_number, cells, frozenset(accumulators), operands))


def check_fresh(block: Any, slots: tuple[int, ...], warps: list[int]) -> None:
    for slot in slots:
        for warp in warps:
            if block.matrices.fresh[slot, warp]:
                name = block.program.slots[slot].name
                block.report(MATRIX_REGISTERS, warp * WARP, f"{name}: no wgmma.fence since it was written")
                return


def numbers_at(
    block: Any, addresses: np.ndarray, kind: str, size: int, threads: np.ndarray, used: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of a matrix in shared memory, read through the asynchronous proxy; adds its cells to `used`."""
    region = block.shared
    inside = addresses + size <= len(region.data)
    if not inside.all():
        block.report(OUTSIDE, threads[0], f"reads a matrix at {int(addresses[~inside][0]):#x} of shared memory")
        addresses = np.where(inside, addresses, 0)
    cells = np.unique(addresses // region.cell)
    used.append(cells)
    check_async_read(block, cells, threads)
    region.flags[cells] |= READ
    bits = np.ascontiguousarray(region.data[addresses[..., None] + np.arange(size)]).view(f"u{size}")[..., 0]
    defined = (region.flags[addresses // region.cell] & UNDEFINED) == 0
    return numbers_of(bits, kind).reshape(addresses.shape), defined


def check_async_read(block: Any, cells: np.ndarray, threads: np.ndarray) -> None:
    """Written, arrived, ordered before every thread of the group, and past a proxy fence."""
    region, watch, clocks = block.shared, block.watch, block.clocks
    never = (region.flags[cells] & (KNOWN | UNDEFINED)) == 0
    if never.any():
        block.report(UNINITIALISED, threads[0], f"byte {int(cells[never][0]) * region.cell} of shared memory")
    flying = watch.flight[cells] >= 0
    if flying.any():
        block.report(
            IN_FLIGHT,
            threads[0],
            "a matrix instruction reads what a copy is still writing",
            int(watch.flight[cells][flying][0]),
        )
    writers, then = watch.writer[cells], watch.write_clock[cells]
    rows = clocks.seen[threads].copy()
    rows[np.arange(len(threads)), threads] = np.iinfo(np.uint32).max
    late = (writers >= 0) & (rows.min(0)[writers] < then)
    if late.any():
        other = int(np.flatnonzero(late)[0])
        detail = f"a matrix instruction reads what thread {int(writers[other])} wrote, not ordered"
        block.report(RACE, threads[0], detail, int(watch.write_place[cells[other]]))
    hidden = (writers >= 0) & ~late & (clocks.proxied[threads].min(0)[writers] < then)
    if hidden.any():
        other = int(np.flatnonzero(hidden)[0])
        detail = f"what thread {int(writers[other])} wrote"
        block.report(PROXY, threads[0], detail, int(watch.write_place[cells[other]]))


ACTIONS = {
    "matrix_fence": matrix_fence,
    "commit_matrices": commit_matrices,
    "wait_for_matrices": wait_for_matrices,
    "multiply_async": multiply_async,
}
