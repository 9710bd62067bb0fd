"""PTX text → kernels: names, parameters, variables, registers, and instructions with resolved operands.

Only what the text says is read here; what an instruction means stands in `table/`. The grammar is that of the PTX ISA,
chapters 4 and 5, as far as compilers use it: modules of entries, nested scopes with registers of their own (inline
assembly), vectors in braces, labels, debug lines.
"""

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
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

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r]+|//[^\n]*|/\*.*?\*/)|(?P<line>\n)
      |(?P<text>"(?:[^"\\]|\\.)*")
      |(?P<number>-?(?:0[fF][0-9a-fA-F]{8}|0[dD][0-9a-fA-F]{16}|0[xX][0-9a-fA-F]+U?|0[bB][01]+U?|\d+\.\d*(?:[eE][-+]?\d+)?|\d+U?))
      |(?P<name>[%$A-Za-z_][\w$]*(?:(?:\.|::)\w+)*)
      |(?P<directive>\.[A-Za-z_]\w*(?:::\w+)?)
      |(?P<mark>[{}()\[\]<>,;:|@!+=*-])""",
    re.VERBOSE | re.DOTALL,
)


_ENTRY = re.compile(r"\s*(?:\.(?:visible|weak)\s+)?\.entry\s+(?P<name>[\w$]+)")


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


def kernels(text: str) -> Mapping[str, Kernel]:
    """The entries of a module by name, each read when it is asked for. Raises PTXError with the line of what is not
    understood."""
    return _Module(text)


class _Module(Mapping[str, Kernel]):
    def __init__(self, text: str):
        self.lines = text.splitlines()
        self.files = dict(re.findall(r'\.file\s+(\d+)\s+"([^"]*)"', text))
        self.pieces: dict[str, tuple[int, int]] = {}
        """First and last line, from 0, of the text of each entry."""
        self.outside: list[tuple[int, int]] = []
        self.read: dict[str, Kernel] = {}
        end = 0
        for start, line in enumerate(self.lines):
            if start >= end and (match := _ENTRY.match(line)):
                self.outside.append((end, start))
                end = self.end_of(start)
                self.pieces[match["name"]] = start, end
        self.outside.append((end, len(self.lines)))

    def end_of(self, start: int) -> int:
        """The line behind the brace that closes the first one from a line on."""
        depth, begun = 0, False
        for number, line in enumerate(self.lines[start:], start + 1):
            code = line.partition("//")[0]
            depth += code.count("{") - code.count("}")
            begun |= "{" in code
            if begun and depth <= 0:
                return number
        return len(self.lines)

    def __iter__(self) -> Iterator[str]:
        return iter(self.pieces)

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, name: str) -> Kernel:
        if name not in self.read:
            shared, constants = self.variables
            parser = _Parser(self.text_of(*self.pieces[name]), self.pieces[name][0], self.files)
            kernel = parser.entry()
            kernel.shared, kernel.constants, kernel.text = shared | kernel.shared, constants, self.lines
            self.read[name] = kernel
        return self.read[name]

    @cached_property
    def variables(self) -> tuple[dict[str, Variable], dict[str, Variable]]:
        """Those that the module declares outside of its entries: in shared memory, and in global or constant memory."""
        shared: dict[str, Variable] = {}
        constants: dict[str, Variable] = {}
        for start, end in self.outside:
            _Parser(self.text_of(start, end), start, self.files).declarations(shared, constants)
        return shared, constants

    def text_of(self, start: int, end: int) -> str:
        text = "\n".join(self.lines[start:end])
        return re.split(r"\n\s*\.section\b", text)[0]  # debug information


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


def _tokens(text: str, before: int) -> Iterator[_Token]:
    """before: the lines in front of the text."""
    line, position = before + 1, 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise PTXError(f"line {line}: cannot read {text[position : position + 20]!r}")
        kind = str(match.lastgroup)
        if kind not in ("space", "line"):
            yield _Token(kind, match[0], line)
        line += match[0].count("\n")
        position = match.end()
    yield _Token("end", "", line)


class _Scope:
    def __init__(self, number: int):
        self.number = number
        self.registers: dict[str, str] = {}


class _Parser:
    def __init__(self, text: str, before: int, files: Mapping[str, str]):
        self.tokens = list(_tokens(text, before))
        self.place = 0
        self.files = files
        self.scopes: list[_Scope] = []
        self.numbers = itertools.count(1)
        self.source = ""

    @property
    def next(self) -> _Token:
        return self.tokens[self.place]

    def take(self, text: str = "") -> _Token:
        """The next token, which is `text` if that is given."""
        token = self.next
        if text and token.text != text:
            raise PTXError(f"line {token.line}: expected {text!r}, found {token.text!r}")
        self.place += 1
        return token

    def accept(self, text: str) -> bool:
        found = self.next.text == text
        self.place += found
        return found

    def skip_line(self) -> None:
        line = self.next.line
        while self.next.line == line and self.next.kind != "end":
            self.place += 1

    def skip_statement(self) -> None:
        while self.take().text != ";":
            if self.next.kind == "end":
                raise PTXError(f"line {self.next.line}: the text ends within a statement")

    def declarations(self, shared: dict[str, Variable], constants: dict[str, Variable]) -> None:
        """What stands in a module outside of its entries."""
        while self.next.kind != "end":
            word = self.next.text
            if word in (".version", ".target", ".address_size", ".file", ".loc"):
                self.skip_line()
            elif word in (".visible", ".weak", ".extern"):
                self.place += 1
            elif word == ".func":  # declared alone: a body would have to be executed
                self.skip_function()
            elif word in (".global", ".const", ".shared"):
                self.variable(shared if word == ".shared" else constants)
            else:
                raise PTXError(f"line {self.next.line}: {word!r} is not known in a module")

    def skip_function(self) -> None:
        while self.next.text not in (";", "{"):
            self.place += 1
        if self.next.text == "{":
            raise PTXError(f"line {self.next.line}: functions with a body are not known")
        self.place += 1

    def variable(self, variables: dict[str, Variable]) -> None:
        """`.space .align 4 .b8 name[12] = {…};` into the table."""
        self.take()
        alignment, element = 1, 1
        while self.next.kind == "directive":
            word = self.take().text
            if word == ".align":
                alignment = int(self.take().text)
            elif word[1:] in WIDTHS:
                element = WIDTHS[word[1:]]
        name, count = self.take().text, 1
        while self.accept("["):
            count *= 0 if self.next.text == "]" else int(self.take().text)
            self.take("]")
        values = []
        if self.accept("="):
            while self.next.text != ";":
                token = self.take()
                if token.kind == "number":
                    values.append(int(token.text, 0))
        self.take(";")
        initial = b"".join((value % (1 << 8 * element)).to_bytes(element, "little") for value in values)
        variables[name] = Variable(element * count, max(alignment, element), initial)

    def entry(self) -> Kernel:
        while self.take().text != ".entry":
            pass
        kernel = Kernel(self.take().text)
        if self.accept("("):
            while not self.accept(")"):
                self.parameter(kernel)
                self.accept(",")
        while self.next.text != "{":
            if self.take().text == ".reqntid":
                sizes = [int(self.take().text)]
                while self.accept(","):
                    sizes.append(int(self.take().text))
                kernel.threads = math.prod(sizes)
        self.body(kernel)
        if self.next.kind != "end":
            raise PTXError(f"line {self.next.line}: {self.next.text!r} after the end of {kernel.name}")
        return kernel

    def parameter(self, kernel: Kernel) -> None:
        self.take(".param")
        alignment = element = 1
        while self.next.kind == "directive":
            word = self.take().text
            if word == ".align":
                alignment = int(self.take().text)
            elif word == ".ptr":  # what it points to is none of the parameter's own size
                while self.next.text in (".global", ".const", ".shared", ".local", ".align"):
                    if self.take().text == ".align":
                        self.take()
            elif word[1:] in WIDTHS:
                element = WIDTHS[word[1:]]
        name, count = self.take().text, 1
        if self.accept("["):
            count = int(self.take().text)
            self.take("]")
        kernel.parameters[name] = Variable(element * count, max(alignment, element))

    def body(self, kernel: Kernel) -> None:
        self.take("{")
        labels: dict[tuple[int, str], int] = {}
        jumps: list[tuple[int, tuple[int, ...]]] = []
        self.scopes = [_Scope(0)]
        while self.scopes:
            token = self.next
            if token.kind == "end":
                raise PTXError(f"line {token.line}: the body of {kernel.name} does not end")
            if self.accept("{"):
                self.scopes.append(_Scope(next(self.numbers)))
            elif self.accept("}"):
                self.scopes.pop()
            elif token.kind == "directive":
                self.directive(kernel)
            elif self.tokens[self.place + 1].text == ":":
                self.place += 2
                labels[self.scopes[-1].number, token.text] = len(kernel.instructions)
            elif not self.accept(";"):
                kernel.instructions.append(self.instruction())
                if kernel.instructions[-1].opcode.partition(".")[0] == "bra":
                    jumps.append((len(kernel.instructions) - 1, tuple(scope.number for scope in self.scopes)))
        for place, scopes in jumps:
            kernel.targets[place] = _target(kernel.instructions[place], scopes, labels)

    def directive(self, kernel: Kernel) -> None:
        word = self.next.text
        if word == ".reg":
            self.registers(kernel)
        elif word == ".loc":
            file, line = (self.tokens[self.place + ahead].text for ahead in (1, 2))
            self.source = f"{self.files.get(file, file)}:{line}"
            self.skip_line()
        elif word == ".shared":
            self.variable(kernel.shared)
        elif word in (".pragma", ".branchtargets", ".param"):  # the last is for the arguments of a call
            self.skip_statement()
        else:
            raise PTXError(f"line {self.next.line}: {word!r} is not known in a body")

    def registers(self, kernel: Kernel) -> None:
        """`.reg .b32 %r<5>;` or `.reg .pred p, q;`"""
        self.take()
        width = WIDTHS.get(self.take().text[1:], 0)
        if not width:
            raise PTXError(f"line {self.next.line}: registers of an unknown type")
        while not self.accept(";"):
            name = self.take().text
            if self.accept("<"):
                count = int(self.take().text)
                self.take(">")
                for number in range(count):
                    kernel.registers[self.declare(f"{name}{number}")] = width
            else:
                kernel.registers[self.declare(name)] = width
            self.accept(",")

    def declare(self, name: str) -> str:
        """The unique name of a register that the present scope declares."""
        scope = self.scopes[-1]
        scope.registers[name] = f"{name}@{scope.number}" if scope.number else name
        return scope.registers[name]

    def resolved(self, name: str) -> Register | None:
        for scope in reversed(self.scopes):
            if name in scope.registers:
                return Register(scope.registers[name])
        return None

    def instruction(self) -> Instruction:
        guard, unless = None, False
        if self.accept("@"):
            unless = self.accept("!")
            guard = self.register()
        opcode = self.take()
        if opcode.kind != "name":
            raise PTXError(f"line {opcode.line}: expected an instruction, found {opcode.text!r}")
        operands = () if self.accept(";") else self.operands(";")
        return Instruction(opcode.text, operands, guard, unless, opcode.line, self.source)

    def register(self) -> Register:
        token = self.take()
        register = self.resolved(token.text)
        if register is None:
            raise PTXError(f"line {token.line}: {token.text!r} is not declared")
        return register

    def operands(self, closing: str) -> tuple[Operand, ...]:
        found = [self.operand()]
        while self.accept(","):
            found.append(self.operand())
        self.take(closing)
        return tuple(found)

    def operand(self) -> Operand:
        first = self.single()
        return Pair(first, self.single()) if self.accept("|") else first

    def single(self) -> Operand:
        if self.accept("!"):
            return Negated(self.register())
        if self.accept("["):
            return self.address()
        if self.next.text in ("{", "("):
            closing = "}" if self.take().text == "{" else ")"
            return Vector(() if self.accept(closing) else self.operands(closing))
        token = self.take()
        if token.kind == "number":
            return Literal(_number(token.text))
        if token.text == "-" and self.next.kind == "number":
            return Literal(-_number(self.take().text))
        if token.kind != "name":
            raise PTXError(f"line {token.line}: expected an operand, found {token.text!r}")
        return self.resolved(token.text) or Symbol(token.text)

    def address(self) -> Address:
        base, offset = None, 0
        while not self.accept("]"):
            token = self.take()
            if token.kind == "number":
                offset += int(_number(token.text))
            elif token.kind == "name":
                base = self.resolved(token.text) or Symbol(token.text)
            elif token.text == "-":
                offset -= int(_number(self.take().text))
            elif token.text != "+":
                raise PTXError(f"line {token.line}: {token.text!r} is not known in an address")
        return Address(base, offset)


def _number(text: str) -> int | float:
    prefix = text[:2].lower()
    if prefix in ("0f", "0d"):
        return int(text[2:], 16)
    if "." in text:
        return float(text)
    return int(text.rstrip("U"), 0)


def _target(jump: Instruction, scopes: tuple[int, ...], labels: dict[tuple[int, str], int]) -> int:
    """Where a jump leads: to the label of the innermost scope that has it."""
    name = jump.operands[0].name if jump.operands and isinstance(jump.operands[0], Symbol) else "?"
    for scope in reversed(scopes):
        if (scope, name) in labels:
            return labels[scope, name]
    raise PTXError(f"line {jump.line}: no label {name!r}")
