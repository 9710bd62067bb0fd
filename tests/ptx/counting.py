"""What a launch did, instruction by instruction, and what that says about its traffic.

Rules of the hardware that are counted by: a warp's access of global memory moves whole sectors of 32 bytes, each once
an instruction; shared memory has 32 banks of 4 bytes, and an access takes as many passes as the busiest bank has
different words, for all lanes at once up to 4 bytes a lane, for half of them at 8, a quarter at 16.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from .forms import Machine
from .memories import READ, SECTOR, WRITTEN, Region
from .program import Coded, Program

BANKS = 32
BANK_BYTES = 4
WARP = 32


class PerInstruction:
    """Arrays with a number for each instruction of a program; the engines add to them."""

    FIELDS = ("warps", "passing", "lanes", "sectors", "passes", "least_passes", "worst")

    def __init__(self, program: Program):
        size = len(program.code)
        self.warps = np.zeros(size, np.int64)
        """Warps that issued it."""
        self.passing = np.zeros(size, np.int64)
        """Warps in which it did something: its guard held for a thread at least."""
        self.lanes = np.zeros(size, np.int64)
        """Threads that did something."""
        self.sectors = np.zeros(size, np.int64)
        self.passes = np.zeros(size, np.int64)
        """Of shared memory."""
        self.least_passes = np.zeros(size, np.int64)
        """That the same accesses would take without conflicts."""
        self.worst = np.zeros(size, np.int64)
        """Most different words in one bank in a pass."""

    def issued(self, place: int, active: np.ndarray) -> None:
        self.warps[place] += _warps(active)

    def passed(self, place: int, active: np.ndarray) -> None:
        self.passing[place] += _warps(active)
        self.lanes[place] += np.count_nonzero(active)

    def global_(self, place: int, warps: np.ndarray, addresses: np.ndarray, size: int) -> None:
        for warp in np.unique(warps):
            own = addresses[warps == warp]
            first, last = own // np.uint64(SECTOR), (own + np.uint64(size - 1)) // np.uint64(SECTOR)
            self.sectors[place] += len(np.unique(np.concatenate([first, last])))

    def shared(self, place: int, warps: np.ndarray, lanes: np.ndarray, addresses: np.ndarray, size: int) -> None:
        together = WARP * BANK_BYTES // max(size, BANK_BYTES)
        for warp in np.unique(warps):
            own = warps == warp
            for part in np.unique(lanes[own] // together):
                chosen = addresses[own][lanes[own] // together == part].astype(np.int64)
                words = np.unique(chosen[:, None] // BANK_BYTES + np.arange(max(size // BANK_BYTES, 1)))
                degree = int(np.bincount(words % BANKS).max())
                self.passes[place] += degree
                self.least_passes[place] += 1
                self.worst[place] = max(self.worst[place], degree)


def _warps(active: np.ndarray) -> int:
    padded = np.zeros(-(-len(active) // WARP) * WARP, bool)
    padded[: len(active)] = active
    return int(padded.reshape(-1, WARP).any(1).sum())


@dataclass(frozen=True)
class Traffic:
    """Of global memory, in one direction."""

    bytes: int
    """Asked for by threads."""
    sectors: int
    """Asked for by warps: what crosses between the multiprocessors and the L2 cache, were there no L1."""
    unique_bytes: int
    """Different bytes: what crosses between the L2 cache and memory at least."""
    unique_sectors: int

    @property
    def coalescing(self) -> float:
        """Bytes asked for, of those in the sectors; above 1 where several threads ask for the same."""
        return self.bytes / (self.sectors * SECTOR) if self.sectors else 1.0


@dataclass(frozen=True)
class Conflict:
    """An instruction whose accesses of shared memory take more passes than they need."""

    line: int
    text: str
    passes: int
    least_passes: int
    worst: int


@dataclass(frozen=True)
class Counts:
    """Of one launch."""

    blocks: int
    instructions: dict[str, int]
    """Issued by warps, by mnemonic."""
    read: Traffic
    written: Traffic
    shared_passes: int
    shared_least_passes: int
    conflicts: tuple[Conflict, ...]
    barriers: int
    """Instructions that make the warps of a block meet, issued by warps."""
    matrix_operations: int
    """Multiplications and additions."""
    atomics: int
    """Lanes that changed memory atomically."""

    @property
    def warp_instructions(self) -> int:
        return sum(self.instructions.values())

    @property
    def worst_conflict(self) -> int:
        """Ways of the worst bank conflict; 1 where there is none."""
        return max((conflict.worst for conflict in self.conflicts), default=1)


def summed(program: Program, counted: PerInstruction, regions: list[Region], blocks: int) -> Counts:
    instructions: Counter[str] = Counter()
    traffic = {READ: [0, 0], WRITTEN: [0, 0]}
    conflicts, operations, barriers, atomics = [], 0, 0, 0
    for place, coded in enumerate(program.code):
        issued = int(counted.warps[place])
        if not issued:
            continue
        instructions[coded.form.opcode.partition(".")[0]] += issued
        for flag, size in _moved(coded):
            traffic[flag][0] += size * int(counted.lanes[place])
            traffic[flag][1] += int(counted.sectors[place])
        if counted.passes[place] > counted.least_passes[place]:
            passes = (int(counted.passes[place]), int(counted.least_passes[place]), int(counted.worst[place]))
            conflicts.append(Conflict(coded.instruction.line, program.text_of(place), *passes))
        operations += int(counted.passing[place]) * matrix_operations(coded)
        barriers += issued if coded.action == "barrier" else 0
        atomics += int(counted.lanes[place]) if coded.action == "atomic" else 0
    unique = [
        (sum(region.unique_bytes(flag) for region in regions), sum(region.unique_sectors(flag) for region in regions))
        for flag in (READ, WRITTEN)
    ]
    return Counts(
        blocks,
        dict(instructions),
        Traffic(*traffic[READ], *unique[0]),
        Traffic(*traffic[WRITTEN], *unique[1]),
        int(counted.passes.sum()),
        int(counted.least_passes.sum()),
        tuple(conflicts),
        barriers,
        operations,
        atomics,
    )


def _moved(coded: Coded) -> list[tuple[int, int]]:
    """What an instruction reads or writes of global memory: flag and bytes a lane."""
    if coded.action == "copy":
        return [(READ, coded.numbers[2])]
    if coded.action not in ("load", "store", "atomic") or coded.form["space"] in ("param", "shared", "shared::cta"):
        return []
    if coded.action == "atomic":
        return [(READ, coded.numbers[1]), (WRITTEN, coded.numbers[1])]
    return [(READ if coded.action == "load" else WRITTEN, coded.numbers[1] * (len(coded.slots) - 1))]


def matrix_operations(coded: Coded) -> int:
    """Multiplications and additions of one warp."""
    if not isinstance(coded.form, Machine):
        return 0
    if coded.action == "multiply":
        return 2 * 16 * 8 * int(coded.form["k"][1:])
    if coded.action == "multiply_async":  # a quarter of the four warps' 64 rows
        return 2 * 16 * int(coded.form["n"]) * (8 if coded.form["type"] == "tf32" else 16)
    return 0
