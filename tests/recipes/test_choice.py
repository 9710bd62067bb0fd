"""What is trained: the stages that follow from networks and a method."""

import pytest

from fastkd.methods.at import ATSettings
from fastkd.methods.kd import KDSettings
from fastkd.recipes import RECIPES, cifar100_sftn
from fastkd.recipes.choice import Choice, joined_with_kd, method_settings, stages_of
from fastkd.support.errors import UserError
from fastkd.training.optimisation import Training

TEACHERS, STUDENTS = Training(epochs=4, lr=0.1), Training(epochs=2, lr=0.2)


def stages(given=None, kl_weight=3.0, **chosen):
    choice = Choice(**{"data": "digits", "teacher_net": "wrn_16_2", "student": "resnet8", "method": "kd", **chosen})
    return {stage.name: stage for stage in stages_of(choice, TEACHERS, STUDENTS, given or {}, kl_weight=kl_weight)}


class TestJoinedWithKD:
    @pytest.mark.parametrize(
        "method, those, expected",
        [
            ("at", None, "kd+at"),
            ("at", ("at",), "kd+at"),
            ("at", ("sp",), "at"),
            ("at+sp", ("at", "sp"), "kd+at+sp"),
            ("at+crd", ("at", "sp"), "at+crd"),
            ("at", (), "at"),
            ("kd", None, "kd"),
            ("kd+at", None, "kd+at"),
            ("ce", None, "ce"),
            ("ce+at", None, "ce+at"),
            ("dkd", None, "dkd"),
            ("none+fitnet", None, "none+fitnet"),
            ("dml", None, "dml"),
        ],
    )
    def test_it_goes_with_those_that_have_no_logit_method(self, method, those, expected):
        assert joined_with_kd(method, those) == expected

    def test_it_goes_with_the_methods_that_the_papers_join_it_to(self):
        methods = {
            ("cifar100-sftn", "at"): "kd+at",
            ("cifar100-sftn", "crd"): "crd",
            ("cifar100-sftn", "sskd"): "kd+sskd",
            ("cifar100-sftn", "ce+at"): "ce+at",
            ("cifar100-simkd", "crd"): "kd+crd",
            ("cifar100-simkd", "simkd"): "simkd",
            ("digits", "at"): "at",
        }
        for (recipe, method), expected in methods.items():
            assert RECIPES[recipe](method=method).stages[1].method == expected
        assert cifar100_sftn(method="at").stages[1].settings["kd"].ce_weight == 1.0
        assert cifar100_sftn(method="sskd").stages[1].settings["kd"].ce_weight == 0.1

    def test_a_method_that_there_is_not_is_named(self):
        with pytest.raises(UserError, match="no method 'att'; did you mean 'at'"):
            joined_with_kd("att")


class TestSettings:
    def test_what_is_not_given_has_the_methods_own_defaults(self):
        given = KDSettings(temperature=9.0)
        assert method_settings("kd+at", {"kd": given, "sp": None}) == {"kd": given, "at": ATSettings()}

    def test_the_cross_entropy_that_joins_by_itself_has_settings_too(self):
        assert list(method_settings("at", {})) == ["ce", "at"]


class TestStages:
    def test_a_plain_teacher_and_a_student(self):
        found = stages()
        assert list(found) == ["teacher", "student"]
        assert [stage.role for stage in found.values()] == ["teacher", "student"]
        assert found["teacher"].training == TEACHERS and found["student"].training == STUDENTS
        assert found["student"].teachers == ("teacher",) and found["teacher"].sftn is None

    def test_the_control_is_the_student_with_labels_alone(self):
        found = stages(control=True)
        student, control = found["student"], found["control"]
        assert (control.role, control.network, control.training) == ("control", student.network, student.training)
        assert not control.method and not control.teachers

    def test_several_teachers_are_counted_from_the_second_on(self):
        found = stages(teacher_net="wrn_16_2+resnet14+vgg8", method="aveg")
        assert list(found) == ["teacher", "teacher-2", "teacher-3", "student"]
        assert found["student"].teachers == ("teacher", "teacher-2", "teacher-3")
        assert [stage.network for stage in found.values()] == ["wrn_16_2", "resnet14", "vgg8", "resnet8"]

    @pytest.mark.parametrize("method", ("ls", "tfkd_reg", "ce"))
    def test_a_method_without_a_teacher_has_no_teacher_trained(self, method):
        found = stages(method=method, teacher_training="sftn", control=True)
        assert list(found) == ["student", "control"] and found["student"].teachers == ()

    def test_the_branches_are_the_students_unless_another_network_is_named(self):
        own = stages(teacher_training="sftn", kl_weight=1.5)["teacher"].sftn
        assert (own.network, own.blocks, own.kl_weight) == ("resnet8", None, 1.5)
        other = stages(teacher_training="sftn", branch="vgg8", branch_blocks=(2,))["teacher"].sftn
        assert (other.network, other.blocks) == ("vgg8", (2,))

    @pytest.mark.parametrize("method", ("semckd", "kd+semckd"))
    def test_a_method_of_whole_batches_leaves_out_the_last_for_the_control_too(self, method):
        found = stages(method=method, control=True)
        assert [stage.training.drop_last for stage in found.values()] == [TEACHERS.drop_last, True, True]

    def test_semckd_leaves_out_the_last_batch_of_the_papers_training(self):
        trained = RECIPES["cifar100-simkd"](method="semckd").stages
        assert [stage.training.drop_last for stage in trained] == [False, True]

    def test_settings_that_are_given_reach_the_student(self):
        found = stages({"kd": KDSettings(temperature=9.0)}, method="kd+at")["student"].settings
        assert found["kd"].temperature == 9.0 and found["at"] == ATSettings()


def test_a_kind_of_teacher_that_there_is_not_is_named():
    with pytest.raises(
        UserError, match="^Choice.teacher_training is 'friendly', expected one of 'standard', 'sftn', 'gtn'$"
    ):
        stages(teacher_training="friendly")


def test_a_field_that_no_recipe_has_is_refused():
    for recipe in RECIPES.values():
        with pytest.raises(TypeError, match="colour"):
            recipe(colour="blue")
