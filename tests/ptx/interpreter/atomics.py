"""Atomics: what they store, and what they make known to others."""

from typing import Any

import numpy as np

from .. import words
from ..findings import UNINITIALISED
from ..memories import KNOWN, READ, WRITTEN
from ..program import NONE, Coded
from .lanes import CONTAINERS, loaded, stored
from .memory import acquired, addresses_of, count, pieces, released, scope_of


def atomic(block: Any, coded: Coded, active: np.ndarray, group: Any) -> None:
    target, base, *operands = coded.slots
    offset, size, _ = coded.numbers
    form = coded.form
    space, semantics = form["space"], form.details.get("semantics", "") or "relaxed"
    threads = np.flatnonzero(active)
    addresses = addresses_of(block, base, offset, active)
    count(block, space, active, addresses, size)
    given = [block.defined(operand, active, "the operand of an atomic") for operand in operands]
    old = np.zeros(len(threads), f"u{size}")
    for piece in pieces(block, space, threads, addresses, size, "changes atomically"):
        piece.watch.check_atomic(piece.access, block.clocks, scope_of(coded), block.report)
        never = (piece.region.flags[piece.access.cells] & KNOWN) == 0
        if never.any():
            first = int(np.flatnonzero(never.any(1))[0])
            detail = f"byte {int(piece.offsets[first])} of {piece.region.name}"
            block.report(UNINITIALISED, piece.access.threads[first], detail)
        for i, offset_ in zip(np.flatnonzero(piece.chosen), piece.offsets, strict=True):
            thread, cells = int(threads[i]), piece.access.cells[np.searchsorted(piece.access.threads, threads[i])]
            acquired(block, piece, thread, int(cells[0]), semantics in ("acquire", "acq_rel"), scope_of(coded))
            word = piece.region.data[offset_ : offset_ + size].view(f"u{size}")
            old[i] = word[0]
            word[0] = changed(form["operation"], form["type"], word.copy(), [x[i : i + 1] for x in given])[0]
            scope, place = scope_of(coded), block.place
            piece.watch.record_atomic(thread, cells, block.clocks, scope, place, reads=True, writes=True)
            releases = semantics in ("release", "acq_rel")
            released(block, piece, thread, int(cells[0]), releases, scope_of(coded), chained=True)
        piece.region.flags[piece.access.cells] |= READ | WRITTEN | KNOWN
    if target != NONE:
        block.put(target, active, old.astype(CONTAINERS[block.program.slots[target].bits]))


def changed(operation: str, kind: str, old: np.ndarray, operands: list[np.ndarray]) -> np.ndarray:
    """What an atomic operation stores; everything as registers of one element."""
    a, b = loaded(old, kind), loaded(operands[0], kind)
    if operation == "cas":
        return np.where(old == operands[0], operands[1], old)
    if operation == "inc":
        return np.where(a >= b, 0, a + 1).astype(old.dtype)
    if operation == "dec":
        return np.where((a == 0) | (a > b), b, a - 1).astype(old.dtype)
    result = {
        "add": lambda: a + b,
        "and": lambda: a & b,
        "or": lambda: a | b,
        "xor": lambda: a ^ b,
        "min": lambda: words.least(a, b),
        "max": lambda: words.greatest(a, b),
        "exch": lambda: b,
    }[operation]()
    return stored(result, kind)


ACTIONS = {"atomic": atomic}
