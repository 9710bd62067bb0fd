"""The recipe for a first run."""

from fastkd.methods.kd import KDSettings
from fastkd.recipes import digits


def test_a_first_run_shows_a_student_friendly_teacher_and_a_control_over_three_seeds():
    recipe = digits()
    teacher, student, control = recipe.stages
    assert (recipe.name, recipe.data, recipe.image_size, recipe.seeds) == ("digits", "digits", 8, 3)
    assert teacher.sftn is not None and teacher.sftn.network == student.network == control.network == "resnet8"
    assert teacher.training.epochs == 30 and student.training == control.training and student.training.epochs == 10
    assert student.settings == {"kd": KDSettings(ce_weight=0.1, kl_weight=0.9, temperature=4.0)}


def test_digits_are_not_mirrored_and_moved_by_a_pixel_at_most():
    """A mirrored 2 is no 2, and of 8 pixels four would be half the image."""
    augmentation = digits().augmentation
    assert not augmentation.flip and augmentation.crop_padding == 1


def test_what_is_chosen_changes_nothing_else():
    plain, changed = digits(), digits(student="vgg8", teacher_training="standard", control=False, method="kd+at")
    assert [stage.name for stage in changed.stages] == ["teacher", "student"]
    assert changed.stages[0].sftn is None and changed.stages[1].network == "vgg8"
    assert changed.stages[1].settings["kd"] == plain.stages[1].settings["kd"]
    assert (changed.augmentation, changed.seeds) == (plain.augmentation, plain.seeds)
    assert [stage.training for stage in changed.stages] == [stage.training for stage in plain.stages[:2]]


def test_it_stands_beside_no_paper():
    assert digits().published_classes is None and digits().deviations == ()
