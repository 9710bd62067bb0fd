"""Loads, stores, atomics and asynchronous copies: checked lane by lane, watched cell by cell, counted warp by warp."""

from typing import Any, NamedTuple

import numpy as np

from .. import words
from ..findings import MISALIGNED, NOT_GIVEN, OUTSIDE, RACE, UNDEFINED, UNINITIALISED
from ..memories import GIVEN, KNOWN, READ, SPACING_BITS, WRITTEN, Region, region_of
from ..memories import UNDEFINED as UNDEFINED_FLAG
from ..program import NONE, Coded
from .clocks import GPU, SCOPES, SYSTEM, WARP, Released
from .lanes import CONTAINERS, LOWER, UPPER, WHOLE, loaded, stored
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


class Copy(NamedTuple):
    """An asynchronous copy on its way: of each thread, in a group of its own count."""

    threads: np.ndarray
    groups: np.ndarray
    cells: np.ndarray
    place: int


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
            flags = read(block, piece, 2 * len(targets), strong=bool(semantics), scope=_scope(coded))
            known[piece.chosen] = flags[:, ::2] * LOWER | flags[:, 1::2] * UPPER
            values[piece.chosen] = bytes_at(piece.region, piece.offsets, whole)
            if semantics:
                for thread, cells in zip(piece.access.threads, piece.access.cells, strict=True):
                    acquired(block, piece, int(thread), int(cells[0]), semantics == "acquire", _scope(coded))
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
        write(block, piece, written, known[piece.chosen], strong=bool(semantics), scope=_scope(coded))
        if semantics:
            for thread, cells in zip(piece.access.threads, piece.access.cells, strict=True):
                released(block, piece, int(thread), int(cells[0]), semantics == "release", _scope(coded), chained=False)


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


def _scope(coded: Coded) -> int:
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
        piece.watch.check_atomic(piece.access, block.clocks, _scope(coded), block.report)
        never = (piece.region.flags[piece.access.cells] & KNOWN) == 0
        if never.any():
            first = int(np.flatnonzero(never.any(1))[0])
            detail = f"byte {int(piece.offsets[first])} of {piece.region.name}"
            block.report(UNINITIALISED, piece.access.threads[first], detail)
        for i, offset_ in zip(np.flatnonzero(piece.chosen), piece.offsets, strict=True):
            thread, cells = int(threads[i]), piece.access.cells[np.searchsorted(piece.access.threads, threads[i])]
            acquired(block, piece, thread, int(cells[0]), semantics in ("acquire", "acq_rel"), _scope(coded))
            word = piece.region.data[offset_ : offset_ + size].view(f"u{size}")
            old[i] = word[0]
            word[0] = changed(form["operation"], form["type"], word.copy(), [x[i : i + 1] for x in given])[0]
            scope, place = _scope(coded), block.place
            piece.watch.record_atomic(thread, cells, block.clocks, scope, place, reads=True, writes=True)
            releases = semantics in ("release", "acq_rel")
            released(block, piece, thread, int(cells[0]), releases, _scope(coded), chained=True)
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
    "atomic": atomic,
    "copy": copy,
    "commit_copies": commit_copies,
    "wait_for_copies": wait_for_copies,
    "fence": fence,
    "proxy_fence": proxy_fence,
    "nothing": nothing,
}
