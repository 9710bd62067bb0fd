"""What the operations read: named tuples to us, flat arguments to PyTorch and csrc/. The fields below decide both."""

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar, get_type_hints

from torch import Tensor

from fastkd.ops.crd.draws import DrawPlan

T = TypeVar("T")


class Contrast(NamedTuple):
    """Embeddings of samples, where they live in the bank, and what they are contrasted with."""

    student_BD: Tensor
    """[B,D] float32, contiguous, as `teacher_BD`."""
    teacher_BD: Tensor
    rows_B: Tensor
    """[B] int64: the samples' own rows of the bank."""
    chosen_BK: Tensor | None
    """[B,K+1] int64 rows, the positive first; None: drawn by the plan."""
    plan: DrawPlan


class Inputs(NamedTuple):
    """What the loss of a batch, and the normaliser that it sets, are computed from."""

    contrast: Contrast
    bank_n2D: Tensor
    z: Tensor
    """[2]: Z of the student's and of the teacher's side."""
    numbers: Tensor
    """[2]: temperature and momentum, see `fastkd.ops.numbers.CRDRole`."""


_TYPES = {Tensor: "Tensor", Tensor | None: "Tensor?", int: "int", bool: "bool"}


def schema(kind: type[Any]) -> str:
    """The arguments of an operation that takes such a tuple flat: `Tensor student_BD, Tensor teacher_BD, …`."""
    return ", ".join(f"{_TYPES[leaf]} {name}" for name, leaf in leaves(kind))


def leaves(kind: type[Any]) -> Iterator[tuple[str, Any]]:
    """Names and types of the flat arguments, in order."""
    for name, field in get_type_hints(kind).items():
        if field in _TYPES:
            yield name, field
        else:
            yield from leaves(field)


def flat(value: tuple) -> list[Any]:
    """The flat arguments that a tuple is handed over as. Dynamo traces through it."""
    arguments = []
    for field in value:
        arguments += flat(field) if isinstance(field, tuple) else [field]
    return arguments


def nested(kind: type[T], arguments: Iterator[Any]) -> T:
    """The tuple that the next of the flat arguments make up."""
    hints = get_type_hints(kind).values()
    return kind(*[next(arguments) if field in _TYPES else nested(field, arguments) for field in hints])
