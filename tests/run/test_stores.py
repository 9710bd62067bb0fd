"""A run from a float32 store ends with the same bytes as the run with the live teacher."""

import errno
import os
import shutil
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from helpers.courses import taught_recipe
from helpers.hostile import line_of
from helpers.recorders import record_everything
from helpers.stored import SETTINGS, loaded, recipe_of, student_of, trained_teacher
from helpers.tiny import Quiet, job_of, tiny_recipe, train
from safetensors.torch import load

from fastkd.methods import METHODS
from fastkd.run import check, open_data
from fastkd.run.builder import Builder
from fastkd.run.earlier import Earlier
from fastkd.run.run import Run
from fastkd.run.stores import foreseen_stores
from fastkd.stored import Store, Storing
from fastkd.stored.epochs import EpochFiles
from fastkd.stored.store import read_about
from fastkd.support.errors import UserError
from fastkd.support.interrupt import Interrupt, Stopped
from fastkd.support.session import Session
from fastkd.training.step import Step


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """The weights of a plain and of a student-friendly teacher."""
    kinds = ("plain", "sftn")
    return {kind: trained_teacher(tiny_recipe(), kind, tmp_path_factory.mktemp(kind) / "run") for kind in kinds}


@pytest.fixture(scope="module")
def live(teachers, tmp_path_factory):
    """The bytes of the student that the teacher itself taught: live(kind, method, training=…)."""
    known = {}

    def student(kind="plain", method="kd", **options):
        key = f"{kind} {method} {options}"
        if key not in known:
            folder = tmp_path_factory.mktemp("live") / "run"
            train(recipe_of(teachers[kind], method, settings=SETTINGS, **options), folder)
            known[key] = student_of(folder)
        return known[key]

    return student


