"""Dataclasses to plain JSON types and back, checked against their annotations."""

import dataclasses
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypeVar, Union, get_args, get_origin, is_typeddict

from fastkd.support.errors import UserError, nearest
from fastkd.support.ranges import Range

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


def _read(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Annotated, NotRequired):
        return _in_range(kind, _read(arguments[0], value, where), where)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _read(next(argument for argument in arguments if argument is not type(None)), value, where)
    if origin is Literal:
        if not isinstance(value, str | int | None) or value not in arguments:
            raise UserError(f"{where} is {_shown(value)}, expected one of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        return _read_tuple(arguments, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where} is {_shown(value)}, expected a dictionary")
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
        return Path(_read(str, value, where))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = _as_float(value, where)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{where} is {_shown(value)}, expected {kind.__name__}")
    return value


def _as_float(value: int, where: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise UserError(f"{where} is {_shown(value)}, expected a number that fits into a float") from None


def _shown(value: Any) -> str:
    """The value as a message shows it: what somebody else's file holds may be long."""
    if isinstance(value, int) and abs(value) >= 1 << 200:
        return "a number of hundreds of digits"
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]} …"


def _in_range(kind: Any, value: Any, where: str) -> Any:
    """The value, if all ranges in the type's annotation hold for it."""
    for found in get_args(kind)[1:]:
        if isinstance(found, Range):
            try:
                found.check(where, value)
            except (ValueError, OverflowError):
                raise UserError(f"{where} is {_shown(value)}, expected {found.words}") from None
    return value


def _read_entries(kind: Any, value: Any, where: str) -> dict[str, Any]:
    """The dictionary, with the entries that a TypedDict names read as it says."""
    if not isinstance(value, dict):
        raise UserError(f"{where} is {_shown(value)}, expected a dictionary")
    hints = typing.get_type_hints(kind, include_extras=True)
    lacking = sorted(name for name in kind.__required_keys__ if name not in value)
    if lacking:
        raise UserError(f"{where} lacks the entry {lacking[0]!r}")
    return {name: _read(hints.get(name, Any), item, f"{where}.{name}") for name, item in value.items()}


def _read_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise UserError(f"{where} is {_shown(value)}, expected a list")
    kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
    if len(kinds) != len(value):
        raise UserError(f"{where} has {len(value)} entries, expected {len(kinds)}")
    pairs = enumerate(zip(kinds, value, strict=True))
    return tuple(_read(kind, item, f"{where}[{number}]") for number, (kind, item) in pairs)


def _read_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise UserError(f"{where} is {_shown(value)}, expected a dictionary")
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in value:
        if name not in fields:
            raise UserError(f"{where} has an unknown entry {_shown(name)}{nearest(str(name), fields)}")
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
