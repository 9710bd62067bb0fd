"""What a field of a settings dataclass says of itself."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated

import pytest

from fastkd.support.fields import OnlyWith, fixed, given, group, group_prefix, idle, is_fixed, is_rare, rare


@dataclass(frozen=True, kw_only=True)
class Inner:
    weight: float | None = None
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class Settings:
    needed: str = fixed()
    decided: int | None = fixed(None)
    several: list[int] = fixed(factory=list)
    option: int = 1
    plainly: Inner = group()
    prefixed: Inner = group("inner", rare=True)
    seldom: bool = rare(False)


FIELDS = {field.name: field for field in dataclasses.fields(Settings)}


def test_fixed_fields_are_told_from_options():
    assert [name for name, field in FIELDS.items() if is_fixed(field)] == ["needed", "decided", "several"]


def test_a_fixed_field_without_a_default_has_to_be_given():
    with pytest.raises(TypeError, match="needed"):
        Settings()
    assert Settings(needed="x").decided is None


def test_a_factory_makes_a_value_for_each():
    one, other = Settings(needed="x"), Settings(needed="x")
    assert one.several == [] and one.several is not other.several


def test_a_group_without_a_prefix_is_a_group_all_the_same():
    assert {name: group_prefix(field) for name, field in FIELDS.items() if group_prefix(field) is not None} == {
        "plainly": "",
        "prefixed": "inner",
    }


def test_what_is_rare_is_told_from_the_rest_and_has_its_default():
    assert [name for name, field in FIELDS.items() if is_rare(field)] == ["prefixed", "seldom"]
    assert Settings(needed="x").seldom is False


def test_given_is_what_is_not_none_also_where_it_is_nothing():
    assert given(Inner()) == {}
    assert given(Inner(weight=0.0, name="")) == {"weight": 0.0, "name": ""}


@dataclass(frozen=True, kw_only=True)
class Dependent:
    form: str = "kernel"
    epochs: int = 0
    order: Annotated[int, OnlyWith("form", "kernel")] = 2
    lr: Annotated[float | None, OnlyWith("epochs"), OnlyWith("form", "kernel")] = None


@pytest.mark.parametrize(
    "settings, names, words",
    [
        (Dependent(), ["form", "epochs", "order"], None),
        (Dependent(form="other"), ["form", "order"], ("order", "--form kernel")),
        (Dependent(), ["order", "lr"], ("lr", "--epochs above 0")),
        (Dependent(epochs=1), ["lr"], None),
        (Dependent(epochs=1, form="other"), ["lr"], ("lr", "--form kernel")),
    ],
)
def test_a_setting_may_mean_something_only_beside_another(settings, names, words):
    found = idle(settings, names)
    assert (found and (found[0], found[1].words())) == words
