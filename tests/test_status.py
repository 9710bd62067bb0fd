"""The line of each run, and the program's code."""

import json
import os
import signal
import time

import pytest
from helpers.made_runs import write_run
from helpers.processes import TINY, start
from helpers.tiny import tiny_recipe

from fastkd import status
from fastkd.run.status import RunStatus, status_of
from fastkd.support.command_line import command
from fastkd.support.heartbeat import FILE, Heartbeat, read_heartbeat

HITS = {"teacher": [80], "student": [70], "control": [60]}


@pytest.fixture
def runs(tmp_path):
    """One that is finished, and one that says to be running."""
    write_run(tmp_path / "done", tiny_recipe(), HITS)
    write_run(tmp_path / "running", tiny_recipe(), HITS)
    sign = Heartbeat(tmp_path / "running" / FILE)
    sign.beat(stage="student", seed=1, epoch=2, epochs=20, step=30, steps=400, loss=1.5, doing="training")
    return tmp_path


def test_a_line_for_each_run(runs, capsys):
    assert status.main([str(runs)]) == 0
    done, running = capsys.readouterr().out.splitlines()
    assert done.startswith(
        f"{runs}/done     finished  control  epoch 3/2  step 12  1 images/s  loss 1.0000  top-1 60.00%"
    )
    assert running.startswith(f"{runs}/running  running   seed 1 student  epoch 2/20  step 30/400  loss 1.5000")
    assert running.partition(" ago on ")[2]


def test_what_is_known_is_said_and_nothing_else(tmp_path):
    known = {"stage": "student", "images_per_second": 1234.5, "seconds_left": 75.0, "run_seconds_left": 7500.0}
    heard = {"host": "node7", "processes": 8, "silent_for": 4.0, "last": 0.0, "doing": "compiling"}
    one = RunStatus(folder=tmp_path, state="running", **known, **heard)
    two = RunStatus(folder=tmp_path, state="damaged", doing="heartbeat.json is \x1b[31mred")
    assert status.lines([one, two]) == [
        f"{tmp_path}  running  student  1,234 images/s  1m15s left, run 2h05m  compiling  4s ago on node7, 8 processes",
        f"{tmp_path}  damaged  heartbeat.json is \\x1b[31mred",
    ]


@pytest.mark.parametrize(
    ("facts", "code"),
    (({}, 0), ({"state": "finished"}, 0), ({"state": "stopped"}, 1), ({"state": "failed"}, 1), ({"begun": "1"}, 1)),
)
def test_the_code_says_whether_all_is_well(facts, code, runs, capsys):
    sign = runs / "running" / FILE
    sign.write_text(json.dumps(json.loads(sign.read_text()) | facts))
    assert status.main([str(runs / "running"), str(runs / "done")]) == code


def test_as_json(runs, capsys):
    sign = runs / "running" / FILE
    sign.write_text(json.dumps(json.loads(sign.read_text()) | {"loss": float("nan")}))
    assert status.main([str(runs), "--json"]) == 0
    done, running = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (done["state"], done["accuracy"]) == ("finished", 0.6)
    assert (running["folder"], running["step"], running["seed"]) == (f"{runs}/running", 30, 1)


def test_watching_ends_when_nothing_runs_any_more(runs, capsys, monkeypatch):
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        sign = json.loads((runs / "running" / FILE).read_text())
        (runs / "running" / FILE).write_text(json.dumps(sign | {"state": "failed", "why": "the disk is full"}))

    monkeypatch.setattr(status, "sleep", sleep)
    assert status.main([str(runs / "running"), "--watch", "5"]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert slept == [5.0] and "  running  " in first and "  failed  " in second and "the disk is full" in second


def test_mistakes_are_one_line(tmp_path, capsys):
    for arguments in ([], [str(tmp_path / "nowhere")], [str(tmp_path)], [str(tmp_path), "--watch", "0"]):
        assert command(status.main, arguments) == 2
        shown = capsys.readouterr()
        assert shown.err.startswith("fastkd: ") and shown.err.count("\n") == 1 and not shown.out


@pytest.mark.slow
def test_a_job_that_is_killed_is_told_from_one_that_runs(tmp_path):
    """Two processes, as torchrun starts them; nothing that dies can say so."""
    run = tmp_path / "run"
    more = ["--epochs", "5000", "--run", str(run), "--heartbeat", "0.2"]
    process, ends = start(*TINY, *more), time.monotonic() + 120
    try:
        while not (run / FILE).exists() or status_of(run).step is None:
            assert process.poll() is None and time.monotonic() < ends
            time.sleep(0.1)
        found = status_of(run)
        assert (found.state, found.stage, found.processes) == ("running", "teacher", 2)
        os.kill(read_heartbeat(run / FILE)["pid"], signal.SIGKILL)
    finally:
        process.terminate()
        process.communicate()
    assert status_of(run).state == "killed" and status.main([str(run)]) == 1
