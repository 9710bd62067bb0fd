"""Happens-before: what each thread of a block knows of the others, as vector clocks.

The threads of a warp share a counter. `seen[t, s]` is the greatest value of its counter up to which what thread s did
is ordered before what thread t does next; a barrier joins the rows of its threads, a release takes a row along for
whoever acquires it. After each such event the counters advance, so that what follows is not covered by it.

Of other blocks a thread knows what it acquired: `foreign[t]` has a row for each of them.
"""

from typing import NamedTuple

import numpy as np

WARP = 32
CTA, CLUSTER, GPU, SYSTEM = 0, 1, 2, 3
SCOPES = {"cta": CTA, "cluster": CLUSTER, "gpu": GPU, "gl": GPU, "sys": SYSTEM, "": GPU}


class Released(NamedTuple):
    """What a release made available: the row of its thread at that time."""

    block: int
    scope: int
    row: np.ndarray
    foreign: dict[int, np.ndarray]


class Clocks:
    def __init__(self, block: int, threads: int):
        self.block, self.threads = block, threads
        self.seen = np.zeros((threads, threads), np.uint32)
        self.proxied = np.zeros((threads, threads), np.uint32)
        """The same for what has passed a proxy fence, on its way to the matrix units."""
        self.counter = np.ones(-(-threads // WARP), np.uint32)
        self.foreign: list[dict[int, np.ndarray]] = [{} for _ in range(threads)]
        self.fenced: list[Released | None] = [None] * threads
        self.pending: list[list[Released]] = [[] for _ in range(threads)]

    def now(self, threads: np.ndarray) -> np.ndarray:
        return self.counter[threads // WARP]

    def advance(self, threads: np.ndarray) -> None:
        self.counter[np.unique(threads // WARP)] += 1

    def join(self, threads: np.ndarray) -> None:
        """A barrier of these threads."""
        joined = self.seen[threads].max(0)
        joined[threads] = np.maximum(joined[threads], self.now(threads))
        self.seen[threads] = joined
        self.proxied[threads] = self.proxied[threads].max(0)
        known = [self.foreign[t] for t in threads if self.foreign[t]]
        if known:
            together = _merged(known)
            for t in threads:
                self.foreign[t] = together
        self.advance(threads)

    def fence_proxy(self, threads: np.ndarray) -> None:
        """What these threads know of, their own deeds among it, becomes visible to the matrix units."""
        self.proxied[threads] = np.maximum(self.proxied[threads], self.seen[threads])
        self.proxied[threads, threads] = self.now(threads)
        self.advance(threads)

    def ordered(self, threads: np.ndarray, others: np.ndarray, clocks: np.ndarray) -> np.ndarray:
        """Whether what `others` [n,k] did at `clocks` is ordered before what `threads` [n] do now."""
        mine = threads[:, None]
        return (others == mine) | (self.seen[mine, np.maximum(others, 0)] >= clocks)

    def warps_seen(self, threads: np.ndarray) -> np.ndarray:
        """[n, warps]: up to which value a thread knows of every thread of a warp, itself left out."""
        rows = np.full((len(threads), len(self.counter) * WARP), np.iinfo(np.uint32).max, np.uint32)
        rows[:, : self.threads] = self.seen[threads]
        rows[np.arange(len(threads)), threads] = np.iinfo(np.uint32).max
        return rows.reshape(len(threads), -1, WARP).min(2)

    def knows(self, thread: int, block: int, other: int, clock: int) -> bool:
        """Whether what a thread of any block did is ordered before what `thread` does now."""
        if block == self.block:
            return other == thread or bool(self.seen[thread, other] >= clock)
        row = self.foreign[thread].get(block)
        return row is not None and bool(row[other] >= clock)

    def released(self, thread: int, scope: int) -> Released:
        row = self.seen[thread].copy()
        row[thread] = self.counter[thread // WARP]
        return Released(self.block, scope, row, self.foreign[thread])

    def acquire(self, thread: int, released: Released, scope: int) -> None:
        if released.block == self.block:
            self.seen[thread] = np.maximum(self.seen[thread], released.row)
        elif min(scope, released.scope) < GPU:
            return
        else:
            self.foreign[thread] = _merged([self.foreign[thread], {released.block: released.row}])
        self.foreign[thread] = _merged([self.foreign[thread], released.foreign])

    def fence(self, thread: int, scope: int) -> None:
        """Acquires what relaxed reads have seen; what relaxed writes publish from now on is what is known now."""
        for released in self.pending[thread]:
            self.acquire(thread, released, scope)
        self.pending[thread] = []
        self.fenced[thread] = self.released(thread, scope)


def _merged(known: list[dict[int, np.ndarray]]) -> dict[int, np.ndarray]:
    together: dict[int, np.ndarray] = {}
    for of_blocks in known:
        for block, row in of_blocks.items():
            together[block] = np.maximum(together[block], row) if block in together else row
    return together
