"""Asynchronous copies from global to shared memory."""

from typing import Any, NamedTuple

import numpy as np

from ..program import NONE, Coded
from .memory import addresses_of, bytes_at, count, pieces, read, write


class Copy(NamedTuple):
    """An asynchronous copy on its way: of each thread, in a group of its own count."""

    threads: np.ndarray
    groups: np.ndarray
    cells: np.ndarray
    place: int


def copy(block: Any, coded: Coded, active: np.ndarray, group: Any) -> None:
    """cp.async: what arrives is there at once, but may not be touched before its thread has waited for it."""
    to, source, real = coded.slots
    to_offset, from_offset, size = coded.numbers
    threads = np.flatnonzero(active)
    targets = addresses_of(block, to, to_offset, active)
    sources = addresses_of(block, source, from_offset, active)
    wanted = np.full(len(threads), size, np.int64)
    if real != NONE:
        wanted = np.minimum(block.defined(real, active, "the size of a copy").astype(np.int64), size)
    values = np.zeros((len(threads), size), np.uint8)
    real_ones = wanted > 0
    reading = np.zeros_like(active)
    reading[threads[real_ones]] = True
    count(block, "global", reading, sources[real_ones], size)
    for piece in pieces(
        block, "global", threads[real_ones], sources[real_ones], size, "reads", wanted=wanted[real_ones]
    ):
        read(block, piece)
        values[np.flatnonzero(real_ones)[piece.chosen]] = bytes_at(piece.region, piece.offsets, size)
    values[np.arange(size) >= wanted[:, None]] = 0
    count(block, "shared", active, targets, size)
    for piece in pieces(block, "shared", threads, targets, size, "copies to"):
        write(block, piece, values[piece.chosen], np.ones((len(piece.offsets), 1), bool))
        piece.watch.flight[piece.access.cells] = block.place
        groups = block.open_copies[piece.access.threads]
        block.copies.append(Copy(piece.access.threads, groups, piece.access.cells, block.place))


def commit_copies(block: Any, coded: Coded, active: np.ndarray, group: Any) -> None:
    block.open_copies[active] += 1


def wait_for_copies(block: Any, coded: Coded, active: np.ndarray, group: Any) -> None:
    """All but the newest groups of each thread have arrived, as if written now."""
    pending = coded.numbers[0]
    remaining = []
    for item in block.copies:
        newest = block.open_copies[item.threads] - pending if pending != NONE else np.inf
        arrived = active[item.threads] & (item.groups < newest)
        if arrived.any():
            cells, threads = item.cells[arrived], item.threads[arrived]
            block.watch.flight[cells] = -1
            block.watch.writer[cells] = threads[:, None]
            block.watch.write_clock[cells] = block.clocks.now(threads)[:, None]
        if not arrived.all():
            left = ~arrived
            remaining.append(Copy(item.threads[left], item.groups[left], item.cells[left], item.place))
    block.copies = remaining


ACTIONS = {"copy": copy, "commit_copies": commit_copies, "wait_for_copies": wait_for_copies}
