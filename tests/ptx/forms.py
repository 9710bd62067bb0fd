"""The notation of the instruction table, and what a row of it becomes: the meaning of an instruction form.

A row is written to be read beside the PTX ISA. Its *pattern* is the opcode as the manual spells it:

    {t: s32 u32}           one of these, called t in the rest of the row
    {c,op: eq/== ne/!=}    one of these (eq or ne); op is what stands behind the slash
    [.ftz]                 may be there

A *lane* row says what each thread computes for itself: the types it takes and gives, and an expression over its
operands a, b, c, d (r is the result, in an error). The words of the expressions are defined twice, in `words.py` for
numpy and in `native/words.h` for C++, and tests hold the two against each other. A *machine* row names an action, for
what touches memory, other threads or the flow of control; the engines implement actions.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

BITS = {"pred": 1} | {f"{kind}{size}": size for kind in "bus" for size in (8, 16, 32, 64)}
BITS |= {"f16": 16, "bf16": 16, "f32": 32, "f64": 64, "tf32": 32}
"""Bits of the types that lane rows compute with."""
FLOATS = ("f16", "bf16", "f32", "f64", "tf32")

INTEGERS = "s16 u16 s32 u32 s64 u64"


@dataclass(frozen=True)
class Lane:
    """What each thread computes for itself."""

    opcode: str
    takes: tuple[str, ...]
    gives: str
    means: str
    error: str = ""
    """How far the hardware may be off, as an expression; empty where the result is exact."""
    flush: bool = False
    """Subnormal float32 operands and results are zeros (.ftz)."""
    saturate: bool = False
    """Results are held to 0 … 1, NaN is 0 (.sat)."""
    halves: bool = False
    """A register holds two numbers of the type."""
    known: str = "all"
    """When the result is known although an operand is not: "all" never; "same" for each half of the register that is;
    "select" if the chosen one is; "and", "or" if one is known that decides; "lower" if the lower half is."""


@dataclass(frozen=True)
class Machine:
    """What the engines do themselves."""

    opcode: str
    action: str
    details: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What the pattern's names stand for here; "" where an optional part is missing."""

    def __getitem__(self, name: str) -> str:
        return self.details[name]


Form = Lane | Machine


class Row(NamedTuple):
    pattern: str
    signature: str = ""
    means: str = ""
    error: str = ""
    halves: bool = False
    known: str = "all"
    action: str = ""
    """Of a machine row."""


def lane(pattern: str, signature: str, means: str, **options) -> Row:
    """signature: "takes takes -> gives"."""
    return Row(pattern, signature, means, **options)


def machine(pattern: str, action: str) -> Row:
    return Row(pattern, action=action)


_PART = re.compile(r"\{(?P<names>[\w,]+):(?P<choices>[^}]*)\}|(?P<open>\[)|(?P<close>\])|(?P<text>[^{}\[\]]+)")


class Choice(NamedTuple):
    """A part of a pattern: texts, and what the row's names stand for with each."""

    alternatives: tuple[tuple[str, dict[str, str]], ...]


@dataclass(frozen=True)
class Pattern:
    text: str

    @cached_property
    def parts(self) -> list[Choice]:
        found: list[Choice] = []
        optional = False
        for match in _PART.finditer(self.text):
            if match["open"] or match["close"]:
                optional = bool(match["open"])
                continue
            choice = Choice(((match["text"], {}),)) if match["text"] else _choice(match["names"], match["choices"])
            found.append(choice)
            if optional:
                found[-1] = Choice((("", {}), *choice.alternatives)) if match["text"] else found[-1]
        return found

    @cached_property
    def regex(self) -> re.Pattern:
        """Matches an opcode; groups are the names."""
        pieces = []
        for match in _PART.finditer(self.text):
            if match["open"]:
                pieces.append("(?:")
            elif match["close"]:
                pieces.append(")?")
            elif match["text"]:
                pieces.append(re.escape(match["text"]))
            else:
                texts = "|".join(re.escape(text) for text in match["choices"].split())
                pieces.append(f"(?P<{match['names']}>{texts})")
        return re.compile("".join(pieces))

    def expanded(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Every opcode that fits, with what the names stand for."""
        for combination in itertools.product(*(part.alternatives for part in self.parts)):
            names: dict[str, str] = {}
            for _, meant in combination:
                names |= meant
            yield "".join(text for text, _ in combination), names


def _choice(names: str, choices: str) -> Choice:
    called = names.split(",")
    alternatives = []
    for choice in choices.split():
        values = choice.split("/")
        alternatives.append((values[0], dict(zip(called, values, strict=True))))
    return Choice(tuple(alternatives))


def lanes_of(row: Row) -> Iterator[Lane]:
    """The forms of a lane row."""
    for opcode, names in Pattern(row.pattern).expanded():
        takes, _, gives = row.signature.partition("->")
        parts = opcode.split(".")
        yield Lane(
            opcode,
            tuple(names.get(kind, kind) for kind in takes.split()),
            names.get(gives.strip(), gives.strip()),
            row.means.format(**names),
            row.error,
            flush="ftz" in parts,
            saturate="sat" in parts,
            halves=row.halves,
            known=row.known,
        )
