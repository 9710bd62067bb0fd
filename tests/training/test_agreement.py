"""Two gloo processes record a step together or not at all, by a recorder that needs no GPU; none of them hangs."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from helpers.places import ROOT
from helpers.subprocesses import with_paths

from fastkd.training import agreement
from fastkd.training.agreement import NotTogether, agreeing, in_one_line, together


def carried_out(folder, *scenarios):
    """What both processes report of each scenario."""
    environment = with_paths(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    command = [sys.executable, "-m", "helpers.capture_two_processes", str(folder), *scenarios]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes)
    try:
        _, err = process.communicate(timeout=1800)
    finally:
        if process.poll() is None:  # its own processes would wait for each other for ever
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, err
    # Our own file of a moment ago; what is in it is more than tensors.
    return {
        name: [torch.load(folder / f"{name}-{rank}.pt", weights_only=False) for rank in range(2)] for name in scenarios
    }


def assert_trained_as(found, expected):
    """Bit for bit, and with the same sums of losses and hits."""
    for one, other in zip(found, expected, strict=True):
        assert one["weights"].keys() == other["weights"].keys()
        for name, value in one["weights"].items():
            assert torch.equal(value, other["weights"][name]), name
        assert one["totals"] == other["totals"]


def assert_parameters_are_equal(found):
    one, other = (each["weights"] for each in found)
    assert all(torch.equal(one[name], other[name]) for name in one if "running" not in name)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    return carried_out(tmp_path_factory.mktemp("two"), "plain", "captured", "one message", "refused")


@pytest.fixture(scope="module")
def all_ran(tmp_path_factory):
    from helpers.capture_two_processes import SCENARIOS

    return carried_out(tmp_path_factory.mktemp("two"), *SCENARIOS)


class TestTwoProcesses:
    def test_a_step_that_is_replayed_is_the_step(self, ran):
        assert_trained_as(ran["captured"], ran["plain"])
        assert_parameters_are_equal(ran["plain"])
        for found in ran["captured"]:
            assert found["told"][0].startswith("captured in") and found["told"][0].endswith("10 steps a replay")
            assert found["taken"] == [10, 1, 1, 1, 1, 1, 1] and found["replays"] == 14

    def test_at_least_eleven_steps_with_messages_come_before(self, ran):
        """DDP measures its first ten. What fails in those without messages, which come first, leaves nobody waiting."""
        assert [found["rehearsed"] for found in ran["captured"]] == [[3, 11]] * 2

    def test_ddp_is_built_on_the_stream_of_the_capture(self, ran):
        assert [found["built_inside"] for found in ran["captured"]] == [[True]] * 2

    def test_where_the_reducer_cannot_be_captured_all_gradients_are_one_message_and_the_mean_is_ddps(self, ran):
        assert_trained_as(ran["one message"], ran["plain"])
        for found in ran["one message"]:
            assert found["one_message"] and found["replays"] == 14
            reason = "process 0: RuntimeError: call 3 of the recorder fails"
            assert f"a replay, all gradients in one message (DDP's reducer: {reason}" in found["told"][0]

    def test_what_one_cannot_record_none_does_and_both_are_told_the_first_reason(self, ran):
        """They go on as they would without a recorder, with a reducer that is built on the usual stream again."""
        assert_trained_as(ran["refused"], ran["plain"])
        for found in ran["refused"]:
            (told,) = found["told"]
            assert told.startswith("not captured: process 1: RuntimeError: call 3 of the recorder fails")
            assert found["replays"] == 0 and not found["one_message"]
            assert found["built_inside"] == [True, False], "the one message needs no reducer"


@pytest.mark.slow
class TestTwoProcessesSlowly:
    @pytest.mark.parametrize(
        "scenario, told",
        [
            ("one message, second graph", "in one message (DDP's reducer: process 1: RuntimeError: call 4 of the"),
            ("parts, captured", "10 steps a replay"),
            ("parts, one message", "in one message (DDP's reducer: process 1: RuntimeError: call 3 of the"),
            ("teacher, captured", "10 steps a replay"),
            ("bfloat16, captured", "10 steps a replay"),
            ("bfloat16, one message", "in one message (DDP's reducer: process 1: RuntimeError: call 3 of the"),
            ("teacher, one message", "in one message (DDP's reducer: process 1: RuntimeError: call 3 of the"),
        ],
    )
    def test_it_is_captured(self, scenario, told, all_ran):
        kind = scenario.partition(",")[0]
        assert_trained_as(
            all_ran[scenario], all_ran[f"{kind}, plain" if kind in ("parts", "teacher", "bfloat16") else "plain"]
        )
        for found in all_ran[scenario]:
            assert found["told"][0].startswith("captured in") and told in found["told"][0]
            assert found["replays"] == 14

    @pytest.mark.parametrize(
        "scenario, told",
        [
            ("refused alone", "not captured: process 1: RuntimeError: call 1 of the recorder fails"),
            ("refused behind messages", "not captured: process 1: RuntimeError: call 2 of the recorder fails, behind"),
            ("refused by both", "not captured: process 0: RuntimeError: call 3 of the recorder fails"),
            ("not compiled", "not compiled: process 1: StopIteration"),
        ],
    )
    def test_it_is_not_and_both_are_told_the_first_reason(self, scenario, told, all_ran):
        assert_trained_as(all_ran[scenario], all_ran["plain"])
        assert all_ran[scenario][0]["told"] == all_ran[scenario][1]["told"]
        for found in all_ran[scenario]:
            assert found["told"][0].startswith(told) and found["replays"] == 0

    def test_a_process_that_fails_among_its_messages_ends_the_run_of_both(self, all_ran):
        for found in all_ran["out of step"]:
            assert found["mistake"].startswith("process 1: RuntimeError: the meter is full")
            assert found["mistake"].endswith("; the other processes went on, so that their messages do not fit")

    def test_a_batch_of_which_one_process_has_lost_images_is_replayed_by_neither(self, all_ran):
        assert_trained_as(all_ran["lost images, captured"], all_ran["lost images, plain"])
        assert [found["replays"] for found in all_ran["lost images, captured"]] == [30, 30]

    def test_ddp_measures_nothing_in_steps_that_are_recorded(self, all_ran):
        """It would again after a hundred."""
        longer = all_ran["longer than DDP's pause between measurements"]
        assert [(found["timed"], 8 * len(found["taken"])) for found in longer] == [(10, 56)] * 2


class TestOneProcess:
    def test_its_own_error_is_raised(self):
        with pytest.raises(ZeroDivisionError):
            together(lambda: 1 // 0)
        assert together(lambda: 3) == 3

    def test_its_recorder_is_its_own(self):
        recorder = object()
        assert agreeing(recorder) is recorder


class TestOneOfSeveral:
    """What the others say is put into its mouth."""

    def saying(self, monkeypatch, others):
        said = []

        def first_of_all(mine):
            said.append(mine)
            return others if others is not None else mine

        monkeypatch.setattr(agreement, "world_size", lambda: 2)
        monkeypatch.setattr(agreement, "first_of_all", first_of_all)
        return said

    def test_it_says_that_it_succeeded_and_learns_that_another_did_not(self, monkeypatch):
        said = self.saying(monkeypatch, "process 1: OSError: no")
        with pytest.raises(NotTogether, match="process 1: OSError: no"):
            together(lambda: 3)
        assert said == [None]

    def test_it_is_told_the_first_reason_and_keeps_its_own_beside_it(self, monkeypatch):
        said = self.saying(monkeypatch, "process 0: OSError: no")
        with pytest.raises(NotTogether) as caught:
            together(lambda: 1 // 0)
        assert in_one_line(caught.value) == "process 0: OSError: no"
        assert said[0].startswith("process 0: ZeroDivisionError") and isinstance(
            caught.value.__cause__, ZeroDivisionError
        )
