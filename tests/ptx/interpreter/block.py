"""One block of a grid: its registers, its threads in groups, and the flow of control.

Threads that stand at the same place are a group and step together; the group that is furthest behind goes first, so
that those who took different ways meet again where the ways do. What an instruction does beyond its lane stands in the
files beside this one.
"""

from typing import Any

import numpy as np

from ..findings import ENDLESS, INACTIVE, TRAP, UNDEFINED
from ..forms import Lane
from ..memories import GIVEN, Region
from ..program import NONE, Coded, Program
from . import atomics, copies, lanes, matrices, memory, threads, warpgroups
from .clocks import WARP, Clocks
from .lanes import WHOLE
from .watch import Watch

_CHAPTERS = (memory, atomics, copies, threads, matrices, warpgroups)
ACTIONS = {action: execute for chapter in _CHAPTERS for action, execute in chapter.ACTIONS.items()}
SPECIAL_MASKS = {"eq": lambda i: 1 << i, "lt": lambda i: (1 << i) - 1, "le": lambda i: (2 << i) - 1}
SPECIAL_MASKS |= {"gt": lambda i: 0xFFFFFFFF & -(2 << i), "ge": lambda i: 0xFFFFFFFF & -(1 << i)}


class Group:
    def __init__(self, place: int, active: np.ndarray):
        self.place, self.active = place, active


