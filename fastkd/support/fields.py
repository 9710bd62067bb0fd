"""What a field of a settings dataclass says of itself, beside its type, its default and its docstring."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, get_type_hints

_FIXED = "fixed"


def fixed(default: Any = dataclasses.MISSING, *, factory: Callable[[], Any] | None = None) -> Any:
    """A field that is no option of the command line. Without a default it has to be given."""
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata={_FIXED: True})
    return dataclasses.field(default=default, metadata={_FIXED: True})


def is_fixed(field: dataclasses.Field) -> bool:
    return field.metadata.get(_FIXED, False)


_GROUP, _RARE = "group", "rare"


def group(prefix: str = "", *, rare: bool = False) -> Any:
    """A field whose type is a settings dataclass: its own fields are options, `--PREFIX.NAME` or plainly `--NAME`.

    rare: the short help only names them.
    """
    return dataclasses.field(default=None, metadata={_GROUP: prefix, _RARE: rare})


def rare(default: Any) -> Any:
    """An option that the short help only names."""
    return dataclasses.field(default=default, metadata={_RARE: True})


def is_rare(field: dataclasses.Field) -> bool:
    return field.metadata.get(_RARE, False)


def group_prefix(field: dataclasses.Field) -> str | None:
    """The prefix of a group's options; None for a field that is no group."""
    return field.metadata.get(_GROUP)


class OnlyWith(NamedTuple):
    """Says in an annotation that a setting means something only while another one has a certain value."""

    setting: str
    value: Any = None
    """That value, or a tuple of several; None: any but 0, off and none at all."""

    def holds(self, settings: Any) -> bool:
        found = getattr(settings, self.setting)
        return bool(found) if self.value is None else found in self._values()

    def words(self) -> str:
        """The condition as it is given on a command line, but for the dashes and a prefix."""
        values = "above 0" if self.value is None else " or ".join(map(str, self._values()))
        return f"{self.setting.replace('_', '-')} {values}"

    def _values(self) -> tuple[Any, ...]:
        return self.value if isinstance(self.value, tuple) else (self.value,)


def idle(settings: Any, names: Iterable[str]) -> tuple[str, OnlyWith] | None:
    """The first of the named settings that changes nothing beside the others, and what it goes with; None: all do."""
    conditions = _conditions(type(settings))
    found = ((name, one) for name in names for one in conditions.get(name, ()) if not one.holds(settings))
    return next(found, None)


@functools.cache
def _conditions(kind: type[Any]) -> dict[str, list[OnlyWith]]:
    hints = get_type_hints(kind, include_extras=True)
    return {
        name: [one for one in getattr(hint, "__metadata__", ()) if isinstance(one, OnlyWith)]
        for name, hint in hints.items()
    }


def given(settings: Any) -> dict[str, Any]:
    """The fields of a settings dataclass that are not None: what was given of options that override others."""
    return {name: value for name, value in vars(settings).items() if value is not None}
