"""The operands of the instructions that the engines execute by an action: its slots and numbers, in their order.

Each function gives the slots of one action's operands, and the numbers that stand in the text or follow from the form.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from .forms import BITS, Machine
from .program import NONE
from .syntax import SINK, Instruction, Literal, Operand, Pair, PTXError, Vector

if TYPE_CHECKING:
    from .decoding import Decoder

Decoded = tuple[tuple[int, ...], tuple[int, ...]]


def elements(operand: Operand) -> tuple[Operand, ...]:
    return operand.elements if isinstance(operand, Vector) else (operand,)


def access(form: Machine) -> tuple[int, int]:
    """Bytes of an element, and whether it is extended by its sign."""
    return BITS[form["type"]] // 8, int(form["type"][0] == "s")


def load(decoder: "Decoder", form: Machine, instruction: Instruction) -> Decoded:
    targets, place = instruction.operands[:2]
    base, offset = decoder.address(place)
    return (base, *map(decoder.destination, elements(targets))), (offset, *access(form))


def store(decoder: "Decoder", form: Machine, instruction: Instruction) -> Decoded:
    base, offset = decoder.address(instruction.operands[0])
    bits = max(BITS[form["type"]], 16)
    values = [decoder.value(element, bits) for element in elements(instruction.operands[1])]
    return (base, *values), (offset, *access(form))


def atomic(decoder: "Decoder", form: Machine, instruction: Instruction) -> Decoded:
    operands = list(instruction.operands)
    target = decoder.destination(operands.pop(0)) if form.opcode.startswith("atom") else NONE
    base, offset = decoder.address(operands.pop(0))
    values = [decoder.value(operand, BITS[form["type"]]) for operand in operands[:2]]
    return (target, base, *values), (offset, *access(form))


def copy(decoder: "Decoder", form: Machine, instruction: Instruction) -> Decoded:
    (to, to_offset), (source, from_offset) = map(decoder.address, instruction.operands[:2])
    size = instruction.operands[2]
    if not isinstance(size, Literal):
        raise PTXError("the size of a copy is not a number")
    rest = instruction.operands[3 : 4 - bool(form["policy"])] if len(instruction.operands) > 3 else ()
    real = decoder.value(rest[0], 32) if rest else NONE
    if real != NONE and decoder.program.slots[real].bits == 1:
        raise PTXError("a copy that a predicate ignores is not known")
    return (to, source, real), (to_offset, from_offset, int(size.value))


def wait(decoder: "Decoder", form: Machine, instruction: Instruction) -> Decoded:
    return (), (int(instruction.operands[0].value) if instruction.operands else NONE,)


def nothing(decoder: "Decoder", form: Machine, instruction: Instruction) -> Decoded:
    return (), ()


def branch(decoder: "Decoder", form: Machine, instruction: Instruction) -> Decoded:
    return (), (decoder.kernel.targets[decoder.place],)


def barrier(decoder: "Decoder", form: Machine, instruction: Instruction) -> Decoded:
    """Barrier, threads, destination, predicate."""
    operands, target, given = list(instruction.operands), NONE, NONE
    if form.details.get("reduction"):
        target = decoder.destination(operands.pop(0))
        given = decoder.predicate(operands.pop(), instruction)
    barrier = decoder.value(operands[0])
    return (barrier, decoder.value(operands[1]) if len(operands) > 1 else NONE, target, given), ()


def arrive(decoder: "Decoder", form: Machine, instruction: Instruction) -> Decoded:
    barrier, threads = map(decoder.value, instruction.operands)
    return (barrier, threads, NONE, NONE), ()


def warp_barrier(decoder: "Decoder", form: Machine, instruction: Instruction) -> Decoded:
    return (decoder.value(instruction.operands[0]),), ()


def shuffle(decoder: "Decoder", form: Machine, instruction: Instruction) -> Decoded:
    target, *rest = instruction.operands
    inside = NONE
    if isinstance(target, Pair):
        target, inside = target.first, decoder.destination(target.second)
    if len(rest) != 4:
        raise PTXError(f"{form.opcode} takes a value, a lane, a clamp and a mask")
    return (decoder.destination(target), inside, *map(decoder.value, rest)), ()


def vote(decoder: "Decoder", form: Machine, instruction: Instruction) -> Decoded:
    target, given, mask = instruction.operands
    return (decoder.destination(target), decoder.predicate(given, instruction), decoder.value(mask)), ()


def reduce(decoder: "Decoder", form: Machine, instruction: Instruction) -> Decoded:
    target, given, mask = instruction.operands
    return (decoder.destination(target), decoder.value(given), decoder.value(mask)), ()


def elect(decoder: "Decoder", form: Machine, instruction: Instruction) -> Decoded:
    target, mask = instruction.operands
    first, second = target if isinstance(target, Pair) else (SINK, target)
    return (decoder.destination(first), decoder.destination(second), decoder.value(mask)), ()


def active(decoder: "Decoder", form: Machine, instruction: Instruction) -> Decoded:
    return (decoder.destination(instruction.operands[0]),), ()


def pack(decoder: "Decoder", form: Machine, instruction: Instruction) -> Decoded:
    """Targets, then sources; numbers: how many targets, how many bits the larger side has."""
    targets, sources = (elements(operand) for operand in instruction.operands)
    bits = BITS[form["type"]]
    part = bits // max(len(targets), len(sources))
    values = [decoder.value(source, bits if len(sources) == 1 else part) for source in sources]
    return (*map(decoder.destination, targets), *values), (len(targets), bits)


def load_matrix(decoder: "Decoder", form: Machine, instruction: Instruction) -> Decoded:
    base, offset = decoder.address(instruction.operands[1])
    return (base, *map(decoder.destination, elements(instruction.operands[0]))), (offset,)


def store_matrix(decoder: "Decoder", form: Machine, instruction: Instruction) -> Decoded:
    base, offset = decoder.address(instruction.operands[0])
    return (base, *map(decoder.value, elements(instruction.operands[1]))), (offset,)


def multiply(decoder: "Decoder", form: Machine, instruction: Instruction) -> Decoded:
    target, a, b, c = (elements(operand) for operand in instruction.operands)
    return (*map(decoder.destination, target), *(decoder.value(x) for x in (*a, *b, *c))), (len(a), len(b))


def multiply_async(decoder: "Decoder", form: Machine, instruction: Instruction) -> Decoded:
    """Slots: accumulators, A (registers or a descriptor), descriptor of B, whether to add; numbers: how many
    registers A takes, negated A, negated B, transposed A, transposed B."""
    accumulators, a, b, added, *immediates = instruction.operands
    flags = [int(flag.value) for flag in immediates if isinstance(flag, Literal)]
    registers = len(a.elements) if isinstance(a, Vector) else 0
    expected = 2 if form["type"] == "tf32" else 3 if registers else 4
    if len(flags) != expected:
        raise PTXError(f"{form.opcode} takes {expected} numbers at its end, got {len(flags)}")
    transposed = (0, flags[2]) if expected == 3 else tuple(flags[2:]) or (0, 0)
    sources = [decoder.value(element) for element in elements(a)]
    slots = (*map(decoder.value, elements(accumulators)), *sources, decoder.value(b), decoder.value(added, 1))
    return slots, (registers, int(flags[0] == -1), int(flags[1] == -1), *transposed)


OPERANDS: dict[str, Callable[["Decoder", Machine, Instruction], Decoded]] = {
    "load": load,
    "store": store,
    "atomic": atomic,
    "copy": copy,
    "branch": branch,
    "barrier": barrier,
    "arrive": arrive,
    "warp_barrier": warp_barrier,
    "shuffle": shuffle,
    "vote": vote,
    "reduce": reduce,
    "elect": elect,
    "active": active,
    "pack": pack,
    "load_matrix": load_matrix,
    "store_matrix": store_matrix,
    "multiply": multiply,
    "multiply_async": multiply_async,
    "wait_for_copies": wait,
    "wait_for_matrices": wait,
    **dict.fromkeys(("commit_copies", "commit_matrices", "fence", "proxy_fence", "matrix_fence"), nothing),
    **dict.fromkeys(("nothing", "end", "trap", "call"), nothing),
}
"""By action."""
