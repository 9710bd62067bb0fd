"""Dataclasses as plain types and back, with the place of every slip."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from fastkd.support.errors import UserError
from fastkd.support.plain import differences, from_plain, to_plain, with_defaults


@dataclass(frozen=True, kw_only=True)
class Part:
    name: str
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Whole:
    count: int
    flag: bool = False
    kind: Literal["one", "two"] = "one"
    limit: int | None = None
    folder: Path | None = None
    sizes: tuple[int, ...] = ()
    mean: tuple[float, float] | None = None
    parts: tuple[Part, ...] = ()
    by_name: dict[str, Part] = field(default_factory=dict)
    anything: Any = None


FULL = Whole(
    count=3,
    flag=True,
    kind="two",
    limit=5,
    folder=Path("/data/x"),
    sizes=(1, 2),
    mean=(0.5, 0.25),
    parts=(Part(name="a"), Part(name="b", weight=2.0)),
    by_name={"c": Part(name="c")},
    anything={"deep": [1, None]},
)


@pytest.mark.parametrize("value", (FULL, Whole(count=0)))
def test_what_goes_through_a_file_comes_back_equal(value):
    assert from_plain(Whole, json.loads(json.dumps(to_plain(value))), "here") == value


def test_plain_are_dictionaries_lists_and_strings():
    plain = to_plain(FULL)
    assert plain["parts"] == [{"name": "a", "weight": 1.0}, {"name": "b", "weight": 2.0}]
    assert plain["folder"] == "/data/x" and plain["sizes"] == [1, 2]
    assert to_plain({"x": (Path("y"), None)}) == {"x": ["y", None]}
    assert to_plain(Part) is Part, "a class is no value of it"


def test_what_is_missing_has_its_default():
    assert from_plain(Whole, {"count": 1}, "here") == Whole(count=1)


def test_a_whole_number_will_do_for_a_float_but_is_one_afterwards():
    read = from_plain(Part, {"name": "a", "weight": 2}, "here")
    assert read.weight == 2.0 and isinstance(read.weight, float)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"count": 2.0}, "here.count is 2.0, expected int"),
        ({"count": True}, "here.count is True, expected int"),
        ({"count": None}, "here.count is None, expected int"),
        ({"count": "3"}, "here.count is '3', expected int"),
        ({"flag": 1}, "here.flag is 1, expected bool"),
        ({"kind": "three"}, "here.kind is 'three', expected one of 'one', 'two'"),
        ({"kind": None}, "here.kind is None, expected one of 'one', 'two'"),
        ({"limit": "many"}, "here.limit is 'many', expected int"),
        ({"folder": 3}, "here.folder is 3, expected str"),
        ({"sizes": 3}, "here.sizes is 3, expected a list"),
        ({"sizes": "12"}, "here.sizes is '12', expected a list"),
        ({"sizes": [1, None]}, "here.sizes[1] is None, expected int"),
        ({"mean": [0.5]}, "here.mean has 1 entries, expected 2"),
        ({"mean": [0.5, True]}, "here.mean[1] is True, expected float"),
        ({"parts": [{"name": "a"}, 5]}, "here.parts[1] is 5, expected a dictionary"),
        ({"parts": [{"weight": 1.0}]}, "here.parts[0] lacks the entry 'name'"),
        (
            {"parts": [{"name": "a", "wieght": 1}]},
            "here.parts[0] has an unknown entry 'wieght'; did you mean 'weight'?",
        ),
        ({"by_name": []}, "here.by_name is [], expected a dictionary"),
        ({"by_name": {"c": {"name": 1}}}, "here.by_name.c.name is 1, expected str"),
        ({"counts": 1}, "here has an unknown entry 'counts'; did you mean 'count'?"),
    ],
    ids=str,
)
def test_a_slip_is_one_line_with_its_place(change, words):
    with pytest.raises(UserError) as raised:
        from_plain(Whole, {"count": 1, **change}, "here")
    assert str(raised.value) == words


@pytest.mark.parametrize("value", (None, [], "x", 3))
def test_what_is_no_dictionary_is_said_to_be_none(value):
    with pytest.raises(UserError, match="^here is .*, expected a dictionary$"):
        from_plain(Whole, value, "here")


class TestDifferences:
    @pytest.mark.parametrize("value", (None, {}, [], {"a": [1, {"b": None}]}))
    def test_equal_values_have_none(self, value):
        assert differences(value, json.loads(json.dumps(value))) == []

    @pytest.mark.parametrize(
        "before, after, expected",
        [
            (1, 2, [("", 1, 2)]),
            ({"a": 1}, {"a": 2}, [("a", 1, 2)]),
            ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, [("a.b[1]", 2, 3)]),
            ({"a": 1}, {}, [("a", 1, None)]),
            ({}, {"a": 1}, [("a", None, 1)]),
            ({"a": [1]}, {"a": [1, 2]}, [("a", [1], [1, 2])]),
            ({"a": [1]}, {"a": {"b": 1}}, [("a", [1], {"b": 1})]),
            ([{"n": 1}, {"n": 2}], [{"n": 0}, {"n": 3}], [("[0].n", 1, 0), ("[1].n", 2, 3)]),
        ],
    )
    def test_each_has_its_place_and_both_values(self, before, after, expected):
        assert differences(before, after) == expected

    def test_they_stand_in_the_order_of_the_file_and_what_is_new_at_its_end(self):
        found = differences({"z": 1, "a": 1}, {"new": 1, "a": 2, "z": 2})
        assert [place for place, *_ in found] == ["z", "a", "new"]

    def test_an_entry_that_is_none_is_as_one_that_is_not_there(self):
        """A recipe may be older than a field whose default is None."""
        assert differences({}, {"limit": None}) == []


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    points: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    by_method: dict[str, Inner] = field(default_factory=dict)


@pytest.mark.parametrize(
    "plain, filled",
    [
        ({"name": "a"}, {"name": "a", "inner": {"rate": 0.5, "points": [1, 2]}, "by_method": {}}),
        ({"inner": {"rate": 2.0}, "by_method": {}}, {"inner": {"rate": 2.0, "points": [1, 2]}, "by_method": {}}),
        (
            {"inner": None, "by_method": {"kd": {"points": []}}},
            {"inner": None, "by_method": {"kd": {"points": [], "rate": 0.5}}},
        ),
        ({"inner": 3, "by_method": {"gone": {}}}, {"inner": 3, "by_method": {"gone": {}}}),
        ("words", "words"),
    ],
    ids=str,
)
def test_what_a_plain_value_lacks_gets_its_default(plain, filled):
    assert with_defaults(plain, Outer("b", Inner(9.0), {"kd": Inner()})) == filled
    assert with_defaults([plain], [Outer("b", by_method={"kd": Inner()})]) == [filled]
