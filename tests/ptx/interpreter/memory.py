"""Loads, stores and fences: checked lane by lane, watched cell by cell, counted warp by warp."""

from typing import Any, NamedTuple

import numpy as np

from ..findings import MISALIGNED, NOT_GIVEN, OUTSIDE, RACE, UNDEFINED, UNINITIALISED
from ..memories import GIVEN, KNOWN, READ, SPACING_BITS, WRITTEN, Region, region_of
from ..memories import UNDEFINED as UNDEFINED_FLAG
from ..program import NONE, Coded
from .clocks import GPU, SCOPES, SYSTEM, WARP, Released
from .lanes import CONTAINERS, LOWER, UPPER, WHOLE
from .watch import Access, Watch


class Piece(NamedTuple):
    """The part of an access that lies in one region."""

    region: Region
    watch: Watch
    chosen: np.ndarray
    """[n] bool: of the threads of the access."""
    access: Access
    offsets: np.ndarray
    """Bytes from the region's beginning."""


def pieces(
    block: Any,
    space: str,
    threads: np.ndarray,
    addresses: np.ndarray,
    size: int,
    verb: str,
    *,
    wanted: np.ndarray | None = None,
) -> list[Piece]:
    """The parts of an access that are sound. `wanted`: how many of `size` bytes each thread really touches."""
    if space.startswith("shared"):
        regions = {0: (block.shared, block.watch)}
        numbers, offsets = np.zeros(len(threads), np.int64), addresses.astype(np.int64)
    else:
        regions = dict(enumerate(block.run.watched))
        numbers = region_of(addresses)
        offsets = (addresses & np.uint64((1 << SPACING_BITS) - 1)).astype(np.int64)
    found, sound = [], np.zeros(len(threads), bool)
    for number in np.unique(numbers):
        if number in regions:
            region, watch = regions[number]
            chosen = (numbers == number) & (offsets >= 0) & (offsets + size <= len(region.data))
            sound |= chosen
            if chosen.any():
                found.append((region, watch, chosen))
    _report_first(block, threads, ~sound, OUTSIDE, f"{verb} {size} bytes", addresses)
    parts = []
    for region, watch, inside in found:
        crooked = inside & (offsets % size != 0)
        _report_first(block, threads, crooked, MISALIGNED, f"{verb} {size} bytes", addresses)
        chosen = inside & ~crooked
        cells = offsets[chosen][:, None] // region.cell + np.arange(max(size // region.cell, 1))
        needed = np.ones_like(cells, bool)
        if wanted is not None:
            needed = np.arange(cells.shape[1]) * region.cell < wanted[chosen][:, None]
        missing = (needed & ((region.flags[cells] & GIVEN) == 0)).any(1)
        bad = np.zeros(len(threads), bool)
        bad[np.flatnonzero(chosen)[missing]] = True
        _report_first(block, threads, bad, NOT_GIVEN, f"{verb} {size} bytes of {region.name}", addresses)
        chosen &= ~bad
        if chosen.any():
            access = Access(threads[chosen], cells[~missing], verb)
            parts.append(Piece(region, watch, chosen, access, offsets[chosen]))
    return parts


def _report_first(
    block: Any, threads: np.ndarray, found: np.ndarray, kind: str, what: str, addresses: np.ndarray
) -> None:
    if found.any():
        first = int(np.flatnonzero(found)[0])
        block.report(kind, threads[first], f"{what} at {int(addresses[first]):#x}")


def addresses_of(block: Any, slot: int, offset: int, active: np.ndarray) -> np.ndarray:
    base = block.defined(slot, active, "an address") if slot != NONE else np.zeros(int(active.sum()), np.uint32)
    if base.dtype == np.uint32:  # addresses of shared memory and of parameters
        return (base + np.uint32(offset & 0xFFFFFFFF)).astype(np.uint64)
    return base + np.uint64(offset & 0xFFFFFFFFFFFFFFFF)


def bytes_at(region: Region, offsets: np.ndarray, size: int) -> np.ndarray:
    """[n, size] uint8."""
    return region.data[offsets[:, None] + np.arange(size)]


