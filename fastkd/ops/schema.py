"""The flat arguments of an operation from the fields of the named tuple that we hand around: declared there alone.

PyTorch's operations and `csrc/` take flat arguments; in Python everything takes the tuple, nested where that reads
well.
"""

import functools
from collections.abc import Iterator
from typing import Any, TypeVar, get_type_hints

import torch
from torch import Tensor

T = TypeVar("T")

_TYPES = {Tensor: "Tensor", Tensor | None: "Tensor?", int: "int", bool: "bool", str: "str", torch.dtype: "ScalarType"}


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
    return kind(*[next(arguments) if field in _TYPES else nested(field, arguments) for field in _fields(kind)])


@functools.cache
def _fields(kind: type[Any]) -> tuple[Any, ...]:
    """The fields' types: to read them takes longer than a loss of few numbers."""
    return tuple(get_type_hints(kind).values())