@pytest.fixture(scope="module")
def whole_store(teachers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    train(recipe_of(teachers["plain"], "kd", folder / "store"), folder / "run")
    return folder / "store"


@pytest.fixture
def filled(whole_store, tmp_path):
    """A copy of the store that a student of kd filled, from the plain teacher."""
    shutil.copytree(whole_store, tmp_path / "store")
    return tmp_path / "store"


LONG = ("kd", "kd+pkt+rkd", "cc", "srrl", "simkd")


@pytest.mark.parametrize("method", ("kd+sskd", *(pytest.param(one, marks=pytest.mark.slow) for one in LONG)))
def test_two_students_of_one_store_end_as_with_the_teacher_itself(method, teachers, tmp_path, silent_teacher):
    """SimKD and SRRL read the teacher's weights, too, which are there."""
    path, store, settings = teachers["plain"], tmp_path / "store", SETTINGS | {"simkd": {"projector": "vector"}}
    train(recipe_of(path, method, settings=settings), tmp_path / "live")
    train(recipe_of(path, method, store, settings), tmp_path / "first")
    silent_teacher()
    train(recipe_of(path, method, store, settings), tmp_path / "second")
    expected = student_of(tmp_path / "live")
    assert expected == student_of(tmp_path / "first") == student_of(tmp_path / "second")


def test_another_batch_size_and_a_dropped_last_batch(teachers, live, tmp_path):
    """Batches of 48 leave 32 of 128 images out: a student with batches of 32 has them computed, and added."""
    path, store = teachers["plain"], tmp_path / "store"
    train(recipe_of(path, "kd", store, training={"batch_size": 48}), tmp_path / "other")
    about = EpochFiles(store / "teacher", 0, 128, 10, writable=False)
    assert about.whole()[1].sum() == 96
    train(recipe_of(path, "kd", store), tmp_path / "stored")
    assert live() == student_of(tmp_path / "stored")
    assert about.whole()[1].all()


@pytest.mark.parametrize("method", ("kd", pytest.param("crd", marks=pytest.mark.slow)))
def test_a_captured_step_reads_rows(method, teachers, live, tmp_path, monkeypatch, silent_teacher):
    path, store, expected = teachers["plain"], tmp_path / "store", live(method=method)
    record_everything(monkeypatch)
    train(recipe_of(path, method, store, SETTINGS), tmp_path / "first")
    silent_teacher()
    train(recipe_of(path, method, store, SETTINGS), tmp_path / "second")
    assert expected == student_of(tmp_path / "first") == student_of(tmp_path / "second")


@pytest.mark.parametrize("captured", (pytest.param(False, marks=pytest.mark.slow), True))
def test_rows_that_do_not_fit_the_device_travel_with_the_batch(
    captured, teachers, live, tmp_path, monkeypatch, silent_teacher
):
    path, store, expected = teachers["plain"], tmp_path / "store", live()
    monkeypatch.setattr("fastkd.training.step.fits", lambda shelf, device: False)
    if captured:
        record_everything(monkeypatch)
        monkeypatch.setattr("fastkd.training.step.ResidentLoader", type("Nobody", (), {}))
    train(recipe_of(path, "kd", store), tmp_path / "first")
    silent_teacher()
    train(recipe_of(path, "kd", store), tmp_path / "second")
    assert expected == student_of(tmp_path / "first") == student_of(tmp_path / "second")


def test_a_batch_in_parts(teachers, live, tmp_path):
    path, store, parts = teachers["plain"], tmp_path / "store", {"accumulate": 2}
    for name in ("first", "second"):
        train(recipe_of(path, "kd", store, training=parts), tmp_path / name)
        assert live(training=parts) == student_of(tmp_path / name)


def test_stopped_in_the_middle_and_resumed(teachers, live, tmp_path, monkeypatch):
    recipe, expected = recipe_of(teachers["plain"], "kd", tmp_path / "store"), live()
    plain, interrupt, taken = Step.__call__, Interrupt(), [0]

    def counting(self, raw):
        plain(self, raw)
        taken[0] += 1
        if taken[0] == 3:
            interrupt.requested = "SIGTERM"

    monkeypatch.setattr(Step, "__call__", counting)
    with pytest.raises(Stopped):
        train(recipe, tmp_path / "run", interrupt)
    train(recipe, tmp_path / "run")
    assert expected == student_of(tmp_path / "run")


@pytest.mark.parametrize("method", ("aveg", pytest.param("aekd", marks=pytest.mark.slow)))
def test_several_teachers(method, teachers, tmp_path, silent_teacher):
    def recipe(store=None):
        made = recipe_of(teachers["plain"], method, store)
        second = loaded(teachers["sftn"], "teacher-2")
        student = replace(made.stages[1], teachers=("teacher", "teacher-2"))
        return replace(made, stages=(made.stages[0], second, student))

    store = tmp_path / "store"
    train(recipe(), tmp_path / "live")
    train(recipe(store), tmp_path / "first")
    assert sorted(path.name for path in store.iterdir()) == ["teacher", "teacher-2"]
    silent_teacher()
    train(recipe(store), tmp_path / "second")
    assert student_of(tmp_path / "live") == student_of(tmp_path / "first") == student_of(tmp_path / "second")


@pytest.mark.parametrize("restart", (False, pytest.param(True, marks=pytest.mark.slow)))
def test_the_rows_of_each_anchor_stand_under_its_name(restart, tmp_path, silent_teacher):
    recipe = taught_recipe("rco", anchors=2, restart=restart)
    train(recipe, tmp_path / "live")
    stored = replace(recipe, storing=Storing(teacher_outputs=tmp_path / "store"))
    train(stored, tmp_path / "first")
    assert student_of(tmp_path / "live") == student_of(tmp_path / "first")
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["teacher", "teacher@1"]
    epochs = {path.name: sorted(p.stem for p in path.glob("*.rows")) for path in (tmp_path / "store").iterdir()}
    both = ["epoch-00000", "epoch-00001"]
    assert epochs == ({"teacher@1": both, "teacher": both} if restart else {"teacher@1": both[:1], "teacher": both[1:]})
    silent_teacher()
    train(stored, tmp_path / "second")
    assert student_of(tmp_path / "live") == student_of(tmp_path / "second")


def test_a_disk_that_fills_up_stops_the_run_with_one_line_and_loses_nothing(teachers, live, tmp_path, monkeypatch):
    recipe, written, plain = recipe_of(teachers["plain"], "kd", tmp_path / "store"), [0], os.pwrite

    def fills_up(*arguments):
        written[0] += 1
        if written[0] > 200:
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(*arguments)

    with (
        monkeypatch.context() as patch,
        pytest.raises(UserError, match="the disk is full; the rows that are stored") as error,
    ):
        patch.setattr(os, "pwrite", fills_up)
        train(recipe, tmp_path / "run")
    assert "\n" not in str(error.value)
    train(recipe, tmp_path / "run")
    assert student_of(tmp_path / "run") == live()


def test_a_student_without_a_teacher_is_left_alone(teachers, tmp_path):
    control = tiny_recipe().stages[-1]
    recipe = recipe_of(teachers["plain"], "kd", tmp_path / "store")
    train(replace(recipe, stages=(*recipe.stages, control)), tmp_path / "run")
    train(replace(recipe, stages=(control,), storing=Storing()), tmp_path / "alone")
    assert (tmp_path / "run/control.safetensors").read_bytes() == (tmp_path / "alone/control.safetensors").read_bytes()


class TestWhatIsTold:
    def test_sizes_and_times_before_the_first_byte_is_written(self, teachers, tmp_path, monkeypatch):
        display, plain = Quiet(), EpochFiles.write

        def write(self, *arguments):
            assert any("will be written, computing them takes about" in note for note in display.notes)
            plain(self, *arguments)

        monkeypatch.setattr(EpochFiles, "write", write)
        train(recipe_of(teachers["plain"], "kd", tmp_path / "store"), tmp_path / "run", display=display)
        (note,) = [note for note in display.notes if "will be written" in note]
        assert "missing of the teachers' rows in 2 epochs: 256; 11.3 kB will be written" in note

    def test_a_dry_run_tells_what_a_store_will_take_and_writes_nothing(self, teachers, filled, tmp_path):
        def told(recipe):
            display = Quiet()
            Run(job_of(recipe), 0, tmp_path / "none", Session(display)).dry_run()
            return [note for note in display.notes if "store" in note]

        path = teachers["plain"]
        whole = f"student  the store {filled / 'teacher'} holds 2 epochs of 128 rows, 11.3 kB"
        assert told(recipe_of(path, "kd", filled)) == [whole]
        (words,) = told(recipe_of(path, "kd", tmp_path / "other", training={"epochs": 3}))
        assert words.endswith("holds 3 epochs of 128 rows, 16.9 kB, of which 16.9 kB are not there yet")
        (words,) = told(recipe_of(path, "kd", filled, training={"epochs": 3}))
        assert words.endswith("16.9 kB, of which 5.63 kB are not there yet")
        (words,) = told(recipe_of(path, "kd", tmp_path / "other", storing={"store_epochs": 1}))
        assert "holds 1 epoch of 128 rows" in words
        assert not (tmp_path / "other").exists() and not (tmp_path / "none").exists()

    def test_what_a_store_will_not_do_is_known_before_its_teacher_is_trained(self, filled, tmp_path, monkeypatch):
        recipe = replace(tiny_recipe(), storing=Storing(teacher_outputs=filled))
        with pytest.raises(UserError, match="was made with data seed 0, here it is 3"):
            check(job_of(replace(recipe, data_seed=3)))
        (tmp_path / "taken/teacher").mkdir(parents=True)
        (tmp_path / "taken/teacher/thesis.tex").touch()
        with pytest.raises(UserError, match="is no store: it has no store.json, but thesis.tex"):
            check(job_of(replace(recipe, storing=Storing(teacher_outputs=tmp_path / "taken"))))
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
        with pytest.raises(UserError, match=r"needs 11.3 kB more, the disk has 1 kB: a narrower --store-type"):
            check(job_of(replace(recipe, storing=Storing(teacher_outputs=tmp_path / "new"))))

    def test_other_circumstances_are_a_field_of_the_result(self, teachers, filled, tmp_path, monkeypatch):
        path, store, same = teachers["plain"], filled, Quiet()
        (result,) = train(recipe_of(path, "kd", store), tmp_path / "run", display=same)
        assert not [note for note in same.notes if "will be written" in note or "differ" in note]
        assert result["stages"]["student"]["store"] == {"type": "float32", "top": None, "epochs": None, "differs": []}
        monkeypatch.setattr("fastkd.support.environment.device_name", lambda device: "another one")
        display = Quiet()
        (result,) = train(recipe_of(path, "kd", store), tmp_path / "other", display=display)
        (differs,) = result["stages"]["student"]["store"]["differs"]
        assert "here it is another one: the last bits of rows may differ" in differs
        assert any("the last bits of rows may differ" in note for note in display.notes)
        with pytest.raises(UserError, match="--store-exact: .* was made with device"):
            train(recipe_of(path, "kd", store, storing={"store_exact": True}), tmp_path / "exact")

    def test_damaged_rows_are_computed_anew(self, teachers, live, filled, tmp_path):
        path, rows = teachers["plain"], filled / "teacher" / "epoch-00001.rows"
        content = bytearray(rows.read_bytes())
        content[40 * 17] ^= 64
        rows.write_bytes(content)
        display = Quiet()
        train(recipe_of(path, "kd", filled), tmp_path / "again", display=display)
        assert any("1 row is damaged and computed anew" in note for note in display.notes)
        assert live() == student_of(tmp_path / "again")
        assert rows.read_bytes() != bytes(content)

    def test_a_store_that_another_command_writes_is_read_and_not_added_to(self, teachers, live, tmp_path):
        path, store = teachers["plain"], tmp_path / "store"
        train(recipe_of(path, "kd", store, training={"batch_size": 48}), tmp_path / "part")
        before = {file.name: file.read_bytes() for file in (store / "teacher").iterdir()}
        holder = Store.opened(store / "teacher", *_known(store / "teacher"))
        display = Quiet()
        train(recipe_of(path, "kd", store), tmp_path / "run", display=display)
        holder.close()
        words = f"another process is storing rows in {store / 'teacher'}: rows that are missing are computed here"
        assert any(f"{words}, and not added" in note for note in display.notes)
        assert live() == student_of(tmp_path / "run")
        assert {file.name: file.read_bytes() for file in (store / "teacher").iterdir()} == before


def _known(folder):
    about = read_about(folder)
    return about.key, about.row, about.made_by[0]


class TestRefused:
    def test_what_a_store_cannot_give_before_anything_is_made(self, teachers, tmp_path):
        words = "sp reads the teacher's feature maps, which no store holds"
        with pytest.raises(UserError, match=words) as error:
            train(recipe_of(teachers["plain"], "kd+sp", tmp_path / "store"), tmp_path / "run")
        assert "\n" not in str(error.value) and not (tmp_path / "store").exists()

    @pytest.mark.parametrize(
        "words, changes",
        (
            ("weights", {}),
            ("crop padding 1, here it is 2", {"augmentation": {"crop_padding": 2}}),
        ),
    )
    def test_a_store_of_something_else(self, words, changes, teachers, filled, tmp_path):
        before = {file.name: file.read_bytes() for file in (tmp_path / "store/teacher").iterdir()}
        other = recipe_of(teachers["plain" if changes else "sftn"], "kd", tmp_path / "store")
        if "augmentation" in changes:
            changes = {"augmentation": replace(other.augmentation, **changes["augmentation"])}
        with pytest.raises(UserError, match=f"was made with .*{words}") as error:
            train(replace(other, **changes), tmp_path / "other")
        assert "\n" not in str(error.value)
        assert {file.name: file.read_bytes() for file in (tmp_path / "store/teacher").iterdir()} == before

    def test_several_temperatures_share_no_tail(self, teachers, tmp_path):
        storing = {"store_top": 3}
        with pytest.raises(UserError, match="--store-top: sskd reads all of the teacher's logits"):
            train(recipe_of(teachers["plain"], "kd+sskd", tmp_path / "s", storing=storing), tmp_path / "run")
        with pytest.raises(UserError, match="--store-top changes nothing: crd does not read the teacher's logits"):
            train(recipe_of(teachers["plain"], "crd", tmp_path / "s", SETTINGS, storing), tmp_path / "other")


class TestLess:
    @pytest.mark.parametrize(
        "storing",
        (
            {"store_type": "float16"},
            *(pytest.param(one, marks=pytest.mark.slow) for one in ({"store_type": "bfloat16"}, {"store_top": 9})),
        ),
    )
    def test_narrower_rows_are_near_and_named(self, storing, teachers, live, tmp_path):
        recipe = recipe_of(teachers["plain"], "kd", tmp_path / "store", storing=storing)
        (result,) = train(recipe, tmp_path / "run")
        student, near = load(live()), load(student_of(tmp_path / "run"))
        assert any(not torch.equal(value, near[name]) for name, value in student.items())
        for name, value in student.items():
            torch.testing.assert_close(near[name], value, rtol=0, atol=2e-2)
        assert result["stages"]["student"]["store"]["type"] == storing.get("store_type", "float32")
        assert recipe.storing.approximations

    def test_an_epoch_of_rows_serves_all_of_them(self, teachers, live, tmp_path, silent_teacher):
        """With --store-epochs 1 the live teacher sees the same crops in every epoch, and control and student do."""
        path, once = teachers["plain"], {"store_epochs": 1}
        train(recipe_of(path, "kd", tmp_path / "store", storing=once), tmp_path / "run")
        assert student_of(tmp_path / "run") != live()
        assert sorted(file.name for file in (tmp_path / "store/teacher").glob("*.rows")) == ["epoch-00000.rows"]
        silent_teacher()
        train(recipe_of(path, "kd", tmp_path / "store", storing=once), tmp_path / "again")
        assert student_of(tmp_path / "run") == student_of(tmp_path / "again")


class TestSeeds:
    @pytest.mark.slow
    def test_seeds_of_one_store(self, teachers, live, filled, tmp_path, silent_teacher):
        alone = live(seed=1, data_seed=0)
        silent_teacher()
        train(recipe_of(teachers["plain"], "kd", filled, seeds=2, data_seed=0), tmp_path / "run")
        assert student_of(tmp_path / "run/seed-1") == alone
        assert student_of(tmp_path / "run/seed-0") == live()

    @pytest.mark.slow
    def test_another_data_seed_is_another_training(self, live):
        assert live() == live(data_seed=0) != live(data_seed=1)


SERVED = (
    *(
        "abkd",
        "aekd",
        "aveg",
        "cc",
        "crd",
        "crld",
        "ctkd",
        "dist",
        "dkd",
        "jsd",
        "kd",
        "mlld",
        "nkd",
        "pkt",
        "rkd",
        "rld",
    ),
    *("sckd", "srd", "srrl", "sskd", "tfkd_self", "ttm", "wttm"),
)
MAPS = (
    *("ab", "aekd_f", "at", "catkd", "fitnet", "fsp", "ft", "nst", "oh", "reviewkd", "sdd", "semckd", "simkd", "sp"),
    *("vid", "vkd"),
)
NOTHING = ("ce", "ls", "tfkd_reg", "uskd")
ELSEWHERE = {
    "dml": "its teachers learn, too: nothing can be stored of them",
    "kdcl": "likewise",
    "none": "it trains nothing",
    "rco": "see test_the_rows_of_each_anchor_stand_under_its_name",
}


@cache
def digits():
    return open_data(tiny_recipe())


class TestEveryMethod:
    """A store serves a method, or one line names the method that it does not serve."""

    def refusal(self, method, path, store, **settings):
        settings = {method: SETTINGS.get(method, {}) | settings}
        recipe = recipe_of(path, method, store, settings=settings)
        job = job_of(recipe, data=digits())
        builder, earlier, lines = Builder(job, 0), Earlier(job.course), []
        for planned in job.course:
            stage = builder.stage(planned, earlier)
            earlier.add(planned, stage)
            foreseen = foreseen_stores(job, planned, stage, earlier, 0)
            lines.append(line_of(partial(list, foreseen), method))
        return next(filter(None, lines), "")

    def test_the_walk_is_whole(self):
        assert sorted((*SERVED, *MAPS, *NOTHING, *ELSEWHERE)) == sorted(METHODS)

    @pytest.mark.parametrize("method", (*SERVED, *MAPS, *NOTHING))
    def test_served_or_refused_by_name(self, method, teachers, tmp_path):
        line = self.refusal(method, teachers["plain"], tmp_path / "store")
        if method in SERVED:
            assert line == ""
        elif method in MAPS:
            assert f"--teacher-outputs: {method} reads the teacher's feature maps, which no store holds" in line
        else:
            assert f"--teacher-outputs changes nothing: {method} reads nothing of the teacher" in line

    def test_what_a_setting_decides(self, teachers, tmp_path):
        path, store = teachers["plain"], tmp_path / "store"
        assert self.refusal("simkd", path, store, projector="vector") == ""
        assert "oh normalises the teacher by each batch" in self.refusal("oh", path, store, teacher_norm="batch")
