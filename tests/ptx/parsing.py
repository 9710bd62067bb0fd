"""The grammar of PTX (ISA, chapters 4 and 5), as far as compilers use it: entries, nested scopes with registers of
their own (inline assembly), vectors in braces, labels, debug lines.
"""

import itertools
import math
from collections.abc import Mapping

from .syntax import (
    WIDTHS,
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
    Variable,
    Vector,
)
from .tokens import Token, tokens


class _Scope:
    def __init__(self, number: int):
        self.number = number
        self.registers: dict[str, str] = {}


class Parser:
    def __init__(self, text: str, before: int, files: Mapping[str, str]):
        self.tokens = list(tokens(text, before))
        self.place = 0
        self.files = files
        self.scopes: list[_Scope] = []
        self.numbers = itertools.count(1)
        self.source = ""

    @property
    def next(self) -> Token:
        return self.tokens[self.place]

    def take(self, text: str = "") -> Token:
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
