"""What every command does with its command line: it reads options, and ends with a code and one line.

An option that was not given is None: the recipe keeps its value. An unknown option is an error with a suggestion.
"""

import contextlib
import dataclasses
import errno
import functools
import inspect
import io
import os
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from itertools import starmap
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import torch
import tyro
from tyro.constructors import PrimitiveConstructorSpec

from fastkd.support.errors import UserError, nearest
from fastkd.support.fields import group_prefix, is_fixed
from fastkd.support.help import page, sections
from fastkd.support.paths import expanded
from fastkd.support.ranges import bare, range_of, shortened

T = TypeVar("T")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_RAN_OUT = {errno.ENOMEM: "memory", errno.EMFILE: "open files", errno.ENFILE: "open files"}


def command(main: Callable[[list[str]], int], arguments: list[str] | None = None) -> int:
    """Runs `main` on arguments, by default the program's.

    Returns its code, 2 after one line for a mistake, 130 after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    try:
        code = main(sys.argv[1:] if arguments is None else arguments)
        if sys.stdout is not None:
            sys.stdout.flush()  # else what cannot be written any more is found when nobody catches it
        return code
    except UserError as error:
        print(f"fastkd: {error}", file=sys.stderr)
        return 2
    except torch.OutOfMemoryError:
        print("fastkd: out of memory on the device; does another program hold it?", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 1
    except (MemoryError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno in _FULL and error.filename is None:
            print(f"fastkd: cannot write what there is to say: {error.strerror}", file=sys.stderr)
            _drop_output()
            return 2
        if not (missing := what_ran_out(error)):
            raise
        print(f"fastkd: out of {missing}: fewer or smaller images, a smaller batch, fewer --workers", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fastkd: interrupted", file=sys.stderr)
        return 130


def _drop_output() -> None:
    """What still waits to be written to the program's output would fail once more at its end."""
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def what_ran_out(error: Exception) -> str:
    """What the machine had no more of, which numpy, torch and the system say each in a way of its own; "": nothing."""
    if isinstance(error, OSError):
        return _RAN_OUT.get(error.errno or 0, "")
    words = str(error)
    if "can't start new thread" in words:
        return "threads"
    short = ("can't allocate memory", "not enough memory", "Cannot allocate memory", "std::bad_alloc")
    return "memory" if isinstance(error, MemoryError) or any(one in words for one in short) else ""


def read_options(
    kind: type[T],
    arguments: Sequence[str],
    *,
    program: str,
    description: str | None = None,
    groups: Mapping[str, type[Any]] | None = None,
    values: Mapping[str, Any] | None = None,
) -> T:
    """The options of a command. An unknown one or a bad value is a `UserError`; --help ends the program.

    groups: further dataclasses, whose fields are the options `--GROUP.FIELD`, all optional; see `of_group`.
    values: what --help shows as the value of an option that is not given, see `help.sections`.
    """
    if {"-h", "--help", "--help-all"} & set(arguments):
        found = sections(kind, groups or {}, _shown_metavar, values or {})
        words = description or inspect.cleandoc(kind.__doc__ or "")
        print(page(_usage(kind, program), words, found, whole="--help-all" in arguments))
        raise SystemExit(0)
    refuse_empty(arguments)
    groups = groups or {}
    named = _named(
        arguments, {"help", "help-all", *option_names(kind)}.union(*starmap(_names_of_group, groups.items()))
    )
    absent = {
        name: settings
        for name, (prefix, settings) in _groups_of(kind, groups).items()
        if named.isdisjoint(_names_of_group(prefix, settings))
    }
    parsed_by = _command_line_class(kind, groups=tuple(groups.items()), absent=frozenset(absent))
    shown = io.StringIO()
    try:
        with contextlib.redirect_stderr(shown):
            found = tyro.cli(parsed_by, args=list(arguments), prog=program, description=description)
        for name, settings in absent.items():
            object.__setattr__(found, name, _command_line_class(settings, all_optional=True)())
        return _with_home(found)
    except SystemExit as end:
        if end.code:
            raise UserError(_first_sentence(shown.getvalue())) from None
        raise


def _named(arguments: Sequence[str], known: set[str]) -> set[str]:
    """The options that arguments name; raises UserError for one that is not known."""
    named, spelled = set[str](), {name.replace("_", "-") for name in known}
    for argument in arguments:
        name = argument.removeprefix("--").partition("=")[0].replace("_", "-")
        if not argument.startswith("--") or not name:
            continue
        named.add(name.removeprefix("no-"))
        if name.removeprefix("no-") not in spelled:
            hint = nearest(f"--{name}", (f"--{option}" for option in known))
            raise UserError(f"no option --{name}" + ("; --help lists them" if hint.startswith("; known") else hint))
    return named


def _usage(kind: type[Any], program: str) -> str:
    """`python -m fastkd.train [RECIPE] [options]   (or: fastkd train …)`"""
    words = []
    for field in dataclasses.fields(kind):
        if any(mark in _marks(field.type) for mark in get_args(tyro.conf.Positional[str])[1:]):
            needed = field.default is dataclasses.MISSING
            words.append(_shown_metavar(field, False) if needed else f"[{_shown_metavar(field, False)}]")
    return f"{' '.join([program, *words])} [options]   (or: fastkd {program.rpartition('.')[2]} …)"


