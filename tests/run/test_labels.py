"""What tells runs apart, in as few words as do."""

from dataclasses import replace

import pytest

from fastkd import recipes
from fastkd.run.labels import differing, flat, labels, settings


def recipe(method="kd", **changes):
    return replace(recipes.digits(method=method), **changes)


def trained(made, **changes):
    stages = [replace(stage, training=replace(stage.training, **changes)) for stage in made.stages]
    return replace(made, stages=tuple(stages))


def with_settings(made, method, **changes):
    student = made.stages[1]
    own = {**student.settings, method: replace(student.settings[method], **changes)}
    return replace(made, stages=(made.stages[0], replace(student, settings=own), *made.stages[2:]))


def named(*made):
    return labels([settings(one) for one in made], [f"runs/{number}" for number in range(len(made))])


class TestSettings:
    def test_they_are_called_as_on_the_command_line(self):
        found = settings(recipe("kd+at"))
        assert (
            found["method"] == "kd+at"
            and found["teacher"] == "wrn_16_2"
            and found["teacher training"] == "sftn"
            and found["student"] == "resnet8"
        )
        assert found["at.weight"] == "1000" and found["sftn.kl_weight"] == "3" and found["augmentation.flip"] == "off"

    def test_what_all_trainings_have_in_common_stands_once(self):
        found = settings(recipe())
        assert found["batch_size"] == "64" and "student batch_size" not in found
        first, *others = recipe().stages
        longer = replace(first, training=replace(first.training, epochs=99))
        found = settings(recipe(stages=(longer, *others)))
        assert found["teacher epochs"] == "99" and "epochs" not in found and found["batch_size"] == "64"

    def test_a_method_from_outside_has_its_short_name(self):
        student = recipe().stages[1]
        outside = replace(student, method="kd+package.module:Mine", settings={"package.module:Mine": {"weight": 2.5}})
        found = settings(recipe(stages=(recipe().stages[0], outside)))
        assert found["method"] == "kd+mine" and found["mine.weight"] == "2.5"

    @pytest.mark.parametrize(
        "value, text", [(True, "on"), (None, "default"), ((1, 2), "1 2"), ((), "none"), (1e-5, "1e-05")]
    )
    def test_values_as_one_writes_them(self, value, text):
        assert flat({"a": {"b": list(value) if isinstance(value, tuple) else value}}) == {"a.b": text}


class TestLabels:
    def test_the_method_says_enough_where_it_differs(self):
        """And AT's settings differ, too: one has none."""
        assert named(recipe("kd"), recipe("kd+at"), recipe("kd+sp")) == ["kd", "kd+at", "kd+sp"]

    def test_one_setting(self):
        made = [with_settings(recipe(), "kd", temperature=value) for value in (2.0, 4.0)]
        assert named(*made) == ["kd.temperature 2", "kd.temperature 4"]
        assert named(*(trained(recipe(), lr=rate) for rate in (0.1, 0.01))) == ["lr 0.1", "lr 0.01"]
        assert named(*(recipe(seed=seed) for seed in (0, 1))) == ["seed 0", "seed 1"]

    def test_the_kind_of_teacher(self):
        standard = recipes.digits(teacher_training="standard")
        assert named(recipe(), standard) == ["sftn teacher", "standard teacher"]

    def test_no_more_words_than_are_needed(self):
        made = [trained(recipe(method), lr=rate) for method, rate in (("kd", 0.1), ("kd", 0.2), ("kd+at", 0.2))]
        assert named(*made) == ["kd, lr 0.1", "kd, lr 0.2", "kd+at"]

    def test_runs_of_one_recipe_are_told_apart_by_their_folders(self):
        assert named(recipe(), recipe()) == ["runs/0", "runs/1"]
        assert named(recipe(), recipe(), recipe("kd+at")) == ["kd (runs/0)", "kd (runs/1)", "kd+at"]

    def test_a_single_run(self):
        assert named(recipe()) == ["runs/0"]


def test_what_only_one_run_has_differs():
    assert differing([{"a": "1", "b": "2"}, {"a": "1"}, {"a": "1", "c": "3"}]) == ["b", "c"]
