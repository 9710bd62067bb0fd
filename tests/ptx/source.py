"""PTX text → kernels by name. Only what the text says is read here; what an instruction means stands in `table/`."""

import re
from collections.abc import Iterator, Mapping
from functools import cached_property

from .parsing import Parser
from .syntax import Kernel, Variable

_ENTRY = re.compile(r"\s*(?:\.(?:visible|weak)\s+)?\.entry\s+(?P<name>[\w$]+)")


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
            parser = Parser(self.text_of(*self.pieces[name]), self.pieces[name][0], self.files)
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
            Parser(self.text_of(start, end), start, self.files).declarations(shared, constants)
        return shared, constants

    def text_of(self, start: int, end: int) -> str:
        text = "\n".join(self.lines[start:end])
        return re.split(r"\n\s*\.section\b", text)[0]  # debug information
