"""Dataclasses to plain JSON types and back, checked against their annotations."""

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from fastkd.support.errors import UserError, nearest

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """The value with dictionaries for dataclasses, lists for tuples and strings for paths."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def from_plain(kind: type[T], value: Any, where: str) -> T:
    """Reads a plain value as a type; raises UserError, which names the place, for a value that is not of that type."""
    return _read(kind, value, where)


def with_defaults(plain: Any, today: Any) -> Any:
    """A plain value that was written before some settings existed, with their defaults.

    today: the value, with its dataclasses, that it is compared with; a dataclass's fields that `plain` lacks and that
    have a default are filled in.
    """
    if isinstance(plain, dict) and dataclasses.is_dataclass(today):
        missing = [field for field in dataclasses.fields(today) if field.name not in plain]
        filled = {field.name: to_plain(_default(field)) for field in missing if _has_default(field)}
        return filled | {name: with_defaults(item, getattr(today, name, None)) for name, item in plain.items()}
    if isinstance(plain, dict) and isinstance(today, dict):
        return {name: with_defaults(item, today.get(name)) for name, item in plain.items()}
    if isinstance(plain, list) and isinstance(today, list | tuple) and len(plain) == len(today):
        return [with_defaults(*pair) for pair in zip(plain, today, strict=True)]
    return plain


def differences(before: Any, after: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """(place, before, after) wherever two plain values differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        found = []
        for key in [*before, *(key for key in after if key not in before)]:
            found += differences(before.get(key), after.get(key), f"{path}.{key}" if path else key)
        return found
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [found for number, pair in pairs for found in differences(*pair, f"{path}[{number}]")]
    return [] if before == after else [(path, before, after)]


def _read(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _read(next(argument for argument in arguments if argument is not type(None)), value, where)
    if origin is Literal:
        if value not in arguments:
            raise UserError(f"{where} is {value!r}, expected one of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        return _read_tuple(arguments, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where} is {value!r}, expected a dictionary")
        return {key: _read(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, value, where)
    if kind is Path:
        return Path(_read(str, value, where))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{where} is {value!r}, expected {kind.__name__}")
    return value


def _read_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise UserError(f"{where} is {value!r}, expected a list")
    kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
    if len(kinds) != len(value):
        raise UserError(f"{where} has {len(value)} entries, expected {len(kinds)}")
    pairs = enumerate(zip(kinds, value, strict=True))
    return tuple(_read(kind, item, f"{where}[{number}]") for number, (kind, item) in pairs)


def _read_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise UserError(f"{where} is {value!r}, expected a dictionary")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in value:
        if name not in fields:
            raise UserError(f"{where} has an unknown entry {name!r}{nearest(name, fields)}")
    for name, field in fields.items():
        if name not in value and not _has_default(field):
            raise UserError(f"{where} lacks the entry {name!r}")
    return kind(**{name: _read(hints[name], item, f"{where}.{name}") for name, item in value.items()})


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return (field.default, field.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
