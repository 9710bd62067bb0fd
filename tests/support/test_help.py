"""What --help prints, made of the dataclasses that the options are."""

from dataclasses import dataclass, field, make_dataclass

import pytest
from helpers.commands import command

from fastkd import evaluate, options, report, reproduce
from fastkd.data.__main__ import Options as InspectOptions
from fastkd.methods import METHODS
from fastkd.support.fields import group, rare
from fastkd.support.help import Section, columns, docstrings, page, sections

WIDTHS = (60, 80, 100, 120)


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5
    """How fast, in
    units."""
    undocumented: bool = False


@dataclass(frozen=True, kw_only=True)
class Outer:
    """What it is."""

    first: str = "x"
    """The first."""
    quiet: bool = False
    """Says nothing."""
    loud: bool = True
    odd: bool = rare(False)
    """Seldom."""
    inner: Inner = group()
    """How it goes."""
    rare: Inner = group("rare", rare=True)
    """What nobody asks for."""


def metavar(option, of_recipe):
    return "" if option.type is bool and not of_recipe else option.type.__name__.upper()


def entries(found: list[Section]) -> dict[str, list[tuple[str, str]]]:
    return {section.title: [tuple(entry) for entry in section.entries] for section in found}


class TestSections:
    def test_groups_have_their_docstring_as_title_and_options_theirs_as_text(self):
        found = sections(Outer, {"kd": Inner}, metavar, {"inner": Inner(rate=2.0), "kd": Inner(undocumented=True)})
        assert entries(found) == {
            "Options": [("--first STR", "The first. [x]"), ("--quiet", "Says nothing."), ("--loud, --no-loud", "[on]")],
            "For special cases": [("--odd", "Seldom.")],
            "How it goes": [("--rate FLOAT", "How fast, in units. [2]"), ("--undocumented BOOL", "[off]")],
            "What nobody asks for": [("--rare.rate FLOAT", "How fast, in units."), ("--rare.undocumented BOOL", "")],
            "Settings of the method kd": [
                ("--kd.rate FLOAT", "How fast, in units. [0.5]"),
                ("--kd.undocumented BOOL", "[on]"),
            ],
        }

    def test_a_class_without_source_has_no_texts(self):
        """A program may make settings as it goes."""
        made = make_dataclass("Made", [("x", int, field(default=1))], frozen=True)
        assert docstrings(made) == {}

    def test_inherited_fields_have_their_texts(self):
        @dataclass(frozen=True, kw_only=True)
        class Derived(Inner):
            other: int = 1
            """Another."""

        assert docstrings(Derived) == {"rate": "How fast, in units.", "other": "Another."}


class TestPage:
    @pytest.mark.parametrize("width", WIDTHS)
    def test_no_line_is_wider_than_the_terminal(self, width, monkeypatch):
        monkeypatch.setenv("COLUMNS", str(width))
        found = sections(options.Options, {}, lambda option, of_recipe: "{one,two}", {})
        shown = page("it", "Words. " * 40 + "\n\nList:\n  " + "item " * 40, found)
        assert max(map(len, shown.splitlines())) <= width

    def test_what_is_rare_is_named_and_no_more(self):
        found = sections(Outer, {}, metavar, {})
        short, whole = (page("it", "Does it.", found, whole=whole) for whole in (False, True))
        assert "For special cases: --odd" in short and "Seldom." in whole
        assert "What nobody asks for: --rare.rate --rare.undocumented" in short and "--help-all" in short
        assert "--rare.rate FLOAT" in whole and "--help-all" not in whole and len(short) < len(whole) + 80

    def test_names_with_their_words_fill_the_width(self, monkeypatch):
        monkeypatch.setenv("COLUMNS", "50")
        rows = {name: f"words of {name}" for name in ("a", "bb", "c", "d")}
        assert columns(rows).splitlines() == ["  a   words of a   c   words of c", "  bb  words of bb  d   words of d"]
        monkeypatch.setenv("COLUMNS", "120")
        assert len(columns(rows).splitlines()) == 1


KINDS = (options.Options, evaluate.Options, report.Options, reproduce.Options, InspectOptions)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__module__)
def test_every_option_of_every_command_says_what_it_does(kind):
    found = sections(kind, {}, lambda option, of_recipe: "", {})
    silent = [entry.name for section in found for entry in section.entries if not entry.text.strip(" []on")]
    assert set(silent) <= {"--optimizer"}, "its values say it"


def test_the_help_of_a_training_is_short_and_has_a_word_on_every_method():
    done = command("fastkd.train", "--help", env={"COLUMNS": "100", "PATH": "/usr/bin", "OMP_NUM_THREADS": "1"})
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) < 165
    assert (
        "python -m fastkd.train cifar100-sftn" in done.stdout and "usage: python -m fastkd.train [RECIPE]" in lines[0]
    )
    for title in ("Examples:", "Recipes:", "What is trained:", "How it is trained:", "Settings of the method kd:"):
        assert title in lines
    for name, method in METHODS.items():
        assert 3 < len(method.about) <= 36 and f"{name:<11}{method.about}" in done.stdout, name
    assert "Learning rate of every stage, for the whole batch. [0.05]" in done.stdout, "the value of digits"
