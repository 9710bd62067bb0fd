"""Whoever wrote a file says who it was, so that others on its machine can tell whether it still lives."""

import os
import subprocess
import sys

import pytest

from fastkd.support.processes import is_gone, own_process


def test_this_process_lives():
    assert own_process()["pid"] == os.getpid() and is_gone(own_process()) is False


def test_one_that_has_ended_is_gone_and_so_is_one_whose_number_another_has():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert is_gone(own_process() | {"pid": child.pid, "begun": "1"}) is True
    assert is_gone(own_process() | {"begun": "1"}) is True


@pytest.mark.parametrize(
    "other", ({"host": "elsewhere"}, {"boot": "another"}, {"namespace": "pid:[1]"}, {"host": None})
)
def test_nobody_knows_of_another_machine(other):
    assert is_gone(own_process() | other) is None
    assert is_gone({}) is None


@pytest.mark.parametrize("pid", (None, "1", -1, 10**30, [], True))
def test_what_is_no_number_of_a_process_is_no_error(pid):
    assert is_gone(own_process() | {"pid": pid}) in (None, True)
