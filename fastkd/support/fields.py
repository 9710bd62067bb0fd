"""What a field of a settings dataclass says of itself, beside its type, its default and its docstring."""

import dataclasses
from collections.abc import Callable
from typing import Any

_FIXED = "fixed"


def fixed(default: Any = dataclasses.MISSING, *, factory: Callable[[], Any] | None = None) -> Any:
    """A field that is no option of the command line. Without a default it has to be given."""
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata={_FIXED: True})
    return dataclasses.field(default=default, metadata={_FIXED: True})


def is_fixed(field: dataclasses.Field) -> bool:
    return field.metadata.get(_FIXED, False)


_GROUP = "group"


def group(prefix: str = "") -> Any:
    """A field whose type is a settings dataclass: its own fields are options, `--PREFIX.NAME` or plainly `--NAME`."""
    return dataclasses.field(default=None, metadata={_GROUP: prefix})


def group_prefix(field: dataclasses.Field) -> str | None:
    """The prefix of a group's options; None for a field that is no group."""
    return field.metadata.get(_GROUP)


def given(settings: Any) -> dict[str, Any]:
    """The fields of a settings dataclass that are not None: what was given of options that override others."""
    return {name: value for name, value in vars(settings).items() if value is not None}
