"""Who touched each cell of a region, and whether an access is ordered after those it collides with.

As in FastTrack (Flanagan and Freund, PLDI 2009): of the writes of a cell the last one is remembered, since the earlier
ones are ordered before it or were reported; of the reads since then all of those that no later one covers, warp by
warp. Atomics collide with plain accesses, not with each other.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..findings import IN_FLIGHT, RACE, RACE_BETWEEN_BLOCKS
from ..memories import Region
from .clocks import GPU, WARP, Clocks

Report = Callable[..., None]


class Access(NamedTuple):
    """What some threads do at once: `cells` [n,k] of one region."""

    threads: np.ndarray
    cells: np.ndarray
    verb: str

    def only(self, chosen: np.ndarray) -> "Access":
        return Access(self.threads[chosen], self.cells[chosen], self.verb)


class Touch(NamedTuple):
    """A read or an atomic of another time."""

    block: int
    thread: int
    clock: int
    scope: int
    place: int
    reads: bool = True
    writes: bool = False


class Watch:
    def __init__(self, region: Region, warps: int):
        cells = region.cells
        self.region = region
        self.writer_block = np.full(cells, -1, np.int32)
        self.writer = np.full(cells, -1, np.int32)
        self.write_clock = np.zeros(cells, np.uint32)
        self.write_place = np.zeros(cells, np.int32)
        self.readers = np.zeros((cells if region.tracked else 0, warps), np.uint32)
        """Lanes of each warp that have read."""
        self.together = np.zeros_like(self.readers)
        """Those of them that read with one instruction, the last one: what one of them writes is after all their reads,
        as its own is."""
        self.read_clock = np.zeros_like(self.readers)
        self.read_place = np.zeros(len(self.readers), np.int32)
        self.atomics: dict[int, list[Touch]] = defaultdict(list)
        self.earlier_readers: dict[int, list[Touch]] = defaultdict(list)
        """Of blocks that have ended."""
        self.flight = np.full(cells, -1, np.int32)
        """Place of the asynchronous copy that is still writing, or -1."""
        self.async_reads = np.zeros(cells, np.int32)
        """How many matrix instructions are still reading."""

    def check_read(self, access: Access, clocks: Clocks, report: Report) -> None:
        self.check_flight(access, report)
        self.check_writer(access, clocks, report)
        self.check_atomics(access, clocks, report)

    def check_write(self, access: Access, clocks: Clocks, report: Report) -> None:
        self.check_flight(access, report)
        self.check_async_reads(access, report)
        self.check_writer(access, clocks, report)
        self.check_readers(access, clocks, report)
        self.check_atomics(access, clocks, report)

    def check_flight(self, access: Access, report: Report) -> None:
        flying = self.flight[access.cells] >= 0
        for i, j in self.first(flying):
            other = int(self.flight[access.cells[i, j]])
            report(IN_FLIGHT, access.threads[i], f"{access.verb} what a copy is still writing", other)

    def check_async_reads(self, access: Access, report: Report) -> None:
        for i, _ in self.first(self.async_reads[access.cells] > 0):
            report(IN_FLIGHT, access.threads[i], f"{access.verb} what a matrix instruction is still reading", -1)

    def check_writer(self, access: Access, clocks: Clocks, report: Report) -> None:
        cells = access.cells
        block = self.writer_block[cells]
        here = block == clocks.block
        ordered = clocks.ordered(access.threads, self.writer[cells], self.write_clock[cells])
        for i, j in self.first(here & ~ordered):
            self.report_race(access, i, cells[i, j], "wrote", report, RACE)
        for i, j in zip(*np.nonzero((block >= 0) & ~here), strict=True):
            cell = cells[i, j]
            other, clock = int(self.writer[cell]), int(self.write_clock[cell])
            if not clocks.knows(int(access.threads[i]), int(block[i, j]), other, clock):
                self.report_race(access, i, cell, "wrote", report, RACE_BETWEEN_BLOCKS)
                return

    def report_race(self, access: Access, i: int, cell: int, did: str, report: Report, kind: str) -> None:
        other = int(self.writer[cell])
        where = "" if kind == RACE else f" of block {int(self.writer_block[cell])}"
        detail = f"{access.verb} what thread {other}{where} {did}, not ordered"
        report(kind, access.threads[i], detail, int(self.write_place[cell]))

    def check_readers(self, access: Access, clocks: Clocks, report: Report) -> None:
        if not self.region.tracked:
            return
        cells = access.cells
        masks, then = self.readers[cells], self.read_clock[cells]
        suspicious = (masks != 0) & (clocks.warps_seen(access.threads)[:, None, :] < then)
        for i, j, warp in zip(*np.nonzero(suspicious), strict=True):
            thread, clock = access.threads[i], then[i, j, warp]
            mask = int(masks[i, j, warp])
            if thread // WARP == warp and int(self.together[cells[i, j], warp]) >> (thread % WARP) & 1:
                mask &= ~int(self.together[cells[i, j], warp])
            lanes = np.flatnonzero((mask >> np.arange(WARP)) & 1)
            others = (warp * WARP + lanes)[:, None]
            late = ~clocks.ordered(np.full(len(others), thread), others, np.full_like(others, clock, np.uint32))[:, 0]
            if late.any():
                detail = f"{access.verb} what thread {int(others[late][0, 0])} read, not ordered"
                report(RACE, thread, detail, int(self.read_place[cells[i, j]]))
                break
        self.check_touches(access, self.earlier_readers, "read", clocks, report, atomic_scope=None)

    def check_atomics(self, access: Access, clocks: Clocks, report: Report) -> None:
        self.check_touches(access, self.atomics, "changed atomically", clocks, report, atomic_scope=None)

    def check_touches(
        self,
        access: Access,
        touches: dict[int, list[Touch]],
        did: str,
        clocks: Clocks,
        report: Report,
        *,
        atomic_scope: int | None,
    ) -> None:
        """atomic_scope: that of an atomic access, which collides only with atomics whose scope leaves it out."""
        if not touches:
            return
        for i, row in enumerate(access.cells):
            for cell in row:
                observed = False
                for touch in reversed(touches.get(int(cell), ())):
                    if atomic_scope is not None and _share_scope(touch, clocks.block, atomic_scope):
                        continue
                    if clocks.knows(int(access.threads[i]), touch.block, touch.thread, touch.clock):
                        # What read the cell has observed all that changed it before, back to a plain store.
                        observed = touch.reads
                    elif not (observed and touch.writes):
                        kind = RACE if touch.block == clocks.block else RACE_BETWEEN_BLOCKS
                        where = "" if kind == RACE else f" of block {touch.block}"
                        detail = f"{access.verb} what thread {touch.thread}{where} {did}, not ordered"
                        report(kind, access.threads[i], detail, touch.place)
                        return

    def record_read(self, access: Access, clocks: Clocks, place: int) -> None:
        if not self.region.tracked:
            return
        cells, threads = access.cells, access.threads
        self.read_place[cells] = place
        for warp in np.unique(threads // WARP):
            own = threads // WARP == warp
            touched, lanes = cells[own], threads[own] % WARP
            now = clocks.counter[warp]
            old = (self.readers[touched, warp] != 0) & (self.read_clock[touched, warp] != now)
            covered = old & (clocks.warps_seen(threads[own])[:, warp][:, None] >= self.read_clock[touched, warp])
            self.readers[touched[covered], warp] = 0
            # Readers at two clocks, neither covered by the other, keep the earlier one: a race may be missed, none is
            # invented.
            fresh = touched[self.readers[touched, warp] == 0]
            self.read_clock[fresh, warp] = now
            bits = np.broadcast_to((np.uint32(1) << lanes.astype(np.uint32))[:, None], touched.shape)
            self.together[touched, warp] = 0
            np.bitwise_or.at(self.together[:, warp], touched, bits)
            self.readers[touched, warp] |= self.together[touched, warp]

    def record_write(self, access: Access, clocks: Clocks, place: int) -> None:
        cells, threads = access.cells, np.broadcast_to(access.threads[:, None], access.cells.shape)
        self.writer_block[cells] = clocks.block
        self.writer[cells] = threads
        self.write_clock[cells] = clocks.now(threads)
        self.write_place[cells] = place
        if self.region.tracked:
            self.readers[cells] = 0
        for table in (self.atomics, self.earlier_readers):
            if table:
                for cell in cells.flat:
                    table.pop(int(cell), None)

    def check_atomic(self, access: Access, clocks: Clocks, scope: int, report: Report) -> None:
        self.check_flight(access, report)
        self.check_async_reads(access, report)
        self.check_writer(access, clocks, report)
        self.check_readers(access, clocks, report)
        self.check_touches(access, self.atomics, "changed atomically", clocks, report, atomic_scope=scope)

    def record_atomic(
        self, thread: int, cells: np.ndarray, clocks: Clocks, scope: int, place: int, *, reads: bool, writes: bool
    ) -> None:
        touch = Touch(clocks.block, thread, int(clocks.counter[thread // WARP]), scope, place, reads, writes)
        for cell in cells:
            touches = self.atomics[int(cell)]
            touches[:] = [other for other in touches if (other.block, other.thread) != (clocks.block, thread)]
            touches.append(touch)

    def end_of_block(self, clocks: Clocks) -> None:
        """The table of lanes is for the next block; those of this one are remembered singly."""
        for cell, warp in zip(*np.nonzero(self.readers), strict=True):
            clock, place = int(self.read_clock[cell, warp]), int(self.read_place[cell])
            for lane in np.flatnonzero((int(self.readers[cell, warp]) >> np.arange(WARP)) & 1):
                thread = int(warp) * WARP + int(lane)
                self.earlier_readers[int(cell)].append(Touch(clocks.block, thread, clock, GPU, place))
        self.readers[:] = 0

    @staticmethod
    def first(found: np.ndarray) -> list[tuple[int, int]]:
        """The first place where something was found, if any: one report an instruction is enough."""
        places = np.flatnonzero(found)
        return [tuple(int(x) for x in np.unravel_index(places[0], found.shape))] if len(places) else []


def _share_scope(touch: Touch, block: int, scope: int) -> bool:
    return touch.block == block or min(touch.scope, scope) >= GPU
