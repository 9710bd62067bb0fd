"""The stages that follow from a recipe's methods."""

from dataclasses import replace

import pytest
from helpers.courses import prestage_recipe, taught_recipe
from helpers.tiny import tiny_recipe

from fastkd.methods import import_method
from fastkd.recipes.course import course, kept_epochs, learning_together, passing_on
from fastkd.support.errors import UserError


def loaded(stage):
    return replace(stage, training=None, file="teacher.pt", sha256="abc")


def kinds(planned):
    return {stage.name: stage.kind for stage in planned}


class TestWithoutMore:
    def test_a_recipes_stages_are_carried_out_as_they_stand_there(self):
        recipe = tiny_recipe()
        planned = course(recipe)
        assert kinds(planned) == {"teacher": "student_aware", "student": "distill", "control": "supervised"}
        for stage, own in zip(planned, recipe.stages, strict=True):
            assert (stage.role, stage.network, stage.training) == (own.role, own.network, own.training)
        assert planned[0].sftn == recipe.stages[0].sftn
        assert (planned[1].teachers, planned[1].after) == (("teacher",), ())

    def test_a_teacher_that_is_not_trained_is_loaded(self):
        recipe = taught_recipe("kd")
        teacher, _ = course(replace(recipe, stages=(loaded(recipe.stages[0]), recipe.stages[1])))
        assert (teacher.kind, teacher.file, teacher.sha256) == ("loaded", "teacher.pt", "abc")

    def test_a_method_without_teachers_is_a_distillation_too(self):
        (student,) = course(replace(taught_recipe("ls"), stages=(replace(taught_recipe("ls").stages[1], teachers=()),)))
        assert student.kind == "distill" and student.teachers == ()

    def test_nothing_is_kept_or_passed_on_for_it(self):
        planned = course(tiny_recipe())
        assert passing_on(planned) == set() and kept_epochs(planned, "teacher") == set()
        assert learning_together(tiny_recipe()) == set()


class TestPrestages:
    def test_each_passes_on_what_it_trained(self):
        planned = course(prestage_recipe("kd+ft+sskd"))
        assert list(kinds(planned).values()) == ["supervised", "prestage", "prestage", "distill"]
        assert passing_on(planned) == {"student-ft", "student-sskd"}

    def test_a_method_of_somebody_elses_is_named_by_its_class(self, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "somebodys_method.py").write_text("from fastkd.methods.ft import FT\n\n\nclass Ours(FT): pass\n")
        import_method("somebodys_method:Ours")
        (_, before, student) = course(prestage_recipe("kd+somebodys_method:Ours"))
        assert (before.name, student.after) == ("student-ours", ("student-ours",))


class TestPeers:
    def test_teachers_that_learn_with_the_student_have_no_stage_of_their_own(self):
        (planned,) = course(taught_recipe("kdcl", 2))
        assert (planned.kind, planned.name, planned.role) == ("mutual", "student", "student")
        assert [(peer.name, peer.network) for peer in planned.peers] == [
            ("teacher", "resnet8"),
            ("teacher-2", "resnet8"),
        ]
        assert learning_together(taught_recipe("kdcl", 2)) == {"teacher", "teacher-2"}

    def test_each_keeps_its_own_learning_rate(self):
        given = taught_recipe("kdcl", 2)
        slow = replace(given.stages[0], training=replace(given.stages[0].training, lr=0.01))
        (planned,) = course(replace(given, stages=(slow, *given.stages[1:])))
        assert [peer.lr_factor for peer in planned.peers] == [pytest.approx(0.2), 1.0]

    def test_a_loaded_teacher_does_not_learn(self):
        given = taught_recipe("dml")
        with pytest.raises(UserError, match="dml trains all its networks together: the teacher cannot be loaded"):
            course(replace(given, stages=(loaded(given.stages[0]), given.stages[1])))


class TestWaypoints:
    def test_one_training_goes_by_equally_spaced_epochs_of_the_teacher(self):
        planned = course(taught_recipe("rco", epochs=4, anchors=4))
        assert planned[-1].teachers == ("teacher@1", "teacher@2", "teacher@3", "teacher")
        assert kept_epochs(planned, "teacher") == {1, 2, 3} and kept_epochs(planned, "student") == set()

    @pytest.mark.parametrize(
        "epochs, anchors, kept", [(10, 4, {2, 5, 8}), (7, 2, {4}), (5, 5, {1, 2, 3, 4}), (5, 1, set())]
    )
    def test_epochs_that_do_not_divide_are_rounded(self, epochs, anchors, kept):
        planned = course(taught_recipe("rco", epochs=epochs, anchors=anchors))
        assert kept_epochs(planned, "teacher") == kept and planned[-1].teachers[-1] == "teacher"

    @pytest.mark.parametrize("restart", (False, True))
    def test_the_tenth_comes_behind_the_ninth(self, restart):
        planned = course(taught_recipe("rco", epochs=12, anchors=12, restart=restart))
        teachers = [name for stage in planned[1:] for name in stage.teachers]
        assert teachers == [*(f"teacher@{epoch}" for epoch in range(1, 12)), "teacher"]
        names = [*(f"student-{number}" for number in range(1, 12)), "student"]
        assert [stage.name for stage in planned[1:]] == (names if restart else ["student"])

    def test_with_restarts_each_has_a_training_that_goes_on_with_the_last_ones_weights(self):
        planned = course(taught_recipe("rco", epochs=4, anchors=3, restart=True))
        assert [(stage.name, stage.teachers, stage.after) for stage in planned[1:]] == [
            ("student-1", ("teacher@1",), ()),
            ("student-2", ("teacher@3",), ("student-1",)),
            ("student", ("teacher",), ("student-2",)),
        ]
        assert passing_on(planned) == {"student-1", "student-2"}

    def test_several_teachers_are_the_points_themselves(self):
        planned = course(taught_recipe("rco", 3))
        assert planned[-1].teachers == ("teacher", "teacher-2", "teacher-3")
        assert kept_epochs(planned, "teacher") == set()

    @pytest.mark.parametrize(
        "change, words",
        [
            ({"anchors": 3}, "the teacher's 2 epochs cannot be divided into 3 anchors"),
            ({"anchors": 0}, "RCOSettings.anchors is 0, expected a whole number from 1 to 1,000"),
        ],
    )
    def test_too_many_or_none(self, change, words):
        with pytest.raises(UserError, match=words):
            course(taught_recipe("rco", **change))

    def test_a_teacher_that_is_loaded_has_no_past(self):
        given = taught_recipe("rco")
        with pytest.raises(UserError, match="rco follows the teacher's training: give each point"):
            course(replace(given, stages=(loaded(given.stages[0]), given.stages[1])))