def load(block: Any, coded: Coded, active: np.ndarray, group: Any) -> None:
    base, *targets = coded.slots
    offset, size, signed = coded.numbers
    space, semantics = coded.form["space"], coded.form.details.get("semantics", "")
    threads = np.flatnonzero(active)
    addresses = addresses_of(block, base, offset, active)
    whole = size * len(targets)
    values = np.zeros((len(threads), whole), np.uint8)
    known = np.full((len(threads), len(targets)), WHOLE, np.uint8)
    if space == "param":
        values = block.run.parameters[addresses.astype(np.int64)[:, None] + np.arange(whole)]
    else:
        count(block, space, active, addresses, whole)
        for piece in pieces(block, space, threads, addresses, whole, "reads"):
            flags = read(block, piece, 2 * len(targets), strong=bool(semantics), scope=scope_of(coded))
            known[piece.chosen] = flags[:, ::2] * LOWER | flags[:, 1::2] * UPPER
            values[piece.chosen] = bytes_at(piece.region, piece.offsets, whole)
            if semantics:
                for thread, cells in zip(piece.access.threads, piece.access.cells, strict=True):
                    acquired(block, piece, int(thread), int(cells[0]), semantics == "acquire", scope_of(coded))
    for i, target in enumerate(targets):
        if target != NONE:
            part = np.ascontiguousarray(values[:, i * size : (i + 1) * size])
            bits = part.view(f"{'i' if signed else 'u'}{size}")[:, 0]
            dtype = CONTAINERS[block.program.slots[target].bits]
            block.put(target, active, bits.astype(dtype), known[:, i])