class Block:
    def __init__(self, run: Any, number: int):
        """run: the launch that this block belongs to (`interpreter.Run`)."""
        self.run = run
        self.program: Program = run.program
        self.number = number
        self.threads = run.threads
        self.clocks = Clocks(number, self.threads)
        warps = -(-self.threads // WARP)
        shared = np.zeros(run.shared_bytes, np.uint8)
        cell = self.program.cell["shared"]
        flags = np.full(-(-len(shared) // cell), GIVEN, np.uint8)
        self.shared = Region("shared memory", 0, shared, cell, flags, tracked=True)
        self.watch = Watch(self.shared, warps)
        self.registers = [np.zeros(self.threads, lanes.CONTAINERS[slot.bits]) for slot in self.program.slots]
        self.known = [np.zeros(self.threads, np.uint8) for _ in self.program.slots]
        for slot, register, known in zip(self.program.slots, self.registers, self.known, strict=True):
            value = slot.value if slot.value is not None else self.special(slot.name)
            if value is not None:
                register[:], known[:] = value, WHOLE
        self.alive = np.ones(self.threads, bool)
        self.groups = [Group(0, self.alive.copy())]
        self.barriers = threads.Barriers(self)
        self.copies: list[copies.Copy] = []
        self.open_copies = np.zeros(self.threads, np.int64)
        self.matrices = warpgroups.Pending(self)
        self.place = 0
        self.changed = False

    def special(self, name: str) -> Any:
        thread = np.arange(self.threads)
        word, _, axis = name.lstrip("%").partition(".")
        if word.startswith("lanemask"):
            return np.array([SPECIAL_MASKS[word[-2:]](int(i)) for i in thread % WARP], np.uint32)
        sizes = {"ntid": self.run.block, "nctaid": self.run.grid}
        if word in sizes:
            return sizes[word]["xyz".index(axis)]
        if word in ("tid", "ctaid"):
            x, y, _ = self.run.block if word == "tid" else self.run.grid
            place = thread if word == "tid" else self.number
            return (place % x, place // x % y, place // (x * y))["xyz".index(axis)]
        return {"laneid": thread % WARP, "warpid": thread // WARP}.get(word)

    def report(self, kind: str, thread: int, detail: str = "", other: int = -1) -> None:
        self.run.report(kind, self.place, self.number, int(thread), detail, other)

    def execute(self) -> None:
        steps = 0
        while self.groups or self.barriers.waiting:
            if not self.groups:
                self.barriers.give_up()
                continue
            group, limit = self.furthest_behind()
            if group.place >= len(self.program.code):
                self.groups.remove(group)
                self.end(group.active)
                continue
            self.changed = False
            while not self.changed and group.place < limit:
                self.step(group)
                steps += 1
            if steps > self.run.most_steps:
                self.report(ENDLESS, int(np.flatnonzero(self.alive)[0]), f"after {self.run.most_steps} steps")
                return
        self.run.end_of_block(self)

    def furthest_behind(self) -> tuple[Group, int]:
        """The group that goes first, joined by all that stand at the same place; and where the next one stands."""
        place = min(group.place for group in self.groups)
        together = Group(place, np.logical_or.reduce([g.active for g in self.groups if g.place == place]))
        self.groups = [together, *(group for group in self.groups if group.place != place)]
        return together, min((group.place for group in self.groups[1:]), default=len(self.program.code))

    def step(self, group: Group) -> None:
        coded = self.program.code[group.place]
        self.place = group.place
        group.place += 1
        active = group.active
        self.run.counts.issued(self.place, active)
        if coded.guard != NONE:
            unknown = active & (self.known[coded.guard] != WHOLE)
            if unknown.any() and not isinstance(coded.form, Lane):
                self.report(UNDEFINED, int(np.flatnonzero(unknown)[0]), "the guard")
            passed = active & (self.registers[coded.guard] != coded.unless)
        else:
            unknown, passed = None, active
        if self.matrices.running:
            self.matrices.check(coded, passed)
        if coded.action == "branch":
            self.branch(group, passed, coded.numbers[0])
        elif coded.action == "end":
            self.leave(group, passed)
            self.end(passed)
        elif isinstance(coded.form, Lane):
            if passed.any():
                self.compute(coded, coded.form, passed)
            if unknown is not None and unknown.any():  # whether it was computed is not known
                self.known[coded.slots[0]] = np.where(unknown, 0, self.known[coded.slots[0]]).astype(np.uint8)
        elif passed.any():
            self.run.counts.passed(self.place, passed)
            ACTIONS[coded.action](self, coded, passed, group)
        if self.matrices.watches:
            self.matrices.note_written(coded, passed)

    def compute(self, coded: Coded, form: Lane, active: np.ndarray) -> None:
        target, *sources = coded.slots
        if active.all():
            registers = [self.registers[source] for source in sources]
            known = [self.known[source] for source in sources]
            self.registers[target] = lanes.computed(form, registers, self.run.approximation)
            self.known[target] = lanes.known(form, registers, known)
        else:
            registers = [self.registers[source][active] for source in sources]
            known = [self.known[source][active] for source in sources]
            self.put(target, active, lanes.computed(form, registers, self.run.approximation))
            self.known[target] = self.known[target].copy()
            self.known[target][active] = lanes.known(form, registers, known)

    def get(self, slot: int, active: np.ndarray) -> np.ndarray:
        return self.registers[slot][active]

    def defined(self, slot: int, active: np.ndarray, what: str) -> np.ndarray:
        """A register that decides something: that it is undefined is a finding."""
        unknown = active & (self.known[slot] != WHOLE)
        if unknown.any():
            self.report(UNDEFINED, int(np.flatnonzero(unknown)[0]), what)
        return self.registers[slot][active]

    def put(self, slot: int, active: np.ndarray, values: Any, known: Any = WHOLE) -> None:
        if slot == NONE:
            return
        self.registers[slot] = self.registers[slot].copy()
        self.registers[slot][active] = values
        self.known[slot] = self.known[slot].copy()
        self.known[slot][active] = known

    def branch(self, group: Group, taken: np.ndarray, target: int) -> None:
        if not taken.any():
            return
        self.leave(group, taken)
        self.go_on(target, taken)

    def go_on(self, place: int, active: np.ndarray) -> None:
        """These threads go on at another place."""
        self.changed = True
        self.groups.append(Group(place, active))

    def leave(self, group: Group, active: np.ndarray) -> None:
        """These threads of a group go elsewhere, wait, or have ended."""
        self.changed = True
        group.active = group.active & ~active
        if not group.active.any():
            self.groups.remove(group)

    def end(self, active: np.ndarray) -> None:
        self.alive = self.alive & ~active
        self.barriers.look()

    def trap(self, active: np.ndarray, detail: str) -> None:
        self.report(TRAP, int(np.flatnonzero(active)[0]), detail)

    def warps(self, active: np.ndarray) -> np.ndarray:
        """[warps, 32] bool."""
        padded = np.zeros(-(-self.threads // WARP) * WARP, bool)
        padded[: self.threads] = active
        return padded.reshape(-1, WARP)

    def check_whole_warps(self, active: np.ndarray, kind: str = INACTIVE) -> bool:
        """Whether of each warp that is here all threads are, those that have ended left out."""
        here, alive = self.warps(active), self.warps(self.alive)
        broken = here.any(1) & (here != alive).any(1)
        if broken.any():
            warp = int(np.flatnonzero(broken)[0])
            lane = int(np.flatnonzero(alive[warp] & ~here[warp])[0])
            self.report(kind, warp * WARP + lane, "not all threads of the warp are here")
        return not broken.any()
