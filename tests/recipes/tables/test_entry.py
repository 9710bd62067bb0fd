"""A cell of a paper's table as a command."""

import shlex

import pytest

from fastkd.recipes.recipe import Published
from fastkd.recipes.tables.entry import Entry


def entry(**changes):
    figures = {"student": Published(top1=75.0, source="a table")}
    given = {"paper": "SFTN", "table": "Table 1", "recipe": "cifar100-sftn", "teacher": "vgg13", "student": "vgg8"}
    return Entry(**{**given, "method": "kd", "teacher_training": "sftn", "figures": figures, **changes})


def test_a_pair_and_a_method():
    assert entry().arguments() == ["cifar100-sftn", "--pair", "vgg13/vgg8", "--method", "kd"]


@pytest.mark.parametrize(
    "recipe, training, said", [("cifar100-sftn", "standard", True), ("cifar100-simkd", "standard", False)]
)
def test_the_kind_of_teacher_is_said_where_it_is_not_the_recipes_own(recipe, training, said):
    words = entry(recipe=recipe, teacher_training=training).arguments()
    assert (words[-2:] == ["--teacher-training", "standard"]) == said
    assert ("--teacher-training" in words) == said


def test_without_a_teacher_there_is_no_pair_and_no_kind_of_teacher():
    words = entry(teacher="", teacher_training="standard", method="tfkd_reg").arguments()
    assert words == ["cifar100-sftn", "--student", "vgg8", "--method", "tfkd_reg"]


@pytest.mark.parametrize(
    "value, words",
    [
        (2, ["2"]),
        (2.0, ["2"]),
        (0.95, ["0.95"]),
        (1e-05, ["1e-05"]),
        (True, ["on"]),
        (False, ["off"]),
        ("reverse", ["reverse"]),
        ((1, 3), ["1", "3"]),
        ((True, 0.5), ["on", "0.5"]),
    ],
)
def test_options_are_written_as_the_command_line_reads_them(value, words):
    assert entry(options={"sftn.thing": value}).arguments()[5:] == ["--sftn.thing", *words]


def test_the_command_survives_a_shell():
    """Names of several methods and paths need quotes at times."""
    odd = entry(method="kd+my module:At", options={"data": "imagefolder:/my data/$HOME"})
    assert shlex.split(odd.command()) == odd.arguments()


def test_no_two_entries_share_their_options():
    assert entry().options is not entry().options
