"""Plans that are carried out: tiny ones on the digits."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from helpers.interrupts import AfterSteps
from helpers.subprocesses import with_paths

from fastkd import train
from fastkd.plan import worker
from fastkd.plan.cells import Cell, Plan, Seeds
from fastkd.plan.outlook import kind_of, outlook
from fastkd.plan.views import show_as_run
from fastkd.plan.worker import Worker
from fastkd.recipes import RECIPES
from fastkd.run import open_run, read_results
from fastkd.support.display import Display
from fastkd.support.environment import calls
from fastkd.support.errors import UserError
from fastkd.support.files import read_json
from fastkd.support.interrupt import Interrupt, Stopped
from fastkd.support.session import Session


def recipe(method="kd", epochs=1):
    made = RECIPES["digits"](method=method, teacher_net="resnet8", teacher_training="standard", control=False)
    quick = {"epochs": epochs, "warmup_epochs": 0, "batch_size": 16}
    stages = tuple(replace(stage, training=replace(stage.training, **quick)) for stage in made.stages)
    return replace(made, stages=stages, limit_train=32, seeds=1)


def plan_of(folder, *methods, seeds=None, epochs=1) -> Plan:
    return Plan(folder, [Cell.of(method, recipe(method, epochs), seeds or Seeds()) for method in methods])


def session(interrupt=None) -> Session:
    return Session(Display(silent=True), interrupt or Interrupt())


def carried_out(plan: Plan, interrupt=None) -> Worker:
    made = Worker(plan, torch.device("cpu"), session(interrupt))
    made.work()
    return made


def test_a_cell_is_the_run_that_it_would_have_been(tmp_path):
    plan = plan_of(tmp_path, "kd")
    assert carried_out(plan).failures == {}
    shown = show_as_run(plan, plan.cells[0])
    options = ["--method", "kd", "--teacher-net", "resnet8", "--teacher-training", "standard", "--control", "off"]
    options += ["--epochs", "1", "--warmup-epochs", "0", "--batch-size", "16", "--limit-train", "32", "--seeds", "1"]
    assert train.main(["digits", *options, "--run", str(tmp_path / "direct")]) == 0
    for name in ("teacher", "student"):
        file = f"{name}.safetensors"
        assert (shown / file).read_bytes() == (tmp_path / "direct" / file).read_bytes()
    ours, direct = (read_results(folder / "results.json") for folder in (shown, tmp_path / "direct"))
    assert ours["similarity"] == direct["similarity"]
    assert ours["stages"]["student"]["test"] == direct["stages"]["student"]["test"]
    assert open_run(shown) == plan.cells[0].recipe


def test_one_that_fails_leaves_the_others_alone(tmp_path, monkeypatch):
    plan, carry_out = plan_of(tmp_path, "kd", "kd+sp"), worker.carry_out

    def failing(job, folder, session):
        if job.recipe.stages[-1].method == "kd":
            raise UserError("its loss is not finite")
        return carry_out(job, folder, session)

    monkeypatch.setattr(worker, "carry_out", failing)
    failures = carried_out(plan).failures
    assert list(failures.values()) == ["its loss is not finite"]
    assert sum(map(plan.finished, plan.nodes.values())) == 2, "the teacher and the other student"
    monkeypatch.setattr(worker, "carry_out", carry_out)
    assert carried_out(plan).failures == {} and all(map(plan.finished, plan.nodes.values()))


def test_asked_to_stop_it_stops_and_goes_on(tmp_path):
    plan, asked = plan_of(tmp_path, "kd"), Interrupt()
    asked.requested = "SIGTERM"
    with pytest.raises(Stopped, match="stopped by SIGTERM"):
        carried_out(plan, asked)
    assert not any(map(plan.finished, plan.nodes.values())) and not list(tmp_path.rglob("claim*"))
    carried_out(plan)
    assert all(map(plan.finished, plan.nodes.values()))


def test_a_node_whose_teacher_now_lies_elsewhere_goes_on(tmp_path):
    plan = plan_of(tmp_path / "here", "kd", epochs=3)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        carried_out(plan, AfterSteps(patch, 6 + 3))  # the teacher takes six
    teacher, student = plan.nodes.values()
    assert (plan.folder(student) / "checkpoints" / "student.pt").exists()
    (tmp_path / "here").rename(tmp_path / "there")
    moved = plan_of(tmp_path / "there", "kd", epochs=3)
    assert carried_out(moved).failures == {}
    assert open_run(moved.folder(student)).stages[0].file == str(moved.folder(teacher) / "teacher.safetensors")


def test_hours_are_those_of_this_machine_or_unknown(tmp_path, monkeypatch):
    plan = plan_of(tmp_path, "kd", seeds=Seeds(2, 2))
    before = outlook(plan, 10, {})
    assert (before.trainings, before.left, before.hours, before.untimed) == (4, 4, None, 4)
    told = {kind_of(node): 1800.0 for node in plan.nodes.values()}
    assert outlook(plan, 10, told).hours == pytest.approx(2.0)
    one = plan_of(tmp_path, "kd")
    carried_out(one)
    after = outlook(plan, 10, {})
    assert (after.left, after.untimed) == (2, 0) and after.hours is not None and after.hours > 0
    files = [file.stat().st_size for file in tmp_path.rglob("*.safetensors")]
    assert 0.5 * sum(files) < before.bytes / 2 < 5 * sum(files), "what seed 0 left, and a checkpoint"
    monkeypatch.setattr("fastkd.plan.outlook.this_call", lambda: {"host": "elsewhere"})
    assert outlook(plan, 10, {}).untimed == 2, "another machine's hours are not ours"


def test_a_cell_says_that_the_data_have_other_classes_than_the_papers(tmp_path):
    plan = Plan(tmp_path, [Cell.of("kd", replace(recipe(), published_classes=100), Seeds())])
    made = Worker(plan, torch.device("cpu"), session())
    made.open_data(plan.cells[0].recipe)
    assert "10 classes instead of 100" in made.as_opened(plan.cells[0]).recipe.deviations


_CALL = """
import sys
from pathlib import Path
sys.path.insert(0, "tests/plan")
from test_worker import carried_out, plan_of
assert carried_out(plan_of(Path(sys.argv[1]), "kd", "kd+sp", "kd+at")).failures == {}
"""


@pytest.mark.slow
def test_two_at_once_do_each_training_once(tmp_path):
    command = [sys.executable, "-c", _CALL, str(tmp_path)]
    both = [subprocess.Popen(command, env=with_paths()) for _ in range(2)]
    assert [process.wait(300) for process in both] == [0, 0]
    plan = plan_of(tmp_path, "kd", "kd+sp", "kd+at")
    made = [calls(read_json(plan.folder(node) / "env.json")) for node in plan.nodes.values()]
    assert len(made) == 4 and all(len(one) == 1 for one in made)


@pytest.mark.slow
def test_killed_at_any_time_the_rest_is_done(tmp_path):
    command = [sys.executable, "-c", _CALL, str(tmp_path)]
    for seconds in (3, 4, 5, 6, 7):
        process = subprocess.Popen(command, env=with_paths())
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert subprocess.run(command, env=with_paths(), timeout=300, check=False).returncode == 0
    whole = plan_of(tmp_path / "whole", "kd", "kd+sp", "kd+at")
    carried_out(whole)
    killed = plan_of(tmp_path, "kd", "kd+sp", "kd+at")
    for digest, node in whole.nodes.items():
        file = f"{node.own.name}.safetensors"
        assert (killed.folder(killed.nodes[digest]) / file).read_bytes() == (whole.folder(node) / file).read_bytes()


_RANK = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, "tests/plan")
from test_worker import plan_of, session
from fastkd.plan import worker
from fastkd.support import distributed
from fastkd.support.errors import UserError
from fastkd.support.joining import processes

train = worker.carry_out

def fails_on_one(job, folder, session):
    if sys.argv[2] == "fails" and job.recipe.stages[-1].method == "kd+sp" and distributed.rank() == 1:
        raise UserError("rank 1 cannot read its images")
    return train(job, folder, session)

worker.carry_out = fails_on_one
with processes(torch.device("cpu")) as device:
    worker.Worker(plan_of(Path(sys.argv[1]), "kd", "kd+sp"), device, session()).work()
"""


@pytest.mark.slow
def test_two_ranks_share_a_plan_and_one_that_fails_ends_both(tmp_path):
    (tmp_path / "rank.py").write_text(_RANK)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = [*torchrun, str(tmp_path / "rank.py"), str(tmp_path / "out")]
    failed = subprocess.run([*command, "fails"], env=with_paths(), timeout=300, capture_output=True, text=True)
    assert failed.returncode != 0 and "rank 1 cannot read its images" in failed.stderr
    assert subprocess.run([*command, ""], env=with_paths(), timeout=300, check=False).returncode == 0
    plan = plan_of(tmp_path / "out", "kd", "kd+sp")
    assert all(map(plan.finished, plan.nodes.values())) and not list(tmp_path.rglob("claim*"))
