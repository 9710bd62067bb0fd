"""Where records go beside metrics.jsonl."""

import csv
import json
import math
import sys
from types import ModuleType, SimpleNamespace

import pytest
from helpers.commands import TINY
from helpers.made_runs import record

from fastkd import train
from fastkd.support.errors import UserError
from fastkd.support.log import MetricsLog, read_metrics
from fastkd.support.loggers import as_csv, numbers

RECORD = {"stage": "student", "step": 4, "train": {"loss": 0.5, "kl": math.nan}, "test": {}, "done": True}


class Writer:
    """Stands for tensorboard's SummaryWriter."""

    def __init__(self, folder):
        self.folder, self.scalars = folder, []

    def add_scalar(self, *scalar):
        self.scalars.append(scalar)


class Run:
    """Stands for a run of W&B."""

    def __init__(self, **settings):
        self.settings, self.metrics, self.logged = settings, [], []

    def define_metric(self, name, step_metric):
        self.metrics.append((name, step_metric))

    def log(self, values):
        self.logged.append(values)


class Client:
    """Stands for MLflow's client; all of them are of one server."""

    runs, logged = [], []

    def get_experiment_by_name(self, name):
        return None

    def create_experiment(self, name):
        return "1"

    def create_run(self, place, run_name):
        self.runs.append(run_name)
        return SimpleNamespace(info=SimpleNamespace(run_id=f"{len(self.runs):032x}"))

    def log_param(self, run, name, value):
        pass

    def log_metric(self, run, name, value, step):
        self.logged.append((run, name, value, step))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


@pytest.fixture
def packages(monkeypatch):
    """Modules that stand for those of the extras."""

    def put(name, **content):
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)

    put("torch.utils.tensorboard", SummaryWriter=Writer)
    put("wandb", init=Run)
    put("mlflow", MlflowClient=Client)
    monkeypatch.setattr(Client, "runs", [])
    monkeypatch.setattr(Client, "logged", [])


def test_tensorboard_has_a_curve_for_every_number(path, packages):
    log = MetricsLog(path, loggers=("tensorboard",))
    log.append(RECORD)
    log.append({"seconds": 2})
    board = log.loggers["tensorboard"]
    assert board.writer.folder == str(path.parent / "tensorboard")
    names = [(name, step) for name, _, step in board.writer.scalars]
    assert names == [("student/step", 4), ("student/train/loss", 4), ("student/train/kl", 4), ("run/seconds", 0)]
    assert path.read_text().count("\n") == 2, "the file has them all the same"


def test_wandb_counts_the_steps_of_each_stage(path, packages):
    (path.parent / "recipe.json").write_text(json.dumps({"name": "digits"}))
    log = MetricsLog(path, loggers=("wandb",))
    log.append(RECORD)
    run = log.loggers["wandb"].run
    assert run.metrics == [("student/*", "student/step")] and run.logged[0]["student/train/loss"] == 0.5
    assert run.settings["config"] == {"name": "digits"} and run.settings["resume"] == "allow"
    again = MetricsLog(path, loggers=("wandb",)).loggers["wandb"].run
    assert again.settings["id"] == run.settings["id"], "a run that is resumed goes on"


def test_mlflow_goes_on_in_the_run_that_it_began(path, packages):
    for _ in range(2):
        MetricsLog(path, loggers=("mlflow",)).append(RECORD)
    assert Client.runs == [path.parent.name] and {run for run, *_ in Client.logged} == {f"{1:032x}"}
    (path.parent / "mlflow-run").write_text("../../elsewhere")
    MetricsLog(path, loggers=("mlflow",)).append(RECORD)
    assert len(Client.runs) == 2, "what is no name of a run is none"


def test_what_each_rank_measured_has_curves_and_columns_of_its_own():
    measured = {"grad_norm": 2.0, "memory": {"rss": 4096}, "ranks": {"0": {"loss": 0.25}, "1": {"loss": 0.75}}}
    found = numbers(RECORD | measured)
    assert (found["grad_norm"], found["memory/rss"], found["ranks/1/loss"]) == (2.0, 4096, 0.75)
    head = as_csv([RECORD, RECORD | measured]).splitlines()[0].split(",")
    assert {"grad_norm", "memory.rss", "ranks.0.loss", "ranks.1.loss"} <= set(head)


def test_csv_holds_what_the_log_does(path):
    log = MetricsLog(path, loggers=("csv",))
    for one in (record("teacher", 0, 80, 1), RECORD, record("control", 0, 60, 1)):
        log.append(one)
    check_csv(path.parent)


@pytest.mark.slow
def test_csv_is_an_option_of_a_training(tmp_path):
    assert train.main([*TINY, "--run", str(tmp_path / "run"), "--logger", "csv"]) == 0
    check_csv(tmp_path / "run")


def check_csv(folder):
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    records = [one for one in read_metrics(folder / "metrics.jsonl") if "epoch" in one]
    assert [(row["stage"], int(row["epoch"])) for row in rows] == [(one["stage"], one["epoch"]) for one in records]
    last, counts = rows[-1], records[-1]["test"]["control"]
    assert float(last["test.control.top1"]) == counts["top1"] / counts["samples"]
    assert rows[0]["test.control.top1"] == "" and float(rows[0]["train.loss"]) == records[0]["train"]["loss"]


@pytest.mark.parametrize("name, module", [("tensorboard", "torch.utils.tensorboard"), ("wandb",) * 2, ("mlflow",) * 2])
def test_without_the_package_one_line_says_how_to_get_it(name, module, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"^--logger {name} needs the package {name}: pip install 'fastkd\["):
        train.main([*TINY, "--run", str(tmp_path / "run"), "--logger", name])
    assert not (tmp_path / "run").exists()


def test_a_service_that_refuses_is_one_line(path, packages, monkeypatch):
    def refuses(self):
        raise ConnectionError("no server at http://here\nand a page of advice")

    monkeypatch.setattr(Client, "__init__", refuses)
    with pytest.raises(UserError, match="^--logger mlflow cannot begin: no server at http://here$"):
        MetricsLog(path, loggers=("mlflow",))


def test_a_service_that_fails_in_the_middle_costs_its_curves_alone(path, packages, monkeypatch):
    told = []
    log = MetricsLog(path, loggers=("mlflow", "csv"), tell=told.append)
    log.append(RECORD)

    def gone(self, run, name, value, step):
        raise ConnectionError("connection reset\nand a page of advice")

    monkeypatch.setattr(Client, "log_metric", gone)
    for _ in range(2):
        log.append(RECORD)
    assert told == ["--logger mlflow has failed: connection reset; the run goes on with metrics.jsonl alone"]
    assert len(path.read_text().splitlines()) == 3 and list(log.loggers) == ["csv"]


def test_nothing_is_imported_unless_it_is_asked_for(path, monkeypatch):
    for name in ("torch.utils.tensorboard", "wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
    MetricsLog(path).append(RECORD)
    assert path.exists()
