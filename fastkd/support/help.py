"""What --help prints: a few words, then the options in groups that have titles, each in a line where it fits.

Everything is read off the dataclasses: names, types, and the docstrings behind their fields.
"""

import ast
import dataclasses
import functools
import inspect
import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, get_args, get_origin

import tyro

from fastkd.support.fields import group_prefix, is_fixed, is_rare

_LEFT = 26
_POSITIONAL = get_args(tyro.conf.Positional[str])[1]

Metavar = Callable[[dataclasses.Field, bool], str]
"""What stands for the value of an option, "" for one that takes none; the second: whether a recipe has the value."""


class Entry(NamedTuple):
    name: str
    """`--lr FLOAT`, or `RUN` for an argument without a name."""
    text: str


class Section(NamedTuple):
    title: str
    entries: list[Entry]
    rare: bool = False
    """Whether the short help only names its options."""


def sections(
    kind: type[Any], groups: Mapping[str, type[Any]], metavar: Metavar, values: Mapping[str, Any]
) -> list[Section]:
    """The options of a command: its own, those of the dataclasses that it is made of, and those of the groups.

    groups: {prefix: dataclass}, as `read_options` takes them.
    values: {name of a field that is a group, or prefix: the settings that hold where an option is not given}.
    """
    own = [field for field in dataclasses.fields(kind) if group_prefix(field) is None and not is_fixed(field)]
    seldom = [field for field in own if is_rare(field)]
    found = [
        Section("Options", [_entry(field, kind, metavar) for field in own if field not in seldom]),
        Section("For special cases", [_entry(field, kind, metavar) for field in seldom], rare=True),
    ]
    for field in dataclasses.fields(kind):
        prefix = group_prefix(field)
        if prefix is not None:
            title = docstrings(kind).get(field.name, field.name).rstrip(".")
            how = (field.type, prefix, metavar, values.get(field.name))
            if is_rare(field):
                found.append(Section(title, list(_entries(*how)), rare=True))
            else:
                found.append(Section(title, list(_entries(*how, which=lambda one: not is_rare(one)))))
                found[1].entries.extend(_entries(*how, which=is_rare))
    for prefix, settings in groups.items():
        title = f"Settings of the method {prefix}"
        found.append(Section(title, list(_entries(settings, prefix, metavar, values.get(prefix)))))
    return [section for section in found if section.entries]


def page(usage: str, description: str, found: Sequence[Section], *, whole: bool = True) -> str:
    """The help, as wide as the terminal, within reason; whole: with what is rare."""
    width = _width()
    parts = [f"usage: {usage}", *(_wrapped(paragraph, width) for paragraph in description.strip().split("\n\n"))]
    for section in found:
        if whole or not section.rare:
            lines = [line for entry in section.entries for line in _lines(entry, width)]
            parts.append("\n".join([f"{section.title}:", *lines]))
    rare = [section for section in found if section.rare and not whole]
    if rare:
        named = (f"{each.title}: {' '.join(entry.name.split()[0] for entry in each.entries)}" for each in rare)
        lines = (_filled(line, width, "    ", "  ") for line in named)
        parts.append("\n".join(["--help-all shows these too:", *lines]))
    return "\n\n".join(parts)


def _width() -> int:
    return min(max(shutil.get_terminal_size((100, 24)).columns, 50), 120)


def columns(rows: Mapping[str, str]) -> str:
    """Names with a few words each, in as many columns as there is room for."""
    left = max(map(len, rows)) + 2
    cells = [f"{name:<{left}}{words}" for name, words in rows.items()]
    widest = max(map(len, cells)) + 2
    count = max(1, (_width() - 2) // widest)
    high = -(-len(cells) // count)
    lines = ["".join(f"{cell:<{widest}}" for cell in cells[row::high]).rstrip() for row in range(high)]
    return "\n".join(f"  {line}" for line in lines)


@functools.cache
def docstrings(kind: type[Any]) -> dict[str, str]:
    """The strings that stand behind the fields of a dataclass, and behind those that it inherits."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if dataclasses.is_dataclass(owner):
            found |= _docstrings_in(owner)
    return found


def _docstrings_in(owner: type[Any]) -> dict[str, str]:
    try:
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    except (OSError, TypeError):  # a class that was made by a program has no source
        return {}
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, behind in zip(body.body, body.body[1:], strict=False):
        is_string = isinstance(behind, ast.Expr) and isinstance(behind.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_string:
            found[field.target.id] = " ".join(str(behind.value.value).split())  # pyright: ignore[reportAttributeAccessIssue]
    return found


def _entries(
    kind: Any,
    prefix: str,
    metavar: Metavar,
    values: Any,
    *,
    which: Callable[[dataclasses.Field], bool] = lambda field: True,
) -> Iterator[Entry]:
    for field in dataclasses.fields(kind):
        if group_prefix(field) is None and not is_fixed(field) and which(field):
            value = getattr(values, field.name, None) if values is not None else None
            yield _entry(field, kind, metavar, f"{prefix}." if prefix else "", _said(value), of_recipe=True)


def _entry(
    field: dataclasses.Field,
    kind: Any,
    metavar: Metavar,
    prefix: str = "",
    value: str = "",
    *,
    of_recipe: bool = False,
) -> Entry:
    text = docstrings(kind).get(field.name, "")
    if _POSITIONAL in _marks(field.type):
        return Entry(metavar(field, False), text)
    option, shown = f"{prefix}{field.name.replace('_', '-')}", metavar(field, of_recipe)
    name = f"--{option}" if shown or field.default is not True else f"--{option}, --no-{option}"
    if not of_recipe and field.default is not False:
        value = _said(field.default)
    return Entry(" ".join(filter(None, (name, shown))), " ".join(filter(None, (text, value))))


def _marks(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()


def _said(value: Any) -> str:
    if value is None or value == "" or value is dataclasses.MISSING or dataclasses.is_dataclass(value):
        return ""
    if isinstance(value, bool):
        return f"[{'on' if value else 'off'}]"
    if isinstance(value, tuple | list):
        return f"[{' '.join(map(str, value))}]" if value else ""
    return f"[{value:g}]" if isinstance(value, float) else f"[{value}]"


def _lines(entry: Entry, width: int) -> Iterator[str]:
    """The option and its text beside it; below it, where the option is long."""
    wrapped = _filled(entry.text, width - _LEFT - 4).splitlines() or [""]
    first = f"  {entry.name:<{_LEFT}}"
    if len(entry.name) <= _LEFT:
        yield f"{first}  {wrapped.pop(0)}".rstrip()
    elif len(entry.name) + len(entry.text) + 4 <= width:
        yield f"  {entry.name}  {entry.text}".rstrip()
        return
    else:
        yield first
    for line in filter(None, wrapped):
        yield f"{'':<{_LEFT + 4}}{line}"


def _wrapped(paragraph: str, width: int) -> str:
    """A paragraph at the width. Lines that are indented stay lines, and are wrapped where they are too long."""
    lines: list[str] = []
    for line in paragraph.splitlines():
        if lines and not line.startswith(" ") and not lines[-1].startswith(" "):
            lines[-1] += f" {line}"
        else:
            lines.append(line)
    listed = ": " in paragraph[:20]
    return "\n".join(_filled(line, width, "    " if line.startswith(" ") else "  " if listed else "") for line in lines)


def _filled(text: str, width: int, indent: str = "", first: str = "") -> str:
    return textwrap.fill(text, width, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)