def _shown_metavar(field: dataclasses.Field, of_recipe: bool) -> str:
    named = next((mark.metavar for mark in _marks(field.type) if getattr(mark, "metavar", None)), None)
    inner = _without_none(field.type) or field.type
    is_flag = bare(inner) is bool and not of_recipe
    return named or ("" if is_flag else _specification(inner).metavar)


def _marks(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()


def refuse_empty(arguments: Sequence[str]) -> None:
    """Refuses an empty value, as a variable of a script that is not set leaves it: it would mean something else."""
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if not argument.strip():
            name = next((word for word in reversed(arguments[:place]) if word.startswith("--")), "an argument")
        elif not argument.startswith("--") or not equals or value.strip():
            continue
        raise UserError(f"{name} is empty: give it a value, or leave it out")


def _with_home(options: T) -> T:
    """The options with the home folder in place of `~`, in every path and in all groups."""
    for field in dataclasses.fields(options):  # pyright: ignore[reportArgumentType]
        value = getattr(options, field.name)
        if isinstance(value, Path):
            object.__setattr__(options, field.name, expanded(str(value)))
        elif isinstance(value, tuple) and any(isinstance(item, Path) for item in value):
            object.__setattr__(options, field.name, tuple(expanded(str(item)) for item in value))
        elif dataclasses.is_dataclass(value):
            _with_home(value)
    return options


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


def _groups_of(kind: type[Any], groups: Mapping[str, type[Any]]) -> dict[str, tuple[str, type[Any]]]:
    """{attribute: prefix and class} of everything whose fields are options: of the class itself, and further ones."""
    found = {_attribute(name): (name, settings) for name, settings in groups.items()}
    for field in dataclasses.fields(kind):
        if (prefix := group_prefix(field)) is not None:
            assert isinstance(field.type, type)
            found[field.name] = (prefix, field.type)
    return found


@functools.cache
def _names_of_group(prefix: str, settings: type[Any]) -> frozenset[str]:
    names = (f"{prefix}.{name}" if prefix else name for name in option_names(settings))
    return frozenset(name.replace("_", "-") for name in names)


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


@functools.cache
def _command_line_class(
    kind: type[Any],
    *,
    all_optional: bool = False,
    groups: tuple[tuple[str, type[Any]], ...] = (),
    absent: frozenset[str] = frozenset(),
) -> type[Any]:
    """A subclass of a dataclass for `tyro.cli`, which shows `--epochs INT` for a field `int | None`.

    tyro's own reading of `int | None` offers a literal None. all_optional: no field has to be given, whatever its type;
    one that is not is None. absent: groups that no argument names, which tyro, that takes its time, need not read.
    """
    fields: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(kind):
        prefix, inner = group_prefix(field), _without_none(field.type)
        if prefix is not None and field.name not in absent:
            fields.append(_group_field(field.name, field.type, prefix))
        elif is_fixed(field) or prefix is not None:
            fields.append((field.name, tyro.conf.Suppress[Any], dataclasses.field(default=None)))
        elif inner is not None or all_optional:
            annotated = Annotated[Any, _specification(inner or field.type), tyro.conf.arg(help_behavior_hint="")]
            fields.append((field.name, annotated, dataclasses.field(default=None)))
        elif bare(field.type) in (int, float, Path):
            default = {} if field.default is dataclasses.MISSING else {"default": field.default}
            fields.append((field.name, Annotated[field.type, _specification(field.type)], dataclasses.field(**default)))
    for name, settings in groups:
        if _attribute(name) in absent:
            continue
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
    kind = bare(kind)
    if get_origin(kind) in (Union, types.UnionType) and type(None) in get_args(kind):
        return next(argument for argument in get_args(kind) if argument is not type(None))
    return None


def _specification(annotation: Any) -> PrimitiveConstructorSpec[Any]:
    kind = bare(annotation)
    if get_origin(kind) is Literal:
        return _specified(1, "{" + ",".join(get_args(kind)) + "}", lambda words: words[0], get_args(kind))
    if kind is bool:
        return _specified(1, "{on,off}", lambda words: words[0] == "on", ("on", "off"))
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        return _specified("*", f"{_METAVARS[bare(inner)]} …", lambda words: _read_all(inner, words))
    return _specified(1, _METAVARS[kind], lambda words: _read(annotation, words[0]))


def _specified(nargs: Any, metavar: str, read: Any, choices: Any = None) -> PrimitiveConstructorSpec[Any]:
    return PrimitiveConstructorSpec(
        nargs=nargs,
        metavar=metavar,
        instance_from_str=read,
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(value)],
        choices=choices,
    )


_METAVARS = {int: "INT", float: "FLOAT", str: "NAME", Path: "PATH"}


def _read_all(annotation: Any, words: Sequence[str]) -> tuple[Any, ...]:
    try:
        return tuple(_read(annotation, word) for word in words)
    except ValueError as error:
        raise ValueError(f"{error}; the option takes all words that follow it: put RECIPE in front") from None


def _read(annotation: Any, word: str) -> Any:
    kind, allowed = bare(annotation), range_of(annotation)
    if kind is Path:
        return expanded(word)
    try:
        value = kind(word)
    except ValueError:
        raise ValueError(f"expected {_METAVARS[kind]}, got {shortened(word)}") from None
    if allowed is not None and (expected := allowed.refuses(value)):
        raise ValueError(f"expected {expected}, got {shortened(word)}")
    return value
