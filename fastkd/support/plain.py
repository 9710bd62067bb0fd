"""Dataclasses to plain JSON types and back, checked against their annotations.

An annotation says of which type a value is and, for a number, in which range (`fastkd.support.ranges`). A float without
a range is finite, an integer without one fits 64 bits.
"""

import dataclasses
import functools
import types
import typing
from pathlib import Path
from typing import Any, Literal, NotRequired, TypeVar, Union, get_args, get_origin, is_typeddict

from fastkd.support.errors import UserError, nearest
from fastkd.support.ranges import bare, range_of, shortened

T = TypeVar("T")


class Checked:
    """Base of settings dataclasses, whose fields are checked against their annotations whoever makes one.

    Raises UserError, which names the class and the field. A subclass with a `__post_init__` of its own calls this one.
    """

    def __post_init__(self) -> None:
        check_fields(self)


def check_fields(settings: Any) -> None:
    """Raises UserError for a field of a dataclass whose value is not what its annotation says."""
    kind = type(settings)
    for name, hint in _hints(kind).items():
        if hasattr(settings, name):
            _read(hint, getattr(settings, name), f"{kind.__name__}.{name}")


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
    """Reads a plain value as a type; raises UserError, which names the place, for a value that is not of that type.

    A dataclass has no entries but its fields. A TypedDict may have more: who wrote the file may be newer.
    """
    return _read(kind, value, where)


def is_plain(value: Any, levels: int = 32) -> bool:
    """Whether a value is made of what JSON knows, in so many levels at most: a pickle may hold itself."""
    if not levels:
        return False
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(item, levels - 1) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(is_plain(item, levels - 1) for item in value)
    return value is None or isinstance(value, str | int | float)


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


def _read(annotation: Any, value: Any, where: str) -> Any:
    kind = bare(annotation)
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is NotRequired:
        return _read(arguments[0], value, where)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _read(next(argument for argument in arguments if argument is not type(None)), value, where)
    if origin is Literal:
        if not isinstance(value, str | int | None) or value not in arguments:
            raise UserError(f"{where} is {shortened(value)}, expected one of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        return _read_tuple(arguments, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where} is {shortened(value)}, expected a dictionary")
        return {
            _read(arguments[0], key, f"a name in {where}"): _read(arguments[1], item, f"{where}.{key}")
            for key, item in value.items()
        }
    if origin is list:
        return list(_read_tuple((arguments[0], ...), value, where))
    if is_typeddict(kind):
        return _read_entries(kind, value, where)
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, value, where)
    if kind is Path:
        return value if isinstance(value, Path) else Path(_read(str, value, where))
    allowed = range_of(annotation)
    fitting = isinstance(value, (int, float) if kind is float else kind)
    if not fitting or (allowed is not None and isinstance(value, bool)):
        raise UserError(f"{where} is {shortened(value)}, expected {kind.__name__}")
    if allowed is not None and (expected := allowed.refuses(value)):
        raise UserError(f"{where} is {shortened(value)}, expected {expected}")
    return float(value) if kind is float else value


@functools.cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _read_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise UserError(f"{where} is {shortened(value)}, expected a list")
    kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
    if len(kinds) != len(value):
        raise UserError(f"{where} has {len(value)} entries, expected {len(kinds)}")
    pairs = enumerate(zip(kinds, value, strict=True))
    return tuple(_read(kind, item, f"{where}[{number}]") for number, (kind, item) in pairs)


def _read_entries(kind: Any, value: Any, where: str) -> dict[str, Any]:
    """The dictionary, with the entries that a TypedDict names read as it says."""
    if not isinstance(value, dict):
        raise UserError(f"{where} is {shortened(value)}, expected a dictionary")
    lacking = sorted(name for name in kind.__required_keys__ if name not in value)
    if lacking:
        raise UserError(f"{where} lacks the entry {lacking[0]!r}")
    return {name: _read(_hints(kind).get(name, Any), item, f"{where}.{name}") for name, item in value.items()}


def _read_dataclass(kind: Any, value: Any, where: str) -> Any:
    if isinstance(value, kind):
        return value
    if not isinstance(value, dict):
        raise UserError(f"{where} is {shortened(value)}, expected a dictionary")
    hints = _hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in value:
        if name not in fields:
            raise UserError(f"{where} has an unknown entry {shortened(name)}{nearest(str(name), fields)}")
    for name, field in fields.items():
        if name not in value and not _has_default(field):
            raise UserError(f"{where} lacks the entry {name!r}")
    read = {name: _read(hints[name], item, f"{where}.{name}") for name, item in value.items()}
    try:
        return kind(**read)
    except ValueError as error:  # what its __post_init__ says does not name the file
        raise UserError(f"{where}: {error}") from error


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return (field.default, field.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
