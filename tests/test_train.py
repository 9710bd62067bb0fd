"""The commands as a person types them: help, results, and one line for every mistake."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from helpers.commands import ROOT, TINY, command, mistake
from helpers.image_folders import write_folder

from fastkd import api, evaluate, report, train
from fastkd.run import folder_of_job, load_network
from fastkd.support.errors import UserError


def test_a_run_ends_with_the_table(tmp_path, capsys):
    assert train.main([*TINY, "--run", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr()
    for words in ("teacher", "branch 1", "branch 2", "student", "control", "resnet8", "top-1"):
        assert words in shown.out
    assert str(tmp_path / "run") in shown.out
    assert "lr 0.05 for the whole batch of 64" in shown.err
    assert (tmp_path / "run" / "report.html").exists()


def test_dry_run_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train.main([*TINY, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("teacher", "student", "control", "images/s", "MiB"))
    assert not list(tmp_path.iterdir())


def test_dry_run_of_a_training_of_one_step(capsys):
    assert train.main([*TINY, "--epochs", "1", "--limit-train", "64", "--dry-run"]) == 0
    assert "student" in capsys.readouterr().out


def test_a_recipe_can_be_given_back(finished, tmp_path):
    assert train.main([str(finished / "recipe.json"), "--run", str(tmp_path / "again")]) == 0
    first, second = (load_network(folder, "student").state_dict() for folder in (finished, tmp_path / "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_several_teachers(finished, tmp_path, capsys):
    teachers = ["--teacher", str(finished), "--teacher", str(finished / "teacher.safetensors")]
    folder = tmp_path / "run"
    short = [*TINY[:-2], "--epochs", "1"]
    assert train.main([*short, *teachers, "--method", "aveg", "--run", str(folder)]) == 0
    assert "student: resnet8 from teacher and teacher-2 by aveg" in capsys.readouterr().err
    recipe = json.loads((folder / "recipe.json").read_text())
    assert [stage["name"] for stage in recipe["stages"]] == ["teacher", "teacher-2", "student", "control"]
    assert "2 teachers instead of one" in recipe["deviations"]
    assert train.main(["--resume", str(folder)]) == 0
    assert evaluate.main([str(folder)]) == 0
    line = mistake(*short, *teachers, "--method", "kd", "--run", tmp_path / "other")
    assert line == "kd has 1 teacher, got 2"


class TestMistakes:
    @pytest.mark.parametrize(
        "arguments, words",
        [
            (["cifar100-sfnt"], "no recipe 'cifar100-sfnt'; did you mean 'cifar100-sftn'"),
            (["--student", "resnet8x44"], "no network 'resnet8x44'; did you mean .*'resnet8x4'"),
            (["--method", "kdd"], "no method 'kdd'; did you mean 'kd'"),
            (["--method", "kd+ce"], "expected exactly one method that owns the cross-entropy"),
            (["--method", "no.such:Thing"], "cannot import the method 'no.such:Thing'"),
            (["--data", "digitz"], "no data set 'digitz'; did you mean 'digits'"),
            (["cifar100-sftn", "--data", "cifar100:/no/such"], "no folder /no/such"),
            (
                ["--student", "vgg8"],
                r"cannot graft vgg8 \(4 blocks: .*\) on the teacher wrn_16_2 \(3 blocks: 32x8x8, 64x4x4, 128x2x2\)",
            ),
            (["--batch-size", "900"], "a batch of 900 images is larger than the training set of 898"),
            (["--epochs", "0"], "--epochs: expected a whole number from 1 to 1,000,000, got '0'"),
            (["--seeds", "0"], "--seeds: expected a whole number from 1 to 10,000, got '0'"),
            (["--lr", "-1"], "--lr: expected a number above 0, got '-1'"),
            (["--momentum", "-1"], "--momentum: expected a number from 0 to below 1, got '-1'"),
            (
                ["--momentum", "0", "--nesterov", "on"],
                "Nesterov momentum belongs to SGD or LARS with a momentum above 0",
            ),
            (["--weight-decay", "-1"], "--weight-decay: expected a number of at least 0, got '-1'"),
            (["--sftn.temperature", "0"], "--sftn.temperature: expected a number from 0.001 to 1000, got '0'"),
            (["--keep-epochs", "99"], "--keep-epochs are epochs from 1 to 30, got 99"),
            (["--crop-padding", "-1"], "--crop-padding: expected a whole number from 0 to 16,384, got '-1'"),
            (["--rotation", "15", "--crop", "resized"], "--rotation goes with --crop pad only"),
            (["--milestones", "3"], "--milestones changes nothing"),
            (["--pair", "wrn_16_2"], "--pair is TEACHER/STUDENT, as in wrn_40_2/wrn_16_2, got 'wrn_16_2'"),
            (["--pair", "wrn_16_2/resnet8", "--student", "vgg8"], "--pair stands for --teacher-net and --student"),
            (
                ["--method", "ls", "--teacher-net", "vgg8"],
                "--teacher-net changes nothing: the method ls has no teacher",
            ),
            (["--method", "ls", "--teacher", "x"], "--teacher changes nothing: the student's method has none"),
            (["--method", "at", "--kd.temperature", "2"], "--kd.temperature changes nothing: the student learns by at"),
            (["--epoch", "2"], "no option --epoch; did you mean '--epochs'"),
            (["--kd.temprature", "2"], "no option --kd.temprature; did you mean '--kd.temperature'"),
            (["--qqqqqqqq"], "no option --qqqqqqqq; --help lists them"),
            (["--at.weight", "2"], "--at.weight is a setting of the method at, --method is kd"),
            (["cifar100-sfnt", "--list"], "no recipe 'cifar100-sfnt'; did you mean 'cifar100-sftn'"),
            (["--teacher-training", "standard", "--sftn.kl", "reverse"], "--sftn.kl changes nothing"),
            (["--teacher-training", "standard", "--branch", "vgg8"], "--branch changes nothing"),
            (["--data", "imagefolder:/no/such"], "trains on 8 pixels: give --image-size"),
            (["--kd.temperature", "0"], "--kd.temperature: expected a number from 0.001 to 1000, got '0'"),
            (
                ["--method", "dml", "--teacher-epochs", "3"],
                "the teacher learns together with the student",
            ),
            (["--method", "none+fsp", "--teacher-net", "resnet8"], r"--method none\+fsp trains nothing"),
            (["--method", "dml+at"], "dml trains several networks together, nothing joins it"),
            (["--image-size", "9"], "digits has images of 8 pixels, --image-size says 9"),
            (["--resume", "/no/such/run"], "no run folder /no/such/run"),
            (["--teacher", "/no/such"], "no run folder and no file /no/such"),
            (["no/such/recipe.json"], "cannot read no/such/recipe.json"),
        ],
    )
    def test_one_line(self, arguments, words, tmp_path):
        line = mistake(*arguments, *([] if "--resume" in arguments else ["--run", tmp_path / "run"]))
        assert re.search(words, line), line

    @pytest.mark.parametrize("options", (["--lr", "1e30"], ["--weight-decay", "1e30"]))
    def test_a_dry_run_says_that_a_loss_is_not_finite(self, options):
        line = mistake(*TINY, "--dry-run", *options)
        assert "teacher: the loss or its gradient was not finite" in line and "try a lower learning rate" in line

    def test_a_dry_run_says_that_a_last_batch_is_too_small(self):
        line = mistake(*TINY, "--dry-run", "--limit-train", "129", "--drop-last", "off", "--student", "vgg8",
                       "--teacher-training", "standard")  # fmt: skip
        assert "the last batch of an epoch (129 images in batches of 64) has 1 image, too few for vgg8" in line

    def test_memory_that_is_not_there_names_the_knobs(self, tmp_path, monkeypatch):
        def allocate(*_arguments):
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

        monkeypatch.setattr(api, "carry_out", allocate)
        line = mistake(*TINY, "--run", tmp_path / "run")
        assert "out of memory on cpu: raise --accumulate, or lower --batch-size" in line

    def test_a_mistake_in_the_data_or_the_pair_leaves_no_folder(self, tmp_path):
        mistake("--student", "vgg8", "--run", tmp_path / "run")
        mistake("cifar100-sftn", "--data", "cifar100:/no/such", "--run", tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_unwritable_run_folder(self, tmp_path):
        (tmp_path / "file").write_text("")
        assert "cannot create the folder" in mistake(*TINY, "--run", tmp_path / "file" / "run")

    def test_a_folder_that_holds_a_run(self, finished):
        assert f"holds a run already: go on with it by --resume {finished}" in mistake(*TINY, "--run", finished)

    def test_a_folder_that_holds_none(self, tmp_path):
        assert "is no run folder: it has no recipe.json" in mistake("--resume", tmp_path)

    def test_resume_with_another_recipe(self, finished):
        line = mistake("--resume", finished, *TINY, "--epochs", "3")
        assert "the run was begun with teacher epochs = 2, the command says 3" in line
        line = mistake("--resume", finished, "--student", "resnet14")
        assert "the run was begun with student = 'resnet8', the command says 'resnet14'" in line
        line = mistake("cifar100-sftn", "--resume", finished)
        assert "that run is of the recipe digits, not cifar100-sftn" in line

    @pytest.mark.parametrize("option", (["--run", "elsewhere"], ["--dry-run"], ["--teacher", "x"]))
    def test_options_that_do_not_go_with_resume(self, option, finished):
        assert f"{option[0]} does not go together with --resume" in mistake("--resume", finished, *option)

    def test_a_recipe_file_keeps_its_networks(self, finished):
        line = mistake(finished / "recipe.json", "--student", "resnet14")
        assert "--student cannot change" in line and "edit the file" in line

    def test_resume_with_the_same_command_is_welcome(self, finished):
        assert train.main([*TINY, "--resume", str(finished)]) == 0

    def test_a_checkpoint_that_is_none(self, tmp_path):
        file = tmp_path / "teacher.pt"
        file.write_text("no checkpoint")
        line = mistake(*TINY, "--teacher", file, "--run", tmp_path / "run")
        assert str(file) in line and "checkpoint" in line
        assert not (tmp_path / "run").exists()

    def test_a_file_that_does_not_name_its_network(self, tmp_path):
        file = tmp_path / "teacher.pt"
        torch.save({"model": {}}, file)
        assert "does not say which network it holds: give --teacher-net" in mistake("--teacher", file)

    def test_a_teacher_of_another_data_set(self, finished, tmp_path):
        line = mistake(*TINY, "--teacher", finished, "--teacher-net", "resnet20", "--run", tmp_path / "run")
        assert "holds a resnet8, --teacher-net says resnet20" in line

    def test_a_recipe_with_a_slip(self, finished, tmp_path):
        recipe = json.loads((finished / "recipe.json").read_text())
        recipe["stages"][0]["training"]["epochz"] = 3
        (tmp_path / "edited.json").write_text(json.dumps(recipe))
        line = mistake(tmp_path / "edited.json")
        assert "unknown entry 'epochz'; did you mean 'epochs'" in line
        recipe["format"] = 7
        (tmp_path / "edited.json").write_text(json.dumps(recipe))
        assert "has recipe format 7, this fastkd reads 1" in mistake(tmp_path / "edited.json")

    def test_the_process_prints_one_line_and_no_traceback(self):
        done = command("fastkd.train", "--student", "resnet9")
        assert done.returncode == 2
        assert done.stderr.startswith("fastkd: no network 'resnet9'") and len(done.stderr.splitlines()) == 1
        assert not done.stdout

    def test_unknown_option(self):
        done = command("fastkd.train", "--epohs", "3")
        assert done.returncode == 2 and not done.stdout
        assert done.stderr.startswith("fastkd: no option --epohs; did you mean '--epochs'")
        assert done.stderr.count("\n") == 1

    def test_evaluate_and_report_of_nothing(self, tmp_path):
        for main in (evaluate.main, report.main):
            with pytest.raises(UserError, match="is no run folder"):
                main([str(tmp_path)])


@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM))
def test_ctrl_c_writes_and_says_how_to_resume(number, tmp_path):
    line = [sys.executable, "-m", "fastkd.train", *TINY, "--epochs", "400", "--run", str(tmp_path)]
    child = subprocess.Popen(
        line, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    while not (tmp_path / "checkpoints" / "teacher.pt").exists():
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.05)
    child.send_signal(number)
    shown = child.communicate(timeout=60)[1]
    assert child.returncode == 130
    assert f"go on with: python -m fastkd.train --resume {tmp_path}" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("number", (signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)))
def test_a_signal_to_the_whole_job_waits_for_the_step_and_its_loaders(number, tmp_path):
    """A scheduler sends it to every process of the group, those that decode images among them, and twice."""
    root, folder = write_folder(tmp_path / "data", per_class=40), tmp_path / "run"
    how = ["--data", f"imagefolder:{root}", "--image-size", "8", "--resident", "off", "--workers", "2"]
    line = [sys.executable, "-m", "fastkd.train", *TINY, *how, "--limit-train", "80", "--epochs", "400"]
    child = subprocess.Popen(
        [*line, "--run", str(folder)], cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    while not (folder / "checkpoints" / "teacher.pt").exists():
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.05)
    for _ in range(2):
        os.killpg(child.pid, number)
    shown = child.communicate(timeout=60)[1]
    assert child.returncode == 130, shown
    assert f"stopped by {number.name} in teacher" in shown and "Traceback" not in shown and "Error" not in shown
    assert torch.load(folder / "checkpoints" / "teacher.pt", weights_only=True)["progress"]["epoch"] > 0


class TestTheSameCommandAgain:
    """`--resume auto`: for schedulers that requeue a job, and for `torchrun --max-restarts`."""

    def test_it_begins_where_there_is_nothing_and_goes_on_where_there_is(self, tmp_path, capsys):
        how = [*TINY, "--run", str(tmp_path / "run"), "--resume", "auto"]
        assert train.main(how) == 0
        first = (tmp_path / "run" / "student.safetensors").read_bytes()
        capsys.readouterr()
        assert train.main(how) == 0
        assert capsys.readouterr().err.count("finished before") == 3
        assert (tmp_path / "run" / "student.safetensors").read_bytes() == first

    def test_with_a_teacher_that_was_given(self, finished, tmp_path, capsys):
        how = [*TINY[:-2], "--control", "off", "--teacher", str(finished), "--run", str(tmp_path), "--resume", "auto"]
        for _ in range(2):
            assert train.main(how) == 0
        assert capsys.readouterr().err.count("finished before") == 2

    def test_another_command_is_refused(self, finished):
        for option, words in (("--lr=0.1", "teacher lr = 0.05, the command says 0.1"), ("--seed=3", "seed = 0, the")):
            line = mistake(*TINY, "--run", finished, "--resume", "auto", option)
            assert f"--resume auto: the run in {finished} was begun with {words}" in line

    def test_it_needs_a_folder_of_a_name_that_does_not_change(self):
        assert mistake(*TINY, "--resume", "auto") == "--resume auto needs --run"
        assert "does not go together with --dry-run" in mistake("--resume", "auto", "--run", "x", "--dry-run")

    def test_what_torchrun_starts_anew_goes_on(self, finished, monkeypatch, capsys):
        monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
        assert "torchrun --max-restarts needs --run" in mistake(*TINY)
        assert train.main([*TINY, "--run", str(finished)]) == 0
        assert capsys.readouterr().err.count("finished before") == 3

    def test_a_job_that_is_queued_again_finds_its_run(self, finished, monkeypatch, capsys, tmp_path):
        """The run of a fixture stands where the job's would."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("SLURM_JOB_ID", "4711")
        words = [word for word in TINY if word != "--run"]
        folder = folder_of_job(words, "digits")
        folder.parent.mkdir()
        folder.symlink_to(finished)
        assert train.main(words) == 0
        assert capsys.readouterr().err.count("finished before") == 3


def test_a_home_folder_is_meant_by_its_sign(finished, tmp_path, monkeypatch, capsys):
    """Behind an equals sign no shell puts it in."""
    monkeypatch.setenv("HOME", str(finished.parent))
    monkeypatch.chdir(tmp_path)
    for arguments in ([f"~/{finished.name}"], [f"~/{finished.name}", "--json"]):
        assert evaluate.main(arguments) == 0
    assert report.main([f"~/{finished.name}", "--out=~/report-of-home.html"]) == 0
    assert (finished.parent / "report-of-home.html").exists()
    assert train.main([f"--resume=~/{finished.name}"]) == 0
    assert train.main([*TINY[:-2], f"--teacher=~/{finished.name}", "--dry-run"]) == 0
    assert "no folder ~/nothing" not in mistake("cifar100-sftn", "--data=cifar100:~/nothing")
    assert not list(tmp_path.iterdir())
