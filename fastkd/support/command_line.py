"""What every command does with its command line: it reads options, and ends with a code and one line.

An option that was not given is None: the recipe keeps its value. An unknown option is an error with a suggestion.
"""

import contextlib
import dataclasses
import io
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import torch
import tyro
from tyro.constructors import PrimitiveConstructorSpec

from fastkd.support.errors import UserError, nearest
from fastkd.support.fields import group_prefix, is_fixed

T = TypeVar("T")


def command(main: Callable[[list[str]], int]) -> int:
    """Runs `main` on the program's arguments; returns its code, 2 after one line for a mistake, 130 after Ctrl-C."""
    try:
        return main(sys.argv[1:])
    except UserError as error:
        print(f"fastkd: {error}", file=sys.stderr)
        return 2
    except torch.OutOfMemoryError:
        print("fastkd: out of memory on the device; does another program hold it?", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fastkd: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1


def read_options(
    kind: type[T],
    arguments: Sequence[str],
    *,
    program: str,
    description: str | None = None,
    groups: Mapping[str, type[Any]] | None = None,
) -> T:
    """The options of a command. An unknown one or a bad value is a `UserError`; --help ends the program.

    groups: further dataclasses, whose fields are the options `--GROUP.FIELD`, all optional; see `of_group`.
    """
    known = {"help", *option_names(kind)}
    for prefix, inner in (groups or {}).items():
        known |= {f"{prefix}.{name}" for name in option_names(inner)}
    for argument in arguments:
        name = argument.removeprefix("--").partition("=")[0].replace("_", "-")
        if argument.startswith("--") and name and name.removeprefix("no-") not in known:
            hint = nearest(f"--{name}", (f"--{option}" for option in known))
            raise UserError(f"no option --{name}" + ("; --help lists them" if hint.startswith("; known") else hint))
    parsed_by = _command_line_class(kind, groups=groups or {})
    shown = io.StringIO()
    try:
        with contextlib.redirect_stderr(shown):
            return tyro.cli(parsed_by, args=list(arguments), prog=program, description=description)
    except SystemExit as end:
        if end.code:
            raise UserError(_first_sentence(shown.getvalue())) from None
        raise


def of_group(options: Any, group: str) -> Any:
    """What was read for one of the `groups`; fields that were not given are None."""
    return getattr(options, _attribute(group))


def option_names(kind: type[Any]) -> list[str]:
    """`batch-size`, `sftn.kl-weight`: the options that a dataclass makes."""
    names = []
    for field in dataclasses.fields(kind):
        prefix = group_prefix(field)
        if prefix is not None:
            assert isinstance(field.type, type)
            names += [f"{prefix}.{name}" if prefix else name for name in option_names(field.type)]
        elif not is_fixed(field):
            names.append(field.name.replace("_", "-"))
    return names


def _first_sentence(box: str) -> str:
    """What stands in tyro's frame around a mistake, between its title and the line above the help.

    The frame is drawn in ASCII where the terminal needs it.
    """
    words: list[str] = []
    for line in box.strip().splitlines()[1:]:
        is_rule = set(line) <= set(" │|╭╮╰╯─+-")
        if is_rule and words:
            break
        if not is_rule:
            words.append(line.strip(" │|"))
    return " ".join(words) or box.strip()


def _attribute(group: str) -> str:
    return "group_" + "".join(letter if letter.isalnum() else "_" for letter in group)


def _command_line_class(
    kind: type[Any], *, all_optional: bool = False, groups: Mapping[str, type[Any]] | None = None
) -> type[Any]:
    """A subclass of a dataclass for `tyro.cli`, which shows `--epochs INT` for a field `int | None`.

    tyro's own reading of `int | None` offers a literal None. all_optional: no field has to be given, whatever its type;
    one that is not is None.
    """
    fields: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(kind):
        prefix, inner = group_prefix(field), _without_none(field.type)
        if prefix is not None:
            fields.append(_group_field(field.name, field.type, prefix))
        elif is_fixed(field):
            fields.append((field.name, tyro.conf.Suppress[Any], dataclasses.field(default=None)))
        elif inner is not None or all_optional:
            annotated = Annotated[Any, _specification(inner or field.type), tyro.conf.arg(help_behavior_hint="")]
            fields.append((field.name, annotated, dataclasses.field(default=None)))
    for name, settings in (groups or {}).items():
        fields.append(_group_field(_attribute(name), settings, name, help=f"Settings of {name}."))
    silent = {"__post_init__": lambda self: None}  # there is nothing to validate until the recipe's values are in
    return dataclasses.make_dataclass(kind.__name__, fields, bases=(kind,), namespace=silent, frozen=True, kw_only=True)


def _group_field(name: str, settings: Any, prefix: str, help: str | None = None) -> tuple[str, Any, Any]:
    optional = _command_line_class(settings, all_optional=True)
    if prefix:
        annotated = Annotated[optional, tyro.conf.arg(name=prefix, help=help)]
    else:
        annotated = tyro.conf.OmitArgPrefixes[optional]
    return name, annotated, dataclasses.field(default_factory=optional)


def _without_none(kind: Any) -> Any:
    """The type X of `X | None`; None for any other type."""
    if get_origin(kind) in (Union, types.UnionType) and type(None) in get_args(kind):
        return next(argument for argument in get_args(kind) if argument is not type(None))
    return None


def _specification(kind: Any) -> PrimitiveConstructorSpec[Any]:
    if get_origin(kind) is Literal:
        return _specified(1, "{" + ",".join(get_args(kind)) + "}", lambda words: words[0], get_args(kind))
    if kind is bool:
        return _specified(1, "{on,off}", lambda words: words[0] == "on", ("on", "off"))
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        return _specified("*", f"{_metavar(inner)} …", lambda words: _read_all(inner, words))
    return _specified(1, _metavar(kind), lambda words: _read(kind, words[0]))


def _specified(nargs: Any, metavar: str, read: Any, choices: Any = None) -> PrimitiveConstructorSpec[Any]:
    return PrimitiveConstructorSpec(
        nargs=nargs,
        metavar=metavar,
        instance_from_str=read,
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(value)],
        choices=choices,
    )


def _metavar(kind: Any) -> str:
    return {int: "INT", float: "FLOAT", str: "NAME", Path: "PATH"}[kind]


def _read_all(kind: Any, words: Sequence[str]) -> tuple[Any, ...]:
    try:
        return tuple(_read(kind, word) for word in words)
    except ValueError as error:
        raise ValueError(f"{error}; the option takes all words that follow it: put RECIPE in front") from None


def _read(kind: Any, word: str) -> Any:
    try:
        return kind(word)
    except ValueError:
        raise ValueError(f"expected {_metavar(kind)}, got {word!r}") from None
