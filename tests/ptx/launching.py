"""Launches: arguments become memory and parameters, blocks run in as many orders as there is something to see, and what
was found and counted comes back.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import interpreter
from .counting import Counts, summed
from .findings import KINDS, TRAP, Finding, FindingsError
from .interpreter import Found
from .memories import READ, WRITTEN, Region, region
from .native import compiler
from .program import Coded, Program

MOST_STEPS = 20_000_000
"""Instructions of a block: one that takes more does not end."""
APPROXIMATIONS = {"exact": 0, "above": 1, "below": -1, "either": 2}
"""How far the approximate instructions are off: not at all, or by their documented error, upwards, downwards, or by
turns (the bits of the operand decide)."""


@dataclass(eq=False)
class Buffer:
    """Memory of the caller's that kernels change in place: a whole allocation."""

    data: np.ndarray
    """uint8, one-dimensional"""
    name: str = "a buffer"
    given: np.ndarray | None = None
    """bool, one a byte: what a kernel may touch; None: everything."""
    written: np.ndarray | None = None
    """bool, one a byte: what has a value; None: everything."""


@dataclass(frozen=True)
class Pointer:
    buffer: Buffer
    offset: int = 0
    """Bytes"""


@dataclass(frozen=True)
class Struct:
    """An argument that is a C struct: a format of the module `struct`, in which P stands for a Pointer (or None)."""

    layout: str
    values: tuple[object, ...]


Argument = Pointer | Struct | np.ndarray | int | float | bool | None


@dataclass(frozen=True)
class Result:
    kernel: str
    findings: tuple[Finding, ...]
    counts: Counts
    orders: int
    """In how many orders the blocks were run."""
    depends_on_order: tuple[str, ...]
    """Buffers that do not end up the same in each of them."""
    engine: str

    def of_kind(self, kind: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.kind == kind]


def array(values: np.ndarray, name: str = "a buffer", **options) -> Pointer:
    """A numpy array (contiguous) as an argument."""
    return Pointer(Buffer(values.reshape(-1).view(np.uint8), name, **options))


def launch(
    program: Program,
    grid: Sequence[int] | int,
    block: Sequence[int] | int,
    arguments: Sequence[Argument],
    *,
    shared_bytes: int = 0,
    engine: str | None = None,
    approximation: str = "exact",
    orders: int | None = None,
    checked: bool = True,
    keep_findings: bool = False,
) -> Result:
    """Runs every block of the grid.

    shared_bytes: of dynamic shared memory. engine: "native" or "interpreter"; None: native where there is a compiler.
    orders: at most so many orders of the blocks; None: as many as matter, so that each is the last once where blocks
    communicate. checked: False leaves out what is written first and what is ordered: faster, for counting alone.

    Raises FindingsError where something was found, unless `keep_findings`.
    """
    made = _Launch(program, _sizes(grid), _sizes(block), arguments, shared_bytes, approximation, checked)
    result = made.execute(engine or preferred(), orders)
    if result.findings and not keep_findings:
        raise FindingsError(list(result.findings))
    return result


def _sizes(given: Sequence[int] | int) -> tuple[int, int, int]:
    sizes = (given,) if isinstance(given, int) else tuple(given)
    x, y, z = (*sizes, 1, 1, 1)[:3]
    return x, y, z


