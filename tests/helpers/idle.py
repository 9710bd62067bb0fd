"""Settings beside others, to see which of them change something."""

import dataclasses
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from fastkd.support.errors import UserError
from fastkd.support.plain import to_plain
from fastkd.support.ranges import bare, range_of


def others(kind: Any, value: Any) -> list[Any]:
    """Other values that a setting may have."""
    inner = bare(kind)
    options = [option for option in get_args(inner) if option is not type(None)]
    if get_origin(inner) is Literal:
        return [option for option in options if option != value]
    if get_origin(inner) is tuple:
        nearer = [tuple(number / 2 for number in value)] if value and isinstance(value[0], float) else []
        return [*nearer, value[:-1], value[1:]] if value else [(1,)]
    if inner is Path:
        return [Path("elsewhere")]
    if inner is bool:
        return [not value]
    if inner in (int, float):
        near = (2 * value, value / 2, value + 1, 0.1, 0.5, 0.999, 1, 2, 3) if value is not None else (1, 2, 0.5)
        fitting = dict.fromkeys(inner(one) for one in near if not range_of(kind).refuses(inner(one)))
        return [one for one in fitting if one != value]
    return others(options[0], value)


def switches(kind: Any, value: Any) -> list[Any]:
    """Values that switch a part of a method off, or to another one."""
    inner = bare(kind)
    if inner in (int, float):
        return [] if range_of(kind).refuses(inner(0)) else [inner(0)]
    return (
        [()] if get_origin(inner) is tuple else others(kind, value) if inner is bool or "Literal" in str(inner) else []
    )


def replaced(settings: Any, **changes: Any) -> Any:
    """The settings with changes; None where they are refused."""
    try:
        return dataclasses.replace(settings, **changes)
    except UserError:
        return None


def unusual(settings: Any) -> dict[str, Any]:
    usual = to_plain(type(settings)())
    return {name: value for name, value in to_plain(settings).items() if usual[name] != value}
