"""A run leaves signs of life: now and then, whole, and none of them can end it."""

import json
import os
import time

import pytest

from fastkd.support import heartbeat as module
from fastkd.support.errors import UserError
from fastkd.support.heartbeat import SILENT, Heartbeat, beating, patience_of, read_heartbeat
from fastkd.support.interrupt import Stopped


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def file(tmp_path):
    return tmp_path / "heartbeat.json"


def test_a_sign_says_who_lives_and_what_is_known(file):
    heart = Heartbeat(file)
    heart.know(loss=0.5)
    before = time.time()
    heart.beat(stage="student", step=7)
    found = read_heartbeat(file)
    assert (found["state"], found["stage"], found["step"], found["loss"]) == ("running", "student", 7, 0.5)
    assert found["pid"] == os.getpid() and found["processes"] == 1 and found["host"]
    assert before - 1 <= found["time"] <= time.time() + 1 and abs(file.stat().st_mtime - found["time"]) < 60


def test_signs_come_now_and_then(file, clock):
    heart = Heartbeat(file, every_seconds=10)
    seen = []
    for seconds in (0, 9.9, 0.1, 3, 7):
        clock[0] += seconds
        due = heart.is_due()
        heart.beat_if_due(step=len(seen))
        seen.append(due)
    assert seen == [True, False, True, False, True] and read_heartbeat(file)["step"] == 4


def test_what_begins_knows_nothing_of_what_was_before(file):
    heart = Heartbeat(file)
    heart.beat(stage="teacher", epoch=20)
    heart.begin(stage="student", seed=1)
    found = read_heartbeat(file)
    assert found["stage"] == "student" and "epoch" not in found and found["doing"] == "beginning"


@pytest.mark.parametrize(
    ("error", "state", "why"),
    (
        (None, "finished", None),
        (Stopped("stopped by SIGTERM in student"), "stopped", "stopped by SIGTERM in student"),
        (KeyboardInterrupt(), "stopped", "Ctrl-C"),
        (RuntimeError("the disk\nis full"), "failed", "the disk is full"),
        (ZeroDivisionError(), "failed", "ZeroDivisionError"),
    ),
)
def test_the_last_one_says_how_it_ended(error, state, why, file):
    def block():
        with beating(Heartbeat(file)) as heart:
            assert read_heartbeat(file)["state"] == "running"
            heart.beat(stage="student", seconds_left=9.0)
            if error is not None:
                raise error

    if error is None:
        block()
    else:
        with pytest.raises(type(error)):
            block()
    found = read_heartbeat(file)
    assert (found["state"], found.get("why"), found["stage"]) == (state, why, "student")
    assert "seconds_left" not in found and "doing" not in found


def test_a_full_disk_is_a_word_and_no_end(file, monkeypatch):
    told = []
    heart = Heartbeat(file, tell=told.append)

    def full(*_):
        raise UserError(f"cannot write {file}: the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_json", full)
        with beating(heart):
            heart.beat(step=1)
    assert told == [f"no sign of life is left: cannot write {file}: the disk is full; the run goes on"]
    heart.beat(step=2)
    assert read_heartbeat(file)["step"] == 2, "it is tried again"


def test_without_a_file_nothing_is_due_and_nothing_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with beating(SILENT) as heart:
        heart.beat(step=1)
        assert not heart.is_due()
    assert not list(tmp_path.iterdir())


def test_patience_grows_with_the_steps():
    assert patience_of(0.01) == 120 and patience_of(60) == 1200


def test_one_that_is_damaged_is_one_line(file):
    for content in ("", "{", "[]", json.dumps({"state": "dead"}), json.dumps({"state": "running"})):
        file.write_text(content)
        with pytest.raises(UserError, match=r"heartbeat\.json"):
            read_heartbeat(file)
