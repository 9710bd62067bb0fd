"""Who may work on a folder: one at a time, the living before the dead."""

import json
import os
import threading
import time

import pytest

from fastkd.plan import claims
from fastkd.plan.claims import claimed, holder
from fastkd.support import processes
from fastkd.support.processes import own_process


def write(folder, **changed):
    """A claim as another process would have written it."""
    own = {"token": "of another", **own_process()} | changed
    (folder / "claim").write_text(json.dumps(own))


def test_one_at_a_time(tmp_path):
    with claimed(tmp_path) as first, claimed(tmp_path) as second:
        assert first is not None and second is None
        assert holder(tmp_path).endswith(f"process {os.getpid()}")
    assert not list(tmp_path.iterdir()) and holder(tmp_path) == ""


def test_of_a_process_that_is_gone(tmp_path):
    write(tmp_path, pid=os.getppid(), begun="1")
    assert holder(tmp_path) == ""
    with claimed(tmp_path) as ours:
        assert ours is not None


def test_of_a_process_of_this_machine_that_sleeps(tmp_path):
    """It may wake up: as long as it lives, whoever takes its place would write in one folder with it."""
    write(tmp_path)
    os.utime(tmp_path / "claim", (1, 1))
    with claimed(tmp_path) as ours:
        assert ours is None


@pytest.mark.parametrize("gone", [False, True])
def test_of_a_process_that_the_system_hides(tmp_path, monkeypatch, gone):
    """As /proc does for the processes of others, on machines that many share."""

    def kill(pid, number):
        raise ProcessLookupError if gone else PermissionError

    write(tmp_path, begun="")
    monkeypatch.setattr(processes, "_begun", lambda pid: "")
    monkeypatch.setattr(processes.os, "kill", kill)
    with claimed(tmp_path) as ours:
        assert (ours is not None) == gone


def test_of_another_machine_while_its_heart_beats(tmp_path):
    write(tmp_path, host="elsewhere", pid=1, begun="1")
    assert holder(tmp_path) == "elsewhere, process 1"
    with claimed(tmp_path) as ours:
        assert ours is None
    assert json.loads((tmp_path / "claim").read_text())["token"] == "of another"


def test_of_another_machine_whose_heart_has_stopped(tmp_path):
    write(tmp_path, host="elsewhere")
    then = time.time() - claims.STALE_SECONDS - 10
    os.utime(tmp_path / "claim", (then, then))
    with claimed(tmp_path) as ours:
        assert ours is not None


def test_the_heart_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.01)
    with claimed(tmp_path) as ours:
        assert ours is not None
        os.utime(tmp_path / "claim", (1, 1))
        wait_for(lambda: (tmp_path / "claim").stat().st_mtime > 1)


def test_who_wakes_up_too_late_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.01)
    told = threading.Event()
    with claimed(tmp_path) as ours:
        assert ours is not None
        ours.lost = told.set
        write(tmp_path)
        assert told.wait(10)
    assert json.loads((tmp_path / "claim").read_text())["token"] == "of another", "it is not removed by the loser"


def test_of_many_who_find_a_stale_claim_one_gets_it(tmp_path):
    for _ in range(20):
        write(tmp_path, begun="1")
        together, got = threading.Barrier(8), []

        def race(together=together, got=got):
            together.wait()
            with claimed(tmp_path) as ours:
                got.append(ours is not None)
                together.wait()

        threads = [threading.Thread(target=race) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(got) == 1
        assert not list(tmp_path.iterdir()), "nothing is left beside it"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"pid": "x"}'])
def test_what_is_no_claim_is_waited_for_and_then_removed(tmp_path, content):
    """It may be one that is being written."""
    (tmp_path / "claim").write_bytes(content)
    with claimed(tmp_path) as ours:
        assert ours is None
    os.utime(tmp_path / "claim", (1, 1))
    with claimed(tmp_path) as ours:
        assert ours is not None


def wait_for(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
