"""The hint behind a name that is not known."""

import pytest

from fastkd.support.errors import UserError, nearest

NETWORKS = ("resnet8", "resnet8x4", "ResNet18", "vgg8")


@pytest.mark.parametrize(
    "name, words",
    [
        ("resnet8x", "; did you mean 'resnet8x4' or 'resnet8'"),
        ("RESNET18", "; did you mean 'ResNet18'"),
        ("vgg9", "; did you mean 'vgg8'?"),
    ],
)
def test_near_names_are_offered_as_they_are_written_nearest_first(name, words):
    assert nearest(name, NETWORKS).startswith(words)


def test_at_most_three_are_offered():
    assert nearest("resnet1", [f"resnet{number}" for number in range(10, 60)]).count("'") == 6


def test_where_nothing_is_near_all_that_are_known_stand_there_in_order():
    assert nearest("transformer", NETWORKS) == "; known: ResNet18, resnet8, resnet8x4, vgg8"


def test_a_generator_and_an_empty_table_will_do():
    assert nearest("vgg", (name for name in NETWORKS)) == "; did you mean 'vgg8'?"
    assert nearest("vgg", ()) == "; known: "


def test_a_mistake_of_a_user_is_a_value_error_to_other_projects():
    assert issubclass(UserError, ValueError) and str(UserError("no such thing")) == "no such thing"