class _Launch:
    def __init__(
        self,
        program: Program,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[Argument],
        shared_bytes: int,
        approximation: str,
        checked: bool,
    ):
        self.checked = checked
        self.program, self.grid, self.block = program, grid, block
        self.blocks = grid[0] * grid[1] * grid[2]
        self.shared_bytes = program.shared_bytes + shared_bytes
        self.approximation = APPROXIMATIONS[approximation]
        self.regions: list[Region] = []
        self.numbers: dict[int, int] = {}
        for name, variable in program.kernel.constants.items():  # where the program takes them to be
            data = np.frombuffer(variable.initial.ljust(variable.bytes, b"\0"), np.uint8).copy()
            self.add_region(Buffer(data, name))
        self.parameters = self.packed(arguments)
        self.before = [(region.data.copy(), region.flags.copy()) for region in self.regions]

    def packed(self, arguments: Sequence[Argument]) -> np.ndarray:
        parameters = np.zeros(self.program.parameter_bytes, np.uint8)
        declared = list(self.program.kernel.parameters.values())
        if len(arguments) > len(declared):
            raise TypeError(f"{self.program.name} takes {len(declared)} arguments, got {len(arguments)}")
        missing: list[Argument] = [None] * (len(declared) - len(arguments))
        for place, variable, argument in zip(
            self.program.parameter_places, declared, [*arguments, *missing], strict=True
        ):
            data = self.encoded(argument, variable.bytes)
            if len(data) != variable.bytes:
                raise TypeError(
                    f"{self.program.name}: an argument of {len(data)} bytes where {variable.bytes} are taken"
                )
            parameters[place : place + len(data)] = np.frombuffer(data, np.uint8)
        return parameters

    def encoded(self, argument: Argument, size: int) -> bytes:
        if isinstance(argument, Struct):
            values = [self.address(v) if v is None or isinstance(v, Pointer) else v for v in argument.values]
            data = struct.pack(f"@{argument.layout}", *values)
            return data + bytes(size - len(data))
        if isinstance(argument, Pointer) or argument is None:
            return self.address(argument).to_bytes(size, "little")
        if isinstance(argument, np.ndarray):
            return self.address(array(argument)).to_bytes(size, "little")
        if isinstance(argument, float):
            return struct.pack("<d" if size == 8 else "<f", argument)
        return (int(argument) % (1 << 8 * size)).to_bytes(size, "little")

    def address(self, pointer: Pointer | None) -> int:
        if pointer is None:
            return 0
        buffer = pointer.buffer
        start = buffer.data.ctypes.data
        if start not in self.numbers:
            self.numbers[start] = self.add_region(buffer)
        return self.regions[self.numbers[start]].base + pointer.offset

    def add_region(self, buffer: Buffer) -> int:
        number, cell = len(self.regions), self.program.cell["global"]
        self.regions.append(region(buffer.name, number, buffer.data, cell, given=buffer.given, written=buffer.written))
        return number

    def execute(self, engine: str, most_orders: int | None) -> Result:
        found: dict[tuple[int, int], Found] = {}
        orders, differ = 0, set()
        counts, after = None, None
        for order in self.orders(most_orders):
            run = self.run(engine, order)
            while self.checked and self.track_more():
                self.restore()
                run = self.run(engine, order)
            found = {**run.found, **found}
            if counts is None:
                counts = summed(self.program, run.counts, self.regions, self.blocks)
                self.communicates = _communicates(self.program, run)
                after = [region.data.copy() for region in self.regions]
            else:
                differ |= {r.name for r, data in zip(self.regions, after or [], strict=True) if (r.data != data).any()}
            orders += 1
        for region_, data in zip(self.regions, after or [], strict=True):
            region_.data[:] = data
        findings = tuple(self.finding(item) for item in sorted(found.values(), key=lambda item: item.place))
        # A trap ends the kernel: what the other threads met without those that it took means nothing.
        findings = tuple(finding for finding in findings if finding.kind == TRAP) or findings
        assert counts is not None
        return Result(self.program.name, findings, counts, orders, tuple(sorted(differ)), engine)

    def orders(self, most: int | None):
        """The natural order; and where blocks communicate, those in which another one is the last."""
        yield range(self.blocks)
        others = range(1, self.blocks if self.communicates else 1)
        for first in others if most is None else others[: most - 1]:
            self.restore()
            yield [*range(first, self.blocks), *range(first)]

    def run(self, engine: str, order: Sequence[int]):
        run = _engine(engine)(
            self.program,
            self.regions,
            self.parameters,
            grid=self.grid,
            block=self.block,
            shared_bytes=self.shared_bytes,
            approximation=self.approximation,
            most_steps=MOST_STEPS,
            checked=self.checked,
        )
        run.execute(order)
        return run

    def track_more(self) -> bool:
        """Whether a buffer is both read and written whose readers were not remembered: then they must be."""
        more = False
        for region_ in self.regions:
            both = bool((region_.flags & READ).any() and (region_.flags & WRITTEN).any())
            if both and not region_.tracked:
                region_.tracked = more = True
        return more

    def restore(self) -> None:
        for region_, (data, flags) in zip(self.regions, self.before, strict=True):
            region_.data[:] = data
            region_.flags[:] = flags

    def finding(self, item: Found) -> Finding:
        instruction = self.program.code[item.place].instruction
        other = self.program.code[item.other].instruction.line if item.other >= 0 else 0
        source = instruction.source.rpartition("/")[2]
        return Finding(
            KINDS[item.kind],
            self.program.name,
            instruction.line,
            self.program.text_of(item.place),
            source,
            item.block,
            item.thread,
            item.detail,
            other,
            item.times,
        )


def _engine(name: str):
    if name == "native":
        from .native import engine  # compiles it, the first time

        return engine.Run
    return interpreter.Run


def preferred() -> str:
    return "native" if compiler() else "interpreter"


def _communicates(program: Program, run) -> bool:
    """Whether an instruction was executed by which blocks can see one another."""

    def between_blocks(coded: Coded) -> bool:
        if coded.action == "fence":
            return True
        strong = coded.action in ("load", "store") and bool(coded.form.details.get("semantics"))
        return (strong or coded.action == "atomic") and not coded.form["space"].startswith("shared")

    return any(run.counts.passing[place] and between_blocks(coded) for place, coded in enumerate(program.code))
