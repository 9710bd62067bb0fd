"""A kernel in the form that the engines execute: registers, constants and special registers as numbered slots.

Decoding resolves every opcode in the table and every operand to a slot, an immediate number or a place in the code, so
that an unknown instruction is an error before anything runs. What the PTX allows loosely is made strict here: a
register that is wider than its instruction is narrowed or widened by a conversion of its own, a negated predicate by a
`not`.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from . import table
from .forms import BITS, Form, Lane, Machine
from .memories import SPACING_BITS
from .source import (
    SINK,
    Address,
    Instruction,
    Kernel,
    Literal,
    Negated,
    Operand,
    Pair,
    PTXError,
    Register,
    Symbol,
    Vector,
)

NONE = -1
"""In place of a slot: an operand that is not there."""

SPECIAL = (
    *(f"%{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"),
    *("%laneid", "%warpid", "%lanemask_eq", "%lanemask_lt", "%lanemask_le", "%lanemask_gt", "%lanemask_ge"),
)
"""Special registers, 32 bits each."""

SPACES = {"global": 0, "shared": 1, "param": 2}


class Slot(NamedTuple):
    name: str
    bits: int
    """Of its container: 1 (a predicate), 16, 32 or 64."""
    value: int | None = None
    """Of a constant."""


class Coded(NamedTuple):
    form: Form
    slots: tuple[int, ...]
    numbers: tuple[int, ...]
    guard: int
    unless: bool
    instruction: Instruction

    @property
    def action(self) -> str:
        return self.form.action if isinstance(self.form, Machine) else "lane"

    @property
    def written_range(self) -> tuple[int, int]:
        """Which of its slots it writes: from, to."""
        first, last = _WRITTEN.get(self.action, (0, 0))
        if isinstance(self.form, Machine) and self.action == "multiply_async":
            last = int(self.form["n"]) // 2
        return first, self.numbers[0] if self.action == "pack" else len(self.slots) if last is None else last

    @property
    def written(self) -> tuple[int, ...]:
        """The slots that it writes."""
        return self.slots[slice(*self.written_range)]


_WRITTEN = {
    "lane": (0, 1),
    "load": (1, None),
    "load_matrix": (1, None),
    "atomic": (0, 1),
    "barrier": (2, 3),
    "shuffle": (0, 2),
    "vote": (0, 1),
    "reduce": (0, 1),
    "elect": (0, 2),
    "active": (0, 1),
    "pack": (0, 0),
    "multiply": (0, 4),
    "multiply_async": (0, 0),
}
"""Where in `slots` an action's destinations stand."""


class NotExecuted(PTXError):
    """A kernel with instructions that are parsed, not executed."""


@dataclass(eq=False)
class Program:
    kernel: Kernel
    slots: list[Slot] = field(default_factory=list)
    code: list[Coded] = field(default_factory=list)
    shared_bytes: int = 0
    """Of the variables of a fixed size; what the launch adds begins there."""
    parameter_places: list[int] = field(default_factory=list)
    parameter_bytes: int = 0

    @property
    def name(self) -> str:
        return self.kernel.name

    @cached_property
    def cell(self) -> dict[str, int]:
        """Bytes of the smallest access of each space: memory is watched in pieces of this size."""
        sizes: dict[str, list[int]] = {"global": [16], "shared": [16]}
        for coded in self.code:
            for space, size in _accesses(coded):
                sizes[space].append(size)
        return {space: min(found) for space, found in sizes.items()}

    @cached_property
    def actions(self) -> set[str]:
        return {coded.action for coded in self.code}

    def text_of(self, place: int) -> str:
        return " ".join(self.kernel.text[self.code[place].instruction.line - 1].split())


def _accesses(coded: Coded) -> list[tuple[str, int]]:
    if coded.action in ("load", "store", "atomic") and coded.form["space"] != "param":
        space = "shared" if coded.form["space"].startswith("shared") else "global"
        return [(space, coded.numbers[1] * max(int(coded.form.details.get("vector", "")[1:] or 1), 1))]
    if coded.action == "copy":
        return [("global", coded.numbers[2]), ("shared", coded.numbers[2])]
    return []


