"""What a run was made with, and what it may use of the machine."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

import fastkd
from fastkd.support import environment
from fastkd.support.errors import UserError

CPU = torch.device("cpu")


def git(folder, *arguments):
    own = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(folder), *own, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder of which fastkd believes that it runs from there."""
    (tmp_path / "fastkd" / "support").mkdir(parents=True)
    (tmp_path / "tracked").write_text("as committed")
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "fastkd" / "support" / "environment.py"))
    return tmp_path


class TestCommit:
    def test_a_clean_checkout_names_its_commit_and_a_changed_one_has_a_plus(self, checkout):
        git(checkout, "init", "-q")
        git(checkout, "add", "tracked")
        git(checkout, "commit", "-q", "-m", "one")
        commit = environment.git_commit()
        assert len(commit) == 12 and set(commit) <= set("0123456789abcdef")
        (checkout / "untracked").write_text("runs and notes change no number")
        assert environment.git_commit() == commit
        (checkout / "tracked").write_text("changed")
        assert environment.git_commit() == commit + "+"

    def test_an_installed_package_has_none(self, checkout):
        assert environment.git_commit() is None

    def test_a_checkout_without_a_commit_has_none(self, checkout):
        git(checkout, "init", "-q")
        assert environment.git_commit() is None

    def test_without_git_there_is_none(self, checkout, monkeypatch):
        git(checkout, "init", "-q")
        monkeypatch.setenv("PATH", "")
        assert environment.git_commit() is None

    def test_a_git_that_hangs_does_not_hold_the_run_up(self, checkout, monkeypatch):
        git(checkout, "init", "-q")

        def hanging(*arguments, timeout, **options):
            raise subprocess.TimeoutExpired("git", timeout)

        monkeypatch.setattr(subprocess, "run", hanging)
        assert environment.git_commit() is None


class TestCollect:
    def test_it_is_plain_json_that_names_the_versions(self):
        found = environment.collect()
        assert json.loads(json.dumps(found)) == found
        assert found["fastkd"] == fastkd.__version__
        assert found["packages"]["torch"] and found["packages"]["numpy"]
        assert found["threads"] == torch.get_num_threads() and found["cores"] >= 1

    def test_a_package_that_is_not_installed_is_left_out(self, monkeypatch):
        monkeypatch.setattr(environment, "_PACKAGES", ("torch", "no-such-package-of-anybodys"))
        assert list(environment.collect()["packages"]) == ["torch"]


class TestThreads:
    @pytest.mark.parametrize(
        "wanted, named, processes, expected",
        [
            (3, "5", 1, 3),
            (3, "5", 4, 3),
            (None, "5", 1, 5),
            (None, "5", 4, 5),
            (None, None, 1, 8),
            (None, None, 2, 4),
            (None, None, 3, 2),
            (None, None, 16, 1),
            (None, "", 2, 4),
            (None, "0", 2, 4),
            (None, "4,2", 2, 4),
        ],
    )
    def test_what_is_asked_for_then_the_variable_then_a_share_of_the_cores(
        self, wanted, named, processes, expected, monkeypatch
    ):
        monkeypatch.setattr(environment, "cores", lambda: 8)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if named is not None:
            monkeypatch.setenv("OMP_NUM_THREADS", named)
        assert environment.threads(wanted, processes) == expected

    def test_they_are_what_torch_computes_with(self):
        before = torch.get_num_threads()
        try:
            environment.set_threads(before + 1)
            assert torch.get_num_threads() == before + 1
        finally:
            torch.set_num_threads(before)

    def test_cores_are_those_the_process_may_use(self):
        allowed = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, {min(allowed)})
            assert environment.cores() == 1
        finally:
            os.sched_setaffinity(0, allowed)
        assert environment.cores() == len(allowed)


class TestDevice:
    @pytest.mark.parametrize("there, expected", ((False, "cpu"), (True, "cuda")))
    def test_auto_is_the_gpu_where_there_is_one(self, there, expected, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
        assert environment.pick_device("auto") == torch.device(expected)

    def test_the_cpu_may_be_asked_for_where_there_is_a_gpu(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert environment.pick_device("cpu") == CPU

    def test_a_gpu_that_is_not_there_is_one_line(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(UserError, match="^--device cuda: this machine has no GPU that torch can use$"):
            environment.pick_device("cuda")


def test_peak_memory_on_the_cpu_is_that_of_the_process_in_bytes():
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert 0.9 * resident < environment.peak_memory(CPU) < 1000 * resident


def test_memory_is_that_of_the_process_and_of_its_gpu(monkeypatch):
    assert environment.memory(CPU).keys() == {"rss"} and environment.memory(CPU)["rss"] > 1 << 24
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 7)
    found = environment.memory(torch.device("cuda", 1))
    assert (found["max_allocated"], found["max_reserved"]) == (5, 7) and "rss" in found


class TestCalls:
    def test_a_call_has_its_time_place_and_command(self, monkeypatch):
        monkeypatch.setattr(sys, "orig_argv", ["/opt/venv/bin/python", "-m", "fastkd.train", "--run", "my runs/1"])
        call = environment.this_call()
        assert call["command"] == "python -m fastkd.train --run 'my runs/1'" and call["host"]
        then = datetime.fromisoformat(call["date"])
        assert then.tzinfo is not None and abs((datetime.now(UTC) - then).total_seconds()) < 60

    def test_earlier_calls_come_first(self):
        one, other = ({"date": f"{day}", "host": "here", "command": "train"} for day in (1, 2))
        assert environment.calls(other | {"earlier": [one], "cores": 2}) == [one, other]

    @pytest.mark.parametrize("told", ({}, {"earlier": []}, {"earlier": [{}], "date": "x"}))
    def test_a_file_that_tells_of_none_has_none(self, told):
        assert environment.calls(told) == []
