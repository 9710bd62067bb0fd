"""A walk over every field of every settings dataclass: what it may be is declared there, and held to everywhere."""

import dataclasses
import json
import math
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest

from fastkd import options, reproduce
from fastkd.data import Augmentation, Reading
from fastkd.data.__main__ import Options as InspectOptions
from fastkd.methods import METHODS
from fastkd.options import parse
from fastkd.recipes import RECIPES
from fastkd.recipes.choice import Choice
from fastkd.recipes.recipe import GTNSettings, OwnImages, Published, Recipe, SFTNSettings, StageRecipe
from fastkd.run.beginnings import Beginnings
from fastkd.stored import Storing
from fastkd.support.command_line import option_names, read_options
from fastkd.support.errors import UserError
from fastkd.support.plain import Checked, from_plain, to_plain
from fastkd.support.ranges import Range, bare, range_of
from fastkd.synthesis.settings import SynthesisSettings
from fastkd.training.execution import Execution
from fastkd.training.optimisation import Training

NEEDED: dict[type[Any], dict[str, Any]] = {
    Training: {"epochs": 5},
    Recipe: {"name": "digits", "data": "digits", "stages": (), "image_size": 8},
    StageRecipe: {"name": "teacher", "role": "teacher", "network": "resnet8"},
    SFTNSettings: {"network": "resnet8"},
    OwnImages: {"image_size": 8},
    SynthesisSettings: {"kind": "cmi"},
    Published: {"top1": 70.0, "source": "a table"},
    Choice: {"data": "digits", "teacher_net": "resnet8", "student": "resnet8", "method": "kd"},
}
OF_METHODS = {method.Settings: name for name, method in METHODS.items()}
SETTINGS = [*NEEDED, GTNSettings, Augmentation, Reading, Execution, Storing, Beginnings, *OF_METHODS]
COMMANDS = [options.Options, reproduce.Options, InspectOptions]

NONSENSE = {
    "not a number": math.nan,
    "infinite": math.inf,
    "infinite below": -math.inf,
    "beyond float32": 1e39,
    "beyond float64": 10**400,
    "beyond what Python writes": 10**5000,
    "beyond 64 bits": 10**20,
    "below 64 bits": -(10**20),
    "too small for float32": 1e-320,
    "negative": -1,
    "negative and small": -1e-30,
    "a truth": True,
    "words": "many",
    "nothing at all": "",
    "a list": [0.5, "x"],
    "an object": {"a": 1},
    "a complex number": 1j,
}


def by_name(kind: type[Any]) -> str:
    return f"{kind.__module__}.{kind.__name__}"


