"""Barriers, and what the threads of a warp do together."""

import functools
from typing import Any

import numpy as np

from .. import words
from ..findings import DIVERGENCE, INACTIVE
from ..program import NONE, Coded
from .clocks import WARP
from .lanes import CONTAINERS, LOWER, UPPER, WHOLE, loaded, stored


class Waiting:
    """The threads that have arrived at a barrier."""

    def __init__(self, threads: int):
        self.here = np.zeros(threads, bool)
        self.blocked = np.zeros(threads, bool)
        """Those of them that wait; the others arrived and went on."""
        self.expected = NONE
        self.places: dict[int, np.ndarray] = {}
        self.given = np.zeros(threads, bool)
        self.targets: list[tuple[int, str, np.ndarray]] = []


class Barriers:
    def __init__(self, block: Any):
        self.block = block
        self.waiting: dict[int, Waiting] = {}

    def arrive(self, coded: Coded, active: np.ndarray, group: Any, *, waits: bool) -> None:
        barrier, count = coded.slots[:2]
        if count == NONE and self.block.program.slots[barrier].value is not None:
            self.bring(coded, active, group, waits=waits)
            return
        for warp in np.unique(np.flatnonzero(active) // WARP):  # one with a count may be complete before all are there
            of_warp = np.arange(len(active)) // WARP == warp
            self.bring(coded, active & of_warp, group, waits=waits)

    def bring(self, coded: Coded, active: np.ndarray, group: Any, *, waits: bool) -> None:
        block = self.block
        barrier, count, target, given = coded.slots
        number = int(block.defined(barrier, active, "the number of a barrier")[0])
        here = self.waiting.setdefault(number, Waiting(block.threads))
        here.here |= active
        here.expected = int(block.get(count, active)[0]) if count != NONE else NONE
        here.places[block.place] = here.places.get(block.place, np.zeros_like(active)) | active
        if given != NONE:
            here.given[active] = block.defined(given, active, "what a barrier reduces")
            here.targets.append((target, coded.form["reduction"], active))
        if waits:
            here.blocked |= active
            block.leave(group, active)
        self.look()

    def look(self) -> None:
        """Lets those go on whose barrier is complete."""
        for number, here in list(self.waiting.items()):
            expected = here.expected if here.expected != NONE else np.count_nonzero(self.block.alive)
            if np.count_nonzero(here.here) >= expected:
                del self.waiting[number]
                self.complete(here)

    def complete(self, here: Waiting) -> None:
        block = self.block
        threads = np.flatnonzero(here.here)
        if len(here.places) > 1 and here.expected == NONE:  # with a count, different roles may meet
            fewest = min(here.places, key=lambda place: np.count_nonzero(here.places[place]))
            others = [place for place in here.places if place != fewest]
            thread = int(np.flatnonzero(here.places[fewest])[0])
            before, block.place = block.place, fewest
            block.report(DIVERGENCE, thread, "meets threads at another barrier instruction", others[0])
            block.place = before
        block.clocks.join(threads)
        values = here.given[threads]
        for target, reduction, active in here.targets:
            result = {"or": values.any(), "and": values.all(), "popc": np.count_nonzero(values)}[reduction]
            block.put(target, active, result)
        for place, arrived in here.places.items():
            going = arrived & here.blocked
            if going.any():
                block.go_on(place + 1, going)
        block.changed = True

    def give_up(self) -> None:
        """Nobody can move: whoever waits, waits for threads that never come."""
        number, here = next(iter(self.waiting.items()))
        block = self.block
        block.place, arrived = next(iter(here.places.items()))
        missing = np.flatnonzero(block.alive & ~here.here)
        thread = int(missing[0]) if len(missing) else int(np.flatnonzero(arrived)[0])
        block.report(DIVERGENCE, thread, f"never comes to barrier {number}")
        del self.waiting[number]
        self.complete(here)


def barrier(block: Any, coded: Coded, active: np.ndarray, group: Any) -> None:
    if coded.form.opcode.startswith("bar.") or coded.form.details.get("aligned"):
        block.check_whole_warps(active, DIVERGENCE)
    block.barriers.arrive(coded, active, group, waits=True)


def arrive(block: Any, coded: Coded, active: np.ndarray, group: Any) -> None:
    block.barriers.arrive(coded, active, group, waits=False)


def members(block: Any, slot: int, active: np.ndarray) -> np.ndarray:
    """The threads of the masks of warps, which must all be here, their own ones among them."""
    here, alive = block.warps(active), block.warps(block.alive)
    masks = np.zeros(block.threads, np.uint32)
    masks[active] = block.defined(slot, active, "a mask of lanes")
    padded = np.zeros(here.size, np.uint32)
    padded[: block.threads] = masks
    of_warps = padded.reshape(-1, WARP)
    named = np.zeros_like(here)
    for warp in np.flatnonzero(here.any(1)):
        lanes = np.flatnonzero(here[warp])
        mask = int(of_warps[warp, lanes[0]])
        named[warp] = (mask >> np.arange(WARP)) & 1
        absent = np.flatnonzero(named[warp] & alive[warp] & ~here[warp])
        stray = lanes[~named[warp, lanes]]
        if len(absent):
            block.report(INACTIVE, int(warp) * WARP + int(absent[0]), "named by the mask, but elsewhere")
        if len(stray):
            block.report(INACTIVE, int(warp) * WARP + int(stray[0]), "here, but not named by the mask")
    return named


def warp_barrier(block: Any, coded: Coded, active: np.ndarray, group: Any) -> None:
    named = members(block, coded.slots[0], active)
    for warp in np.flatnonzero(block.warps(active).any(1)):
        threads = int(warp) * WARP + np.flatnonzero(named[warp])
        block.clocks.join(threads[threads < block.threads])


def shuffle(block: Any, coded: Coded, active: np.ndarray, group: Any) -> None:
    target, inside, value, by, clamp, mask = coded.slots
    members(block, mask, active)
    threads = np.flatnonzero(active)
    lane, b = threads % WARP, block.defined(by, active, "the lane of a shuffle").astype(np.int64) & 31
    c = block.defined(clamp, active, "the clamp of a shuffle").astype(np.int64)
    segment, limit = (c >> 8) & 31, c & 31
    low, high = lane & segment, (lane & segment) | (limit & ~segment)
    mode = coded.form["mode"]
    wanted = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": low | (b & ~segment)}[mode]
    valid = wanted >= high if mode == "up" else wanted <= high
    origin = threads - lane + np.where(valid, wanted, lane)
    absent = valid & ((origin >= block.threads) | ~active[np.minimum(origin, block.threads - 1)])
    if absent.any():
        first = int(np.flatnonzero(absent)[0])
        block.report(INACTIVE, threads[first], f"reads lane {int(wanted[first])}, which is not here")
    origin = np.where(absent, threads, origin)
    block.put(target, active, block.registers[value][origin], block.known[value][origin])
    block.put(inside, active, valid)


def vote(block: Any, coded: Coded, active: np.ndarray, group: Any) -> None:
    target, given, mask = coded.slots
    named = members(block, mask, active)
    values = np.zeros(block.threads, bool)
    values[active] = block.defined(given, active, "what is voted on")
    votes, here = block.warps(values) & named, block.warps(active) & named
    if coded.form["reduction"] == "ballot":
        results = (votes.astype(np.uint64) << np.arange(WARP, dtype=np.uint64)).sum(1).astype(np.uint32)
    else:
        every, some = (votes | ~here).all(1), votes.any(1)
        results = {"all": every, "any": some, "uni": every | ~some}[coded.form["reduction"]]
    block.put(target, active, results[np.flatnonzero(active) // WARP])


def reduce(block: Any, coded: Coded, active: np.ndarray, group: Any) -> None:
    target, source, mask = coded.slots
    named = members(block, mask, active)
    form, threads = coded.form, np.flatnonzero(active)
    numbers = loaded(block.registers[source], form["type"])
    absolute = form.details.get("absolute", "")
    for warp in np.unique(threads // WARP):
        own = threads[(threads // WARP == warp) & named[threads // WARP, threads % WARP]]
        values = np.abs(numbers[own]) if absolute else numbers[own]
        result = _reduced(form["reduction"], values, nan=bool(form.details.get("nan", "")))
        chosen = np.zeros_like(active)
        chosen[threads[threads // WARP == warp]] = True
        bits = stored(np.array([result], numbers.dtype), form["type"])[0]
        block.put(target, chosen, bits, np.bitwise_and.reduce(block.known[source][own]))


def _reduced(reduction: str, values: np.ndarray, *, nan: bool) -> Any:
    if values.dtype.kind == "f":
        numbers = values[~np.isnan(values)]
        if not len(numbers) or (nan and len(numbers) < len(values)):
            return np.nan
        word = words.lesser_number if reduction == "min" else words.greater_number
        return functools.reduce(word, numbers[:, None])[0]
    return {
        "add": lambda: values.sum(dtype=values.dtype),
        "min": values.min,
        "max": values.max,
        "and": lambda: np.bitwise_and.reduce(values),
        "or": lambda: np.bitwise_or.reduce(values),
        "xor": lambda: np.bitwise_xor.reduce(values),
    }[reduction]()


def elect(block: Any, coded: Coded, active: np.ndarray, group: Any) -> None:
    """The lowest lane of the mask is the leader."""
    lane_of_leader, leads, mask = coded.slots
    named = members(block, mask, active)
    threads = np.flatnonzero(active)
    leader = named.argmax(1)[threads // WARP]
    block.put(lane_of_leader, active, leader)
    block.put(leads, active, threads % WARP == leader)


def active_mask(block: Any, coded: Coded, active: np.ndarray, group: Any) -> None:
    masks = (block.warps(active).astype(np.uint64) << np.arange(WARP, dtype=np.uint64)).sum(1)
    block.put(coded.slots[0], active, masks[np.flatnonzero(active) // WARP])


def pack(block: Any, coded: Coded, active: np.ndarray, group: Any) -> None:
    """A mov between one register and the several that it is made of."""
    targets, bits = coded.numbers
    to, sources = coded.slots[:targets], coded.slots[targets:]
    part = bits // max(len(to), len(sources))
    joined = np.zeros(np.count_nonzero(active), np.uint64)
    known = np.full(len(joined), WHOLE, np.uint8)
    for i, source in enumerate(sources):
        joined |= block.get(source, active).astype(np.uint64) << np.uint64(part * i)
        flags = block.known[source][active]
        missing = np.where(flags == WHOLE, WHOLE, _other_half(i, len(sources))).astype(np.uint8)
        known &= flags if len(sources) == 1 else missing
    for i, target in enumerate(to):
        if target != NONE:
            dtype = CONTAINERS[block.program.slots[target].bits]
            value = joined >> np.uint64(part * i)
            if len(to) > 1 and part < 64:
                value &= np.uint64((1 << part) - 1)
            half = WHOLE & ~_other_half(i, len(to))
            block.put(target, active, value.astype(dtype), known if len(to) == 1 else np.where(known & half, WHOLE, 0))


def _other_half(part: int, parts: int) -> int:
    """The half of a register that a part of it does not lie in."""
    return UPPER if part < parts // 2 else LOWER


def trap(block: Any, coded: Coded, active: np.ndarray, group: Any) -> None:
    block.trap(active, "trap")
    block.leave(group, active)
    block.end(active)


def call(block: Any, coded: Coded, active: np.ndarray, group: Any) -> None:
    """Only an assertion that fails calls a function."""
    block.trap(active, "a call")
    block.leave(group, active)
    block.end(active)


ACTIONS = {
    "barrier": barrier,
    "arrive": arrive,
    "warp_barrier": warp_barrier,
    "shuffle": shuffle,
    "vote": vote,
    "reduce": reduce,
    "elect": elect,
    "active": active_mask,
    "pack": pack,
    "trap": trap,
    "call": call,
}
