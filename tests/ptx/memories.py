"""Memory as a kernel sees it: buffers far apart in one address space, and what is known of every cell of them.

A cell is the smallest piece that the kernel accesses. The addresses of two buffers are 2⁴⁰ apart, so that no index that
is a little wrong lands in another buffer; within a buffer, the bytes that the caller did not give (between the rows of
a view, behind its end) are marked, and so are those that nobody has written.
"""

from dataclasses import dataclass, field

import numpy as np

SPACING_BITS = 40
GIVEN, KNOWN, UNDEFINED, READ, WRITTEN = 1, 2, 4, 8, 16
"""Flags of a cell: it may be accessed; it has a value; what was last written to it is an undefined value; the launch
has read it; the launch has written it."""
SECTOR = 32
"""Bytes that global memory is moved in."""


@dataclass
class Region:
    """A buffer; `data` is the caller's own memory, which the kernel changes in place."""

    name: str
    base: int
    data: np.ndarray
    """uint8"""
    cell: int
    flags: np.ndarray
    """uint8, one a cell"""
    tracked: bool = field(default=False)
    """Who reads a cell is remembered, for the sake of those who write it later."""

    @property
    def cells(self) -> int:
        return len(self.flags)

    def unique_bytes(self, flag: int) -> int:
        """Bytes of the cells that the launch has touched."""
        return int(np.count_nonzero(self.flags & flag)) * self.cell

    def unique_sectors(self, flag: int) -> int:
        touched = np.flatnonzero(self.flags & flag) * self.cell // SECTOR
        return len(np.unique(touched))


def region(
    name: str,
    number: int,
    data: np.ndarray,
    cell: int,
    *,
    given: np.ndarray | None = None,
    written: np.ndarray | None = None,
) -> Region:
    """given, written: bool, one a byte; None: all of them."""
    cells = -(-len(data) // cell)
    flags = np.zeros(cells, np.uint8)
    flags[_whole_cells(given, len(data), cell, cells)] |= GIVEN
    flags[_whole_cells(written, len(data), cell, cells)] |= KNOWN
    return Region(name, (number + 1) << SPACING_BITS, data, cell, flags)


def _whole_cells(of_bytes: np.ndarray | None, size: int, cell: int, cells: int) -> np.ndarray:
    padded = np.zeros(cells * cell, bool)
    padded[:size] = True if of_bytes is None else of_bytes
    return padded.reshape(cells, cell).all(1)


def region_of(address: np.ndarray) -> np.ndarray:
    """Numbers of the regions that addresses lie in, if these are there."""
    return (address >> np.uint64(SPACING_BITS)).astype(np.int64) - 1
