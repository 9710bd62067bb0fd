"""The engine in numpy: the oracle of the one in C++, and what runs where there is no compiler."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..counting import PerInstruction
from ..findings import KINDS
from ..memories import Region
from ..program import Program
from .block import Block
from .clocks import WARP, Released
from .watch import Watch


class Found(NamedTuple):
    """A finding as the engines give it: numbers of its kind and of the instructions."""

    kind: int
    place: int
    block: int
    thread: int
    other: int
    times: int
    detail: str


class Run:
    """One execution of the blocks of a launch, in an order."""

    def __init__(
        self,
        program: Program,
        regions: list[Region],
        parameters: np.ndarray,
        *,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        shared_bytes: int,
        approximation: int,
        most_steps: int,
        checked: bool,
    ):
        """checked: unused; this engine always checks."""
        self.program, self.regions, self.parameters = program, regions, parameters
        self.grid, self.block, self.shared_bytes = grid, block, shared_bytes
        self.approximation, self.most_steps = approximation, most_steps
        self.threads = block[0] * block[1] * block[2]
        self.counts = PerInstruction(program)
        self.found: dict[tuple[int, int], Found] = {}
        self.locations: dict[tuple[int, int], list[Released]] = {}
        warps = -(-self.threads // WARP)
        self.watched = [(region, Watch(region, warps)) for region in regions]

    def execute(self, order: Sequence[int]) -> None:
        with np.errstate(all="ignore"):
            for number in order:
                Block(self, number).execute()

    def report(self, kind: str, place: int, block: int, thread: int, detail: str, other: int) -> None:
        key = KINDS.index(kind), place
        before = self.found.get(key)
        if before is None:
            self.found[key] = Found(*key, block, thread, other, 1, detail)
        else:
            self.found[key] = before._replace(times=before.times + 1)

    def end_of_block(self, block: Block) -> None:
        for _, watch in self.watched:
            watch.end_of_block(block.clocks)
