"""What PTX text says: kernels, their variables, and instructions with resolved operands."""

from dataclasses import dataclass, field
from typing import NamedTuple

WIDTHS = {"pred": 1} | {
    f"{kind}{bits}": bits // 8
    for kind, sizes in (
        ("b", (8, 16, 32, 64, 128)),
        ("u", (8, 16, 32, 64)),
        ("s", (8, 16, 32, 64)),
        ("f", (16, 32, 64)),
    )
    for bits in sizes
}
"""Bytes of the types that registers, parameters and variables are declared with."""


class PTXError(Exception):
    """Text that is not PTX, or PTX that this package does not know."""


class Register(NamedTuple):
    name: str
    """Unique in its kernel: a register of an inner scope carries the scope's number."""


class Literal(NamedTuple):
    value: int | float
    """An integer, or the bits of 0f… and 0d…; a float where the text has a decimal point."""


class Symbol(NamedTuple):
    name: str
    """A variable, a parameter, a label, a special register, a function."""


class Address(NamedTuple):
    base: Register | Symbol | None
    offset: int


class Vector(NamedTuple):
    elements: tuple["Operand", ...]


class Pair(NamedTuple):
    """`d|p`: two destinations."""

    first: "Operand"
    second: "Operand"


class Negated(NamedTuple):
    register: Register


Operand = Register | Literal | Symbol | Address | Vector | Pair | Negated
SINK = Symbol("_")
"""Takes what nobody wants."""


class Instruction(NamedTuple):
    opcode: str
    operands: tuple[Operand, ...]
    guard: Register | None
    unless: bool
    """The guard is negated: `@!%p`."""
    line: int
    """In the PTX text, from 1."""
    source: str
    """`file:line` that the compiler names, or empty."""


class Variable(NamedTuple):
    bytes: int
    """0: as many as the launch gives (extern shared memory)."""
    alignment: int
    initial: bytes = b""


@dataclass
class Kernel:
    name: str
    parameters: dict[str, Variable] = field(default_factory=dict)
    registers: dict[str, int] = field(default_factory=dict)
    """Bytes of each; 1 is a predicate."""
    shared: dict[str, Variable] = field(default_factory=dict)
    constants: dict[str, Variable] = field(default_factory=dict)
    """Module variables in global and constant memory."""
    instructions: list[Instruction] = field(default_factory=list)
    targets: dict[int, int] = field(default_factory=dict)
    """Where each jump leads, by its place."""
    threads: int = 0
    """That .reqntid asks for; 0: whatever it is launched with."""
    text: list[str] = field(default_factory=list)
    """Lines of the module."""