def fields(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def numbers(annotation: Any) -> list[Any]:
    """The annotations of all numbers in an annotation, with their metadata."""
    if bare(annotation) in (int, float):
        return [annotation]
    found = get_args(bare(annotation) if get_origin(annotation) is Annotated else annotation)
    return [one for part in found if part is not Ellipsis for one in numbers(part)]


def may_be(annotation: Any, value: Any) -> bool:
    """Whether a value is what the annotation says: a second reading of the declarations, to compare with."""
    kind, allowed = bare(annotation), range_of(annotation)
    if get_origin(kind) in (Union, types.UnionType):
        return any(may_be(part, value) for part in get_args(kind))
    if kind in (int, float):
        inside = type(value) is int or (kind is float and type(value) is float and math.isfinite(value))
        if not inside or abs(value) > 1e300 or not allowed.holds(value):
            return False
        return allowed.whole or value == 0 or 1.2e-38 <= abs(value) <= 3.4e38
    return False  # others are the business of tests/support/test_plain.py


def mistakes(make, where: str) -> str | None:
    """The line that somebody gets who makes it; None where nothing is wrong."""
    try:
        make()
    except UserError as error:
        line = str(error)
        assert "\n" not in line and len(line) < 400, line
        return line
    return None


@pytest.mark.parametrize("kind", [*SETTINGS, *COMMANDS], ids=by_name)
def test_every_number_declares_its_range(kind):
    for name, annotation in fields(kind).items():
        for number in numbers(annotation):
            declared = [one for one in getattr(number, "__metadata__", ()) if isinstance(one, Range)]
            assert declared, f"{by_name(kind)}.{name} says nothing of its range"


def test_every_settings_class_is_checked_and_in_this_walk():
    for kind in SETTINGS:
        assert issubclass(kind, Checked), by_name(kind)
        own = vars(kind).get("__post_init__")
        assert own is None or "super().__post_init__" in Path(own.__code__.co_filename).read_text(), by_name(kind)
    known = {one for kind in (Checked, *Checked.__subclasses__()) for one in kind.__subclasses__()}
    of_tables = "fastkd.recipes.findings"  # a table of ours names them, tests/recipes/test_findings.py walks them
    ours = {kind for kind in known if kind.__module__.startswith("fastkd") and kind.__module__ != of_tables}
    assert ours <= set(SETTINGS)


@pytest.mark.parametrize("kind", SETTINGS, ids=by_name)
def test_nonsense_is_refused_by_the_class_and_in_a_file(kind):
    usual = kind(**NEEDED.get(kind, {}))
    for name, annotation in fields(kind).items():
        if not numbers(annotation):
            continue
        many = get_origin(bare(annotation)) is tuple
        for words, value in NONSENSE.items():
            given = (value,) if many else value
            said = mistakes(lambda name=name, given=given: dataclasses.replace(usual, **{name: given}), words)
            in_file = to_plain(usual) | {name: [value] if many else value}
            read = mistakes(lambda in_file=in_file: from_plain(kind, in_file, "a.json"), words)
            fitting = not many and may_be(annotation, value)
            assert said is None or name in said or name.replace("_", "-") in said, (name, words, said)
            assert (said is None) == fitting or (fitting and "expected" not in said), (name, words, said)
            assert read is None or name in read or name.replace("_", "-") in read, (name, words, read)
            assert (read is None) == (said is None), (name, words, said, read)


def spoken() -> list[tuple[str, Any]]:
    """(option, annotation) of every number that `fastkd.train` reads, those of all methods among them."""
    found = []
    for field in dataclasses.fields(options.Options):
        if dataclasses.is_dataclass(field.type):
            known = {SFTNSettings: "sftn.", GTNSettings: "gtn.", SynthesisSettings: "synthesis."}
            prefix = known.get(field.type, "")
            found += [(prefix + name, kind) for name, kind in fields(field.type).items()]
        else:
            found.append((field.name, fields(options.Options)[field.name]))
    names = set(option_names(options.Options))
    found = [(name.replace("_", "-"), kind) for name, kind in found if name.replace("_", "-") in names]
    for kind, method in OF_METHODS.items():
        found += [(f"{method}.{name.replace('_', '-')}", annotation) for name, annotation in fields(kind).items()]
    return [(name, kind) for name, kind in found if numbers(kind)]


WORDS = ("nan", "inf", "-inf", "1e39", "1e999", "9" * 21, "-" + "9" * 21, "9" * 5000, "1e-320", "-1", "many", "1j")


def refuses_on_the_command_line(option: str, annotation: Any, words: Sequence[str]) -> None:
    prefix = option.partition(".")[0] if "." in option else ""
    method = ["--method", "aekd+aekd_f" if prefix == "aekd_f" else prefix] if prefix in METHODS else []
    number = numbers(annotation)[0]
    for word in words:
        said = mistakes(lambda word=word: parse([*method, f"--{option}={word}"]), word)
        try:
            fitting = may_be(number, bare(number)(word))
        except ValueError:
            fitting = False
        assert (said is None) == fitting, (word, said)
        assert said is None or f"--{option}: expected " in said.replace("-f.", "_f.").replace("tfkd-", "tfkd_"), said


SPOKEN = spoken()


@pytest.mark.parametrize("first", range(len(WORDS)))
def test_nonsense_is_refused_on_the_command_line(first):
    """Every word with some of the options, every option with one word."""
    for place in range(first, len(SPOKEN), len(WORDS)):
        refuses_on_the_command_line(*SPOKEN[place], [WORDS[first]])


@pytest.mark.slow
@pytest.mark.parametrize("option, annotation", SPOKEN, ids=lambda value: value if isinstance(value, str) else "")
def test_every_nonsense_is_refused_on_the_command_line(option, annotation):
    refuses_on_the_command_line(option, annotation, WORDS)


@pytest.mark.parametrize("kind", (reproduce.Options, InspectOptions), ids=by_name)
def test_nonsense_is_refused_by_the_other_commands(kind):
    for name, annotation in fields(kind).items():
        for word in WORDS if numbers(annotation) else ():
            option = f"--{name.replace('_', '-')}"
            line = ["digits", f"{option}={word}"]
            said = mistakes(lambda line=line: read_options(kind, line, program="it"), word)
            assert said is not None and f"{option}: expected " in said, (word, said)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_in_its_own_ranges(recipe):
    made = RECIPES[recipe]()
    assert from_plain(Recipe, json.loads(json.dumps(to_plain(made))), "here").name == made.name