def read(block: Any, piece: Piece, parts: int = 1, *, strong: bool = False, scope: int = GPU) -> np.ndarray:
    """Checks and records a read; whether its parts, equal in size, are defined: [n, parts]."""
    region, watch, access = piece.region, piece.watch, piece.access
    flags = region.flags[access.cells]
    never = (flags & (KNOWN | UNDEFINED_FLAG)) == 0
    if never.any():
        first = int(np.flatnonzero(never.any(1))[0])
        block.report(UNINITIALISED, access.threads[first], f"byte {int(piece.offsets[first])} of {region.name}")
    if strong:
        watch.check_atomic(access, block.clocks, scope, block.report)
        for thread, cells in zip(access.threads, access.cells, strict=True):
            watch.record_atomic(int(thread), cells, block.clocks, scope, block.place, reads=True, writes=False)
    else:
        watch.check_read(access, block.clocks, block.report)
        watch.record_read(access, block.clocks, block.place)
    region.flags[access.cells] |= READ
    undefined = (flags & UNDEFINED_FLAG) != 0
    of_parts = np.repeat(undefined, max(parts // undefined.shape[1], 1), 1)
    return ~of_parts.reshape(len(undefined), parts, -1).any(2)


def store(block: Any, coded: Coded, active: np.ndarray, group: Any) -> None:
    base, *sources = coded.slots
    offset, size, _ = coded.numbers
    space, semantics = coded.form["space"], coded.form.details.get("semantics", "")
    threads = np.flatnonzero(active)
    addresses = addresses_of(block, base, offset, active)
    whole = size * len(sources)
    count(block, space, active, addresses, whole)
    columns = [block.get(source, active) for source in sources]
    values = np.stack([np.ascontiguousarray(c)[:, None].view(np.uint8)[:, :size] for c in columns], 1)
    flags = np.stack([block.known[source][active] for source in sources], 1)
    known = np.stack([(flags & LOWER) != 0, (flags & UPPER) != 0], 2).reshape(len(threads), -1)
    if size < 4:
        known = np.repeat(flags == WHOLE, 2, 1)
    for piece in pieces(block, space, threads, addresses, whole, "writes"):
        written = values[piece.chosen].reshape(-1, whole)
        write(block, piece, written, known[piece.chosen], strong=bool(semantics), scope=scope_of(coded))
        if semantics:
            for thread, cells in zip(piece.access.threads, piece.access.cells, strict=True):
                released(
                    block, piece, int(thread), int(cells[0]), semantics == "release", scope_of(coded), chained=False
                )


def write(
    block: Any, piece: Piece, values: np.ndarray, known: np.ndarray, *, strong: bool = False, scope: int = GPU
) -> None:
    """values: [n, bytes]; known: [n, parts], parts of equal size."""
    region, watch, access = piece.region, piece.watch, piece.access
    unknown = ~known.all(1)
    if unknown.any() and region is not block.shared:
        block.report(UNDEFINED, access.threads[int(np.flatnonzero(unknown)[0])], f"stored in {region.name}")
    if strong:
        watch.check_atomic(access, block.clocks, scope, block.report)
    else:
        watch.check_write(access, block.clocks, block.report)
        check_twice(block, piece, values)
    region.data[piece.offsets[:, None] + np.arange(values.shape[1])] = values
    cells, parts = access.cells.shape[1], known.shape[1]
    defined = np.repeat(known, max(cells // parts, 1), 1).reshape(len(known), cells, -1).all(2)
    region.flags[access.cells] = (region.flags[access.cells] & ~np.uint8(KNOWN | UNDEFINED_FLAG)) | np.where(
        defined, KNOWN | WRITTEN, UNDEFINED_FLAG | WRITTEN
    ).astype(np.uint8)
    if strong:
        for thread, cells in zip(access.threads, access.cells, strict=True):
            watch.record_atomic(int(thread), cells, block.clocks, scope, block.place, reads=False, writes=True)
    else:
        watch.record_write(access, block.clocks, block.place)


def check_twice(block: Any, piece: Piece, values: np.ndarray) -> None:
    """Threads of one instruction that write different values to one cell."""
    cells = piece.access.cells
    flat, size = cells.ravel(), piece.region.cell
    order = np.argsort(flat, kind="stable")
    same = flat[order][1:] == flat[order][:-1]
    if not same.any():
        return
    parts = np.ascontiguousarray(values).reshape(len(flat), -1)[:, :size]
    differ = same & (parts[order][1:] != parts[order][:-1]).any(1)
    if differ.any():
        one = order[1:][differ][0]
        thread = piece.access.threads[one // cells.shape[1]]
        block.report(RACE, thread, "writes what another thread writes at once, another value", block.place)


def scope_of(coded: Coded) -> int:
    if coded.form.details.get("semantics") == "volatile":
        return SYSTEM
    return SCOPES[coded.form.details.get("scope", "")]


def acquired(block: Any, piece: Piece, thread: int, cell: int, acquires: bool, scope: int) -> None:
    """A strong read saw what was released at a cell."""
    for item in block.run.locations.get((id(piece.watch), cell), ()):
        if acquires:
            block.clocks.acquire(thread, item, scope)
        else:
            block.clocks.pending[thread].append(item)


def released(block: Any, piece: Piece, thread: int, cell: int, releases: bool, scope: int, *, chained: bool) -> None:
    """A strong write publishes what its thread knows, or knew at its last fence. chained: it also carries on what was
    released there before, as a read-modify-write does."""
    item: Released | None = block.clocks.fenced[thread]
    if releases:
        item = block.clocks.released(thread, scope)
        block.clocks.advance(np.array([thread]))
    before = block.run.locations.get((id(piece.watch), cell), []) if chained else []
    block.run.locations[id(piece.watch), cell] = [*before, item] if item is not None else list(before)


def fence(block: Any, coded: Coded, active: np.ndarray, group: Any) -> None:
    for thread in np.flatnonzero(active):
        block.clocks.fence(int(thread), SCOPES[coded.form["scope"]])
    block.clocks.advance(np.flatnonzero(active))


def proxy_fence(block: Any, coded: Coded, active: np.ndarray, group: Any) -> None:
    block.clocks.fence_proxy(np.flatnonzero(active))


def nothing(block: Any, coded: Coded, active: np.ndarray, group: Any) -> None:
    """A prefetch."""


def count(block: Any, space: str, active: np.ndarray, addresses: np.ndarray, size: int) -> None:
    threads, counts = np.flatnonzero(active), block.run.counts
    if space.startswith("shared"):
        counts.shared(block.place, threads // WARP, threads % WARP, addresses, size)
    else:
        counts.global_(block.place, threads // WARP, addresses, size)


ACTIONS = {
    "load": load,
    "store": store,
    "fence": fence,
    "proxy_fence": proxy_fence,
    "nothing": nothing,
}
