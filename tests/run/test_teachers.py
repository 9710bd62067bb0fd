"""Teachers that are given instead of trained."""

from dataclasses import replace

import pytest
import torch
from helpers.courses import taught_recipe
from helpers.tiny import tiny_recipe

from fastkd import networks
from fastkd.run.teachers import with_loaded_teacher, with_more_teachers
from fastkd.run.weights import Description, WeightsFiles, save_network
from fastkd.support import files
from fastkd.support.errors import UserError


def save(path, network="resnet14"):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_network(path, networks.build(network, num_classes=10), Description(network, 10, 8))
    return path


@pytest.fixture
def ours(tmp_path):
    """A weights file that says what it holds."""
    return save(tmp_path / "ours.safetensors")


@pytest.fixture
def foreign(tmp_path):
    """A weights file of another program."""
    torch.save({"model": {}}, tmp_path / "foreign.pt")
    return tmp_path / "foreign.pt"


def loaded(recipe, spec, network=None):
    return with_loaded_teacher(recipe, str(spec), network, WeightsFiles())


def more(recipe, *specs, network=None):
    return with_more_teachers(recipe, tuple(map(str, specs)), network, WeightsFiles())


class TestTheTeacher:
    def test_it_is_what_the_file_says_and_nothing_trains_it(self, ours):
        before = tiny_recipe()
        teacher, *others = loaded(before, ours).stages
        assert (teacher.name, teacher.role, teacher.network) == ("teacher", "teacher", "resnet14")
        assert teacher.training is None and teacher.sftn is None
        assert (teacher.file, teacher.sha256) == (str(ours), files.sha256(ours))
        assert tuple(others) == before.stages[1:]

    def test_a_run_is_its_teacher_and_an_epoch_is_kept_weights(self, tmp_path):
        last = save(tmp_path / "run" / "teacher.safetensors")
        kept = save(tmp_path / "run" / "checkpoints" / "teacher@60.safetensors", "resnet8")
        for spec, file in ((last.parent, last), (f"{last.parent}@60", kept)):
            assert loaded(tiny_recipe(), spec).stages[0].file == str(file)

    def test_the_recipe_holds_an_absolute_path(self, ours, monkeypatch):
        """A run is resumed from wherever one stands."""
        monkeypatch.chdir(ours.parent)
        assert loaded(tiny_recipe(), ours.name).stages[0].file == str(ours)

    def test_a_name_that_agrees_with_the_file_is_welcome_and_another_is_refused(self, ours):
        assert loaded(tiny_recipe(), ours, "resnet14") == loaded(tiny_recipe(), ours)
        with pytest.raises(UserError, match=r"ours\.safetensors holds a resnet14, --teacher-net says resnet20$"):
            loaded(tiny_recipe(), ours, "resnet20")

    def test_a_file_that_does_not_say_needs_the_name(self, foreign):
        assert loaded(tiny_recipe(), foreign, "resnet20").stages[0].network == "resnet20"
        with pytest.raises(UserError, match=r"foreign\.pt does not say which network it holds: give --teacher-net$"):
            loaded(tiny_recipe(), foreign)

    def test_of_several_teachers_the_first_is_replaced(self, ours):
        stages = loaded(taught_recipe("aveg", 2), ours).stages
        assert [(stage.name, stage.training is None) for stage in stages] == [
            ("teacher", True),
            ("teacher-2", False),
            ("student", False),
        ]


class TestMoreTeachers:
    def test_they_stand_behind_the_first_and_the_student_learns_from_all(self, ours, foreign):
        recipe = more(tiny_recipe(), ours, foreign, network="resnet20")
        assert [stage.name for stage in recipe.stages] == ["teacher", "teacher-2", "teacher-3", "student", "control"]
        assert [stage.network for stage in recipe.stages[1:3]] == ["resnet14", "resnet20"]
        assert recipe.stages[3].teachers == ("teacher", "teacher-2", "teacher-3")
        assert recipe.stages[4].teachers == ()
        assert {stage.role for stage in recipe.stages[:3]} == {"teacher"}

    def test_that_is_a_deviation_from_any_paper(self, ours):
        recipe = replace(tiny_recipe(), deviations=("other data",))
        assert more(recipe, ours).deviations == ("other data", "2 teachers instead of one")

    def test_without_more_the_recipe_is_as_it_was(self):
        recipe = tiny_recipe()
        assert more(recipe) is recipe

    def test_a_file_that_does_not_say_needs_the_name(self, foreign):
        with pytest.raises(UserError, match=r"foreign\.pt does not say which network it holds"):
            more(tiny_recipe(), foreign)


def test_a_file_that_is_given_twice_is_read_once(ours):
    read = WeightsFiles()
    recipe = with_loaded_teacher(tiny_recipe(), str(ours), None, read)
    save(ours, "resnet8")  # somebody writes over it in between
    again = with_more_teachers(recipe, (str(ours),), None, read)
    assert again.stages[1].sha256 == again.stages[0].sha256 != files.sha256(ours)
