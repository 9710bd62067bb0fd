"""Kernels → programs. Every opcode is looked up in the table and every operand becomes a slot, a number or a place in
the code, so that an unknown instruction is an error before anything runs.

What the PTX allows loosely is made strict here: a register that is wider than its instruction is narrowed or widened by
a conversion of its own, a negated predicate by a `not`.
"""

import struct
from collections.abc import Sequence

from . import table
from .forms import BITS, Form, Lane
from .memories import SPACING_BITS
from .operands import OPERANDS
from .program import NONE, SPECIAL, Coded, Program, Slot
from .syntax import (
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


class NotExecuted(PTXError):
    """A kernel with instructions that are parsed, not executed."""


def decoded(kernel: Kernel) -> Program:
    """Raises PTXError where the kernel has what the table has not; NotExecuted for whole families left out."""
    mnemonics = {instruction.opcode.partition(".")[0] for instruction in kernel.instructions}
    if left_out := sorted(mnemonics & set(table.NOT_EXECUTED)):
        raise NotExecuted(f"{kernel.name}: {', '.join(left_out)} are parsed, not executed")
    return Decoder(kernel).program


class Decoder:
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
            slots, numbers = OPERANDS[form.action](self, form, instruction)
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


def _container(kind: str, halves: bool) -> int:
    """Bits of the register that holds a number of a type, or two of them."""
    bits = BITS[kind]
    return bits if bits == 1 else max(bits, 16) * (2 if halves else 1)


def _encoded(value: int | float, kind: str) -> int:
    """A literal as the bits of a type."""
    if kind == "pred":
        return int(value != 0)
    if isinstance(value, float):
        return int.from_bytes(struct.pack("<d" if BITS[kind] == 64 else "<f", value), "little")
    return value
