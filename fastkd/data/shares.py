"""Who has which images of a global batch: contiguous shares, whose sizes differ by one image at most."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple


def share(count: int, number: int, shares: int) -> slice:
    """The images of one of so many shares, by its number from 0. Where `shares` is a multiple of the processes, those
    of one process are its own share."""
    return slice(count * number // shares, count * (number + 1) // shares)


@lru_cache(16)  # every step asks
def sizes(count: int, shares: int) -> tuple[int, ...]:
    """The images of each share."""
    parts = (share(count, number, shares) for number in range(shares))
    return tuple(part.stop - part.start for part in parts)


def words(count: int, shares: int) -> str:
    """The sizes as a user reads them: `16` where they are equal, else `11+11+10`, or their range where many differ."""
    found = sizes(count, shares)
    if len({*found}) == 1:
        return str(found[0])
    return "+".join(map(str, found)) if shares <= 8 else f"{min(found)} or {max(found)}"


class Place(NamedTuple):
    """Where the images of one forward pass stand among those of the others."""

    first: int = 0
    """The first one's number in the global batch, from 0."""
    sizes: Sequence[int] = ()
    """The images that each process passes forward at the same time; empty: this process alone, or all have as many."""