def decoded(kernel: Kernel) -> Program:
    """Raises PTXError where the kernel has what the table has not; NotExecuted for whole families left out."""
    mnemonics = {instruction.opcode.partition(".")[0] for instruction in kernel.instructions}
    if left_out := sorted(mnemonics & set(table.NOT_EXECUTED)):
        raise NotExecuted(f"{kernel.name}: {', '.join(left_out)} are parsed, not executed")
    return _Decoder(kernel).program


class _Decoder:
    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        self.program = Program(kernel)
        self.numbers: dict[object, int] = {}
        self.variables = self.laid_out_shared()
        self.module_variables = {name: (number + 1) << SPACING_BITS for number, name in enumerate(kernel.constants)}
        self.lay_out_parameters()
        self.place = 0
        starts = []
        for self.place, instruction in enumerate(kernel.instructions):
            starts.append(len(self.program.code))
            try:
                self.add(instruction)
            except PTXError as error:
                raise type(error)(f"{kernel.name}, line {instruction.line}: {error}") from error
        starts.append(len(self.program.code))
        self.program.code = [
            coded._replace(numbers=(starts[coded.numbers[0]],)) if coded.action == "branch" else coded
            for coded in self.program.code
        ]

    def laid_out_shared(self) -> dict[str, int]:
        places, end = {}, 0
        for name, variable in self.kernel.shared.items():
            if variable.bytes:
                places[name] = end = -(-end // variable.alignment) * variable.alignment
                end += variable.bytes
        end = -(-end // 16) * 16
        places |= {name: end for name, variable in self.kernel.shared.items() if not variable.bytes}
        self.program.shared_bytes = end
        return places

    def lay_out_parameters(self) -> None:
        end = 0
        for name, parameter in self.kernel.parameters.items():
            end = -(-end // parameter.alignment) * parameter.alignment
            self.variables[name] = end
            self.program.parameter_places.append(end)
            end += parameter.bytes
        self.program.parameter_bytes = end

    def slot(self, name: object, bits: int, value: int | None = None) -> int:
        if name not in self.numbers:
            self.numbers[name] = len(self.program.slots)
            self.program.slots.append(Slot(str(name), bits, value))
        return self.numbers[name]

    def register(self, register: Register) -> int:
        width = self.kernel.registers[register.name]
        if width > 8:
            raise PTXError(f"{register.name}: registers of {8 * width} bits are not known")
        return self.slot(register.name, 1 if width == 1 else max(8 * width, 16))

    def constant(self, value: int, bits: int) -> int:
        value &= (1 << bits) - 1
        return self.slot(("constant", value, bits), bits, value)

    def emit(
        self,
        form: Form,
        slots: Sequence[int],
        numbers: Sequence[int] = (),
        *,
        instruction: Instruction,
        guarded: bool = True,
    ) -> None:
        guard = NONE if instruction.guard is None or not guarded else self.register(instruction.guard)
        self.program.code.append(Coded(form, tuple(slots), tuple(numbers), guard, instruction.unless, instruction))

    def add(self, instruction: Instruction) -> None:
        if instruction.opcode.startswith("setp.") and (simpler := self.simpler_comparisons(instruction)):
            for part in simpler:
                self.add(part)
            return
        vector = any(isinstance(operand, Vector) for operand in instruction.operands)
        form = table.form(instruction.opcode, vector=vector)
        if isinstance(form, Lane):
            self.add_lane(form, instruction)
        else:
            slots, numbers = getattr(self, f"decode_{form.action}")(form, instruction)
            self.emit(form, slots, numbers, instruction=instruction)

    def simpler_comparisons(self, instruction: Instruction) -> list[Instruction]:
        """A comparison of two halves, one that is combined with a predicate, and one that gives its opposite as well,
        as the instructions that they are short for; none if it is simple."""
        opcode, (target, *given) = instruction.opcode, instruction.operands
        first, second = (target.first, target.second) if isinstance(target, Pair) else (target, SINK)
        comparison, *words = opcode.removeprefix("setp.").split(".")

        def compared(to: Operand, *operands: Operand, opcode: str = opcode) -> Instruction:
            return instruction._replace(opcode=opcode, operands=(to, *operands))

        if opcode.endswith("x2"):
            halves = [[self.temporary(f"half {i} of operand {place}", 2) for i in (0, 1)] for place in (0, 1)]
            unpacked = [
                compared(Vector(tuple(pair)), operand, opcode="mov.b32")
                for pair, operand in zip(halves, given, strict=True)
            ]
            sides = [
                compared(to, halves[0][i], halves[1][i], opcode=opcode[:-2]) for i, to in enumerate((first, second))
            ]
            return [*unpacked, *(side for side in sides if side.operands[0] != SINK)]
        combined = next((word for word in words if word in ("and", "or", "xor")), "")
        if combined:
            plain = ".".join(("setp", comparison, *(word for word in words if word != combined)))
            found = self.temporary("a comparison", 1)
            return [
                compared(found, *given[:-1], opcode=plain),
                compared(first, found, given[-1], opcode=f"{combined}.pred"),
            ]
        if second != SINK:
            return [compared(first, *given), compared(second, first, opcode="not.pred")]
        return []

    def temporary(self, name: str, width: int) -> Register:
        register = Register(f"({name})")
        self.kernel.registers[register.name] = width
        return register

    def add_lane(self, form: Lane, instruction: Instruction) -> None:
        destination, *given = instruction.operands
        if len(given) != len(form.takes):
            raise PTXError(f"{form.opcode} takes {len(form.takes)} operands, got {len(given)}")
        sources = [
            self.source(operand, _container(kind, form.halves), kind, instruction)
            for operand, kind in zip(given, form.takes, strict=True)
        ]
        if destination == SINK:
            return
        if not isinstance(destination, Register):
            raise PTXError(f"{form.opcode}: the destination is no register")
        bits, target = _container(form.gives, form.halves), self.register(destination)
        actual = self.program.slots[target].bits
        if actual == bits:
            self.emit(form, (target, *sources), instruction=instruction)
            return
        between = self.slot(("narrow", bits), bits)
        self.emit(form, (between, *sources), instruction=instruction)
        sign = "s" if form.gives[0] == "s" else "u"
        widened = table.form(f"cvt.{sign}{actual}.{sign}{bits}")
        self.emit(widened, (target, between), instruction=instruction)

    def source(self, operand: Operand, bits: int, kind: str, instruction: Instruction) -> int:
        """The slot, of this size, that an operand of a lane form is read from."""
        if isinstance(operand, Negated):
            opposite = self.slot(("not", operand.register.name), 1)
            form = table.form("not.pred")
            self.emit(form, (opposite, self.register(operand.register)), instruction=instruction, guarded=False)
            return opposite
        if isinstance(operand, Literal):
            return self.constant(_encoded(operand.value, kind), bits)
        found = self.value(operand)
        actual = self.program.slots[found].bits
        if actual == bits:
            return found
        if actual < bits or bits == 1:
            raise PTXError(f"{instruction.opcode}: an operand has {actual} bits, not {bits}")
        narrowed = self.slot(("narrowed", len(self.program.code)), bits)
        self.emit(table.form(f"cvt.u{bits}.u{actual}"), (narrowed, found), instruction=instruction, guarded=False)
        return narrowed

    def value(self, operand: Operand, bits: int = 32) -> int:
        """The slot of a register, a special register, the address of a variable, or a number of that many bits."""
        if isinstance(operand, Register):
            return self.register(operand)
        if isinstance(operand, Literal):
            return self.constant(_encoded(operand.value, f"b{bits}" if bits > 1 else "pred"), bits)
        if isinstance(operand, Symbol):
            if operand.name in SPECIAL:
                return self.slot(operand.name, 32)
            if operand.name in self.variables:
                wide = 64 if operand.name in self.kernel.parameters else 32
                return self.constant(self.variables[operand.name], wide)
            if operand.name in self.module_variables:
                return self.constant(self.module_variables[operand.name], 64)
            raise PTXError(f"{operand.name!r} is not known")
        raise PTXError(f"{operand} is no value")

    def predicate(self, operand: Operand, instruction: Instruction) -> int:
        return self.source(operand, 1, "pred", instruction)

    def destination(self, operand: Operand) -> int:
        return NONE if operand == SINK else self.value(operand)

    def address(self, operand: Operand) -> tuple[int, int]:
        """Slot of the base (or NONE) and offset."""
        if not isinstance(operand, Address):
            raise PTXError(f"{operand} is no address")
        if operand.base is None:
            return NONE, operand.offset
        if isinstance(operand.base, Symbol):
            if operand.base.name in self.module_variables:
                return self.value(operand.base), operand.offset
            if operand.base.name not in self.variables:
                raise PTXError(f"{operand.base.name!r} is no variable that is known")
            return NONE, self.variables[operand.base.name] + operand.offset
        return self.register(operand.base), operand.offset

    def decode_load(self, form: Machine, instruction: Instruction):
        targets, place = instruction.operands[:2]
        base, offset = self.address(place)
        return (base, *map(self.destination, _elements(targets))), (offset, *_access(form))

    def decode_store(self, form: Machine, instruction: Instruction):
        base, offset = self.address(instruction.operands[0])
        bits = max(BITS[form["type"]], 16)
        values = [self.value(element, bits) for element in _elements(instruction.operands[1])]
        return (base, *values), (offset, *_access(form))

    def decode_atomic(self, form: Machine, instruction: Instruction):
        operands = list(instruction.operands)
        target = self.destination(operands.pop(0)) if form.opcode.startswith("atom") else NONE
        base, offset = self.address(operands.pop(0))
        values = [self.value(operand, BITS[form["type"]]) for operand in operands[:2]]
        return (target, base, *values), (offset, *_access(form))

    def decode_copy(self, form: Machine, instruction: Instruction):
        (to, to_offset), (source, from_offset) = map(self.address, instruction.operands[:2])
        size = instruction.operands[2]
        if not isinstance(size, Literal):
            raise PTXError("the size of a copy is not a number")
        rest = instruction.operands[3 : 4 - bool(form["policy"])] if len(instruction.operands) > 3 else ()
        real = self.value(rest[0], 32) if rest else NONE
        if real != NONE and self.program.slots[real].bits == 1:
            raise PTXError("a copy that a predicate ignores is not known")
        return (to, source, real), (to_offset, from_offset, int(size.value))

    def decode_commit_copies(self, form: Machine, instruction: Instruction):
        return (), ()

    def decode_wait_for_copies(self, form: Machine, instruction: Instruction):
        return (), (int(instruction.operands[0].value) if instruction.operands else NONE,)

    def decode_fence(self, form: Machine, instruction: Instruction):
        return (), ()

    decode_proxy_fence = decode_nothing = decode_matrix_fence = decode_commit_matrices = decode_fence
    decode_end = decode_trap = decode_call = decode_fence
    decode_wait_for_matrices = decode_wait_for_copies

    def decode_branch(self, form: Machine, instruction: Instruction):
        return (), (self.kernel.targets[self.place],)

    def decode_barrier(self, form: Machine, instruction: Instruction):
        """Barrier, threads, destination, predicate."""
        operands, target, given = list(instruction.operands), NONE, NONE
        if form.details.get("reduction"):
            target = self.destination(operands.pop(0))
            given = self.predicate(operands.pop(), instruction)
        barrier = self.value(operands[0])
        return (barrier, self.value(operands[1]) if len(operands) > 1 else NONE, target, given), ()

    def decode_arrive(self, form: Machine, instruction: Instruction):
        barrier, threads = map(self.value, instruction.operands)
        return (barrier, threads, NONE, NONE), ()

    def decode_warp_barrier(self, form: Machine, instruction: Instruction):
        return (self.value(instruction.operands[0]),), ()

    def decode_shuffle(self, form: Machine, instruction: Instruction):
        target, *rest = instruction.operands
        inside = NONE
        if isinstance(target, Pair):
            target, inside = target.first, self.destination(target.second)
        if len(rest) != 4:
            raise PTXError(f"{form.opcode} takes a value, a lane, a clamp and a mask")
        return (self.destination(target), inside, *map(self.value, rest)), ()

    def decode_vote(self, form: Machine, instruction: Instruction):
        target, given, mask = instruction.operands
        return (self.destination(target), self.predicate(given, instruction), self.value(mask)), ()

    def decode_reduce(self, form: Machine, instruction: Instruction):
        target, given, mask = instruction.operands
        return (self.destination(target), self.value(given), self.value(mask)), ()

    def decode_elect(self, form: Machine, instruction: Instruction):
        target, mask = instruction.operands
        first, second = target if isinstance(target, Pair) else (SINK, target)
        return (self.destination(first), self.destination(second), self.value(mask)), ()

    def decode_active(self, form: Machine, instruction: Instruction):
        return (self.destination(instruction.operands[0]),), ()

    def decode_pack(self, form: Machine, instruction: Instruction):
        """Targets, then sources; numbers: how many targets, how many bits the larger side has."""
        targets, sources = (_elements(operand) for operand in instruction.operands)
        bits = BITS[form["type"]]
        part = bits // max(len(targets), len(sources))
        values = [self.value(source, bits if len(sources) == 1 else part) for source in sources]
        return (*map(self.destination, targets), *values), (len(targets), bits)

    def decode_load_matrix(self, form: Machine, instruction: Instruction):
        base, offset = self.address(instruction.operands[1])
        return (base, *map(self.destination, _elements(instruction.operands[0]))), (offset,)

    def decode_store_matrix(self, form: Machine, instruction: Instruction):
        base, offset = self.address(instruction.operands[0])
        return (base, *map(self.value, _elements(instruction.operands[1]))), (offset,)

    def decode_multiply(self, form: Machine, instruction: Instruction):
        target, a, b, c = (_elements(operand) for operand in instruction.operands)
        return (*map(self.destination, target), *(self.value(x) for x in (*a, *b, *c))), (len(a), len(b))

    def decode_multiply_async(self, form: Machine, instruction: Instruction):
        """Slots: accumulators, A (registers or a descriptor), descriptor of B, whether to add; numbers: how many
        registers A takes, negated A, negated B, transposed A, transposed B."""
        accumulators, a, b, added, *immediates = instruction.operands
        flags = [int(flag.value) for flag in immediates if isinstance(flag, Literal)]
        registers = len(a.elements) if isinstance(a, Vector) else 0
        expected = 2 if form["type"] == "tf32" else 3 if registers else 4
        if len(flags) != expected:
            raise PTXError(f"{form.opcode} takes {expected} numbers at its end, got {len(flags)}")
        transposed = (0, flags[2]) if expected == 3 else tuple(flags[2:]) or (0, 0)
        sources = [self.value(element) for element in _elements(a)]
        slots = (*map(self.value, _elements(accumulators)), *sources, self.value(b), self.value(added, 1))
        return slots, (registers, int(flags[0] == -1), int(flags[1] == -1), *transposed)


def _elements(operand: Operand) -> tuple[Operand, ...]:
    return operand.elements if isinstance(operand, Vector) else (operand,)


def _container(kind: str, halves: bool) -> int:
    """Bits of the register that holds a number of a type, or two of them."""
    bits = BITS[kind]
    return bits if bits == 1 else max(bits, 16) * (2 if halves else 1)


def _access(form: Machine) -> tuple[int, int]:
    """Bytes of an element, and whether it is extended by its sign."""
    return BITS[form["type"]] // 8, int(form["type"][0] == "s")


def _encoded(value: int | float, kind: str) -> int:
    """A literal as the bits of a type."""
    if kind == "pred":
        return int(value != 0)
    if isinstance(value, float):
        return int.from_bytes(struct.pack("<d" if BITS[kind] == 64 else "<f", value), "little")
    return value
