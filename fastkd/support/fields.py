"""What a field of a settings dataclass says of itself, beside its type, its default and its docstring."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, get_type_hints

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


class Condition:
    """Says in an annotation when a setting means something; where it does not, giving it is a mistake."""

    def holds(self, settings: Any, teachers: int | None) -> bool:
        """teachers: how many there are; None: nobody knows yet."""
        raise NotImplementedError

    def words(self, prefix: str = "") -> str:
        """What the setting goes with; prefix: that of the settings' options."""
        raise NotImplementedError


@dataclass(frozen=True)
class OnlyWith(Condition):
    """A setting means something only while another one, or one of several others, has a certain value."""

    setting: str | tuple[str, ...]
    value: Any = None
    """That value, or a tuple of several; None: any but 0, off and none at all."""

    def holds(self, settings: Any, teachers: int | None) -> bool:
        found = [getattr(settings, name) for name in _several(self.setting)]
        return any(map(bool, found)) if self.value is None else any(one in _several(self.value) for one in found)

    def words(self, prefix: str = "") -> str:
        names = " or ".join(f"--{prefix}{name.replace('_', '-')}" for name in _several(self.setting))
        return f"{names} {'above 0' if self.value is None else ' or '.join(map(_said, _several(self.value)))}"


@dataclass(frozen=True)
class OnlyWhere(Condition):
    """A setting means something only where what the words say of the others is so."""

    said: str
    test: Callable[[Any], bool]

    def holds(self, settings: Any, teachers: int | None) -> bool:
        return self.test(settings)

    def words(self, prefix: str = "") -> str:
        return self.said


@dataclass(frozen=True)
class OnlyWithTeachers(Condition):
    """A setting of a method means something only with so many teachers, or more."""

    least: int
    unless: OnlyWith | None = None
    """What makes it mean something with fewer, too."""

    def holds(self, settings: Any, teachers: int | None) -> bool:
        enough = teachers is None or teachers >= self.least
        return enough or (self.unless is not None and self.unless.holds(settings, teachers))

    def words(self, prefix: str = "") -> str:
        other = "" if self.unless is None else f", or {self.unless.words(prefix)}"
        return f"{self.least} teachers or more{other}"


def _several(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _said(value: Any) -> str:
    return str(value) if not isinstance(value, bool) else "on" if value else "off"


def idle(settings: Any, names: Iterable[str], teachers: int | None = None) -> tuple[str, Condition] | None:
    """The first of the named settings that changes nothing beside the others, and what it goes with; None: all do.

    teachers: how many a method has, where that is known.
    """
    conditions = _conditions(type(settings))
    unmet = ((name, one) for name in names for one in conditions.get(name, ()) if not one.holds(settings, teachers))
    return next(unmet, None)


@functools.cache
def _conditions(kind: type[Any]) -> dict[str, list[Condition]]:
    hints = get_type_hints(kind, include_extras=True)
    return {
        name: [one for one in getattr(hint, "__metadata__", ()) if isinstance(one, Condition)]
        for name, hint in hints.items()
    }


def given(settings: Any) -> dict[str, Any]:
    """The fields of a settings dataclass that are not None: what was given of options that override others."""
    return {name: value for name, value in vars(settings).items() if value is not None}
