"""The instructions that the engines know: `form(opcode)`.

To add one, write its row in the file of its chapter; a lane row needs nothing else, unless its expression uses a new
word (`words.py` and `native/words.h`).
"""

from functools import cache

from ..forms import Form, Lane, Machine, Pattern, lanes_of
from ..syntax import PTXError
from . import bits, conversions, floats, integers, matrices, memory, threads

LANES: dict[str, Lane] = {
    form.opcode: form
    for chapter in (integers, bits, floats, conversions)
    for row in chapter.ROWS
    for form in lanes_of(row)
}
_MACHINE = [row for chapter in (memory, threads, matrices) for row in chapter.ROWS]
NOT_EXECUTED = matrices.NOT_EXECUTED


class UnknownInstruction(PTXError):
    """An opcode that no row of the table has."""


@cache
def machine_form(opcode: str) -> Machine | None:
    for row in _MACHINE:
        if match := Pattern(row.pattern).regex.fullmatch(opcode):
            return Machine(opcode, row.action, {name: text or "" for name, text in match.groupdict().items()})
    return None


def form(opcode: str, *, vector: bool = False) -> Form:
    """vector: an operand is a vector, which makes a mov what packs or unpacks registers."""
    if opcode in LANES and not vector:
        return LANES[opcode]
    found = machine_form(opcode) or LANES.get(opcode)
    if found is None:
        raise UnknownInstruction(f"{opcode}: no row of the table (tests/ptx/table) has it")
    return found
