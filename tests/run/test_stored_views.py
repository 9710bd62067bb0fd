"""Rows of images that are more than cropped and flipped: mixed with others, augmented strongly, in several views."""

from dataclasses import replace

import pytest
from helpers.recorders import record_everything
from helpers.stored import fill, recipe_of, student_of, trained_teacher
from helpers.tiny import tiny_recipe, train

from fastkd.stored.epochs import EpochFiles
from fastkd.support.errors import UserError


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return trained_teacher(tiny_recipe(), "plain", tmp_path_factory.mktemp("teacher") / "run")


def augmented(teacher, store=None, method="kd", storing=None, training=None, **augmentation):
    recipe = recipe_of(teacher, method, store, storing=storing, training=training)
    return replace(recipe, augmentation=replace(recipe.augmentation, **augmentation))


MIXED = {"mixup": 0.2, "cutmix": 1.0}


class TestMixed:
    """A mixed image is one of its batch: students with the same batches share its row."""

    @pytest.mark.parametrize(
        "way", ("captured", *(pytest.param(way, marks=pytest.mark.slow) for way in ("as it is", "read ahead")))
    )
    def test_a_student_ends_as_with_the_teacher_itself(self, way, teacher, tmp_path, monkeypatch, silent_teacher):
        train(augmented(teacher, **MIXED), tmp_path / "live")
        if way == "captured":
            record_everything(monkeypatch)
        if way == "read ahead":
            monkeypatch.setattr("fastkd.training.step.fits", lambda shelf, device: False)
        store = tmp_path / "store"
        train(augmented(teacher, store, **MIXED), tmp_path / "first")
        silent_teacher()
        train(augmented(teacher, store, **MIXED), tmp_path / "second")
        assert student_of(tmp_path / "live") == student_of(tmp_path / "first") == student_of(tmp_path / "second")

    @pytest.mark.slow
    def test_a_row_that_is_missing_is_computed_as_its_step_would(self, teacher, tmp_path):
        """Also out of order: the second epoch is stored, the first is not."""
        store = tmp_path / "store"
        train(augmented(teacher, store, **MIXED), tmp_path / "first")
        for path in (store / "teacher").glob("epoch-00000.*"):
            path.unlink()
        train(augmented(teacher, store, **MIXED), tmp_path / "second")
        assert student_of(tmp_path / "first") == student_of(tmp_path / "second")

    def test_a_dropped_last_batch_has_no_rows(self, teacher, tmp_path, silent_teacher):
        store, dropped = tmp_path / "store", {"batch_size": 48, "drop_last": True}
        train(augmented(teacher, training=dropped, **MIXED), tmp_path / "live")
        filling = augmented(teacher, store, training=dropped, **MIXED)
        fill(filling)
        assert EpochFiles(store / "teacher", 0, 128, 10, writable=False).whole()[1].sum() == 96
        silent_teacher()
        train(filling, tmp_path / "stored")
        assert student_of(tmp_path / "live") == student_of(tmp_path / "stored")

    def test_other_batches_are_refused(self, teacher, tmp_path):
        store = tmp_path / "store"
        fill(augmented(teacher, store, training={"batch_size": 48, "drop_last": True}, **MIXED))
        words = "was made with mixing in 2 batches of 48 an epoch, here it is in 3 batches of 48 an epoch: give another"
        with pytest.raises(UserError, match=words):
            train(augmented(teacher, store, training={"batch_size": 48, "drop_last": False}, **MIXED), tmp_path / "a")
        with pytest.raises(UserError, match="here it is in 4 batches of 32 an epoch"):
            train(augmented(teacher, store, **MIXED), tmp_path / "b")
        with pytest.raises(UserError, match=r"was made with mixup 0.2, here it is 0.0"):
            train(augmented(teacher, store), tmp_path / "c")

    @pytest.mark.parametrize("storing", ({"store_epochs": 1}, {"store_top": 3}))
    def test_what_does_not_go_with_mixing(self, storing, teacher, tmp_path):
        option = f"--{next(iter(storing)).replace('_', '-')}"
        for name, alpha in MIXED.items():
            with pytest.raises(UserError, match=f"^{option}: with --mixup or --cutmix ") as error:
                train(augmented(teacher, tmp_path / "store", storing=storing, **{name: alpha}), tmp_path / name)
            assert "\n" not in str(error.value) and not (tmp_path / "store").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method, augmentation", (("kd", {"randaugment": 2}), ("mlld", {}), ("crld", {})))
def test_strong_augmentation_is_of_an_image_and_an_epoch(method, augmentation, teacher, tmp_path, silent_teacher):
    train(augmented(teacher, None, method, **augmentation), tmp_path / "live")
    train(augmented(teacher, tmp_path / "store", method, **augmentation), tmp_path / "first")
    silent_teacher()
    train(augmented(teacher, tmp_path / "store", method, **augmentation), tmp_path / "second")
    assert student_of(tmp_path / "live") == student_of(tmp_path / "first") == student_of(tmp_path / "second")


@pytest.mark.parametrize("resident", (True, pytest.param(False, marks=pytest.mark.slow)))
def test_the_plain_view_of_four_serves_a_method_of_one(resident, teacher, tmp_path, monkeypatch, silent_teacher):
    """Rows that are missing are computed, but not added: they would be rows of one view."""
    if not resident:
        monkeypatch.setattr("fastkd.training.step.fits", lambda shelf, device: False)
    store = tmp_path / "store"
    fill(recipe_of(teacher, "kd+sskd", store, {"sskd": {"epochs": 0, "milestones": ()}}))
    train(recipe_of(teacher, "kd"), tmp_path / "live")
    for path in (store / "teacher").glob("epoch-00001.*"):
        path.unlink()
    train(recipe_of(teacher, "kd", store), tmp_path / "half")
    assert sorted(path.name for path in (store / "teacher").glob("*.rows")) == ["epoch-00000.rows"]
    with pytest.raises(UserError, match="nothing can be added to the store .*: it holds 4 views at quarter turns"):
        fill(recipe_of(teacher, "kd", store))
    fill(recipe_of(teacher, "kd+sskd", store, {"sskd": {"epochs": 0, "milestones": ()}}))
    silent_teacher()
    train(recipe_of(teacher, "kd", store), tmp_path / "whole")
    assert student_of(tmp_path / "live") == student_of(tmp_path / "half") == student_of(tmp_path / "whole")
