"""Faults of two machines: what they cost is the time since the last checkpoint, and nothing else.

Two network namespaces stand for the machines; torchrun's agents in them meet over a cable that can be taken out. A run
is held against one that nothing has happened to: every step that counts was made of the same images in the same crops;
it ends with the same bytes where two processes made all of them, else with the same numbers but for rounding.
"""

import json
import os
import signal
import time

import pytest
from helpers import nodes as places
from helpers.nodes import two_nodes, wait_until
from helpers.places import TESTS
from helpers.processes import finish, parameters, start
from helpers.tiny import assert_same, outcome

pytestmark = pytest.mark.slow

PROGRAM = TESTS / "helpers" / "witnessed.py"
SHORT = ["--seeds", "1", "--threads", "1", "--limit-train", "128", "--batch-size", "32", "--epochs", "8"]
SHORT += ["--teacher-training", "standard", "--control", "off", "--teacher-epochs", "80", "--eval-every", "10"]
SHORT += ["--lr", "0.01"]
PLAIN = [*SHORT, "--teacher-net", "plain8", "--student", "plain8", "--method", "crd"]
"""Without BatchNorm, which would see each process's share: what is left of their number is rounding."""
SHARDS = [*SHORT, "--teacher-net", "resnet8", "--student", "resnet8", "--shards", "2"]
"""Whatever the number of processes, each step is made of the same two shards."""
ROUNDING = {"rtol": 2e-3, "atol": 2e-5}
"""One process adds up a batch in another order than two do; after 352 steps the weights differ by so much at most."""


class Place:
    """The folders of one run of two nodes."""

    def __init__(self, folder, how=PLAIN):
        self.folder, self.run, self.witness = folder, folder / "run", folder / "witness"
        self.witness.mkdir(parents=True)
        self.program = ["--", str(PROGRAM), str(self.witness), *how, "--run", str(self.run), "--resume", "auto"]

    def made(self):
        """{stage, step: the images that each of its makings was of}, in one list for all processes of a making."""
        steps = {}
        for file in sorted(self.witness.iterdir()):
            for line in file.read_text().splitlines():
                record = json.loads(line)
                found = steps.setdefault((record["stage"], record["step"]), set())
                found |= {tuple(image) for image in record["images"]}
        return steps

    def has_trained(self, epochs=5):
        return lambda: (self.run / "metrics.jsonl").exists() and len(self.records()) >= epochs

    def records(self):
        return [json.loads(line) for line in (self.run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def namespaces():
    if why := places.why_not():
        pytest.skip(why)


@pytest.fixture(scope="module")
def whole(namespaces, tmp_path_factory):
    return made_whole(Place(tmp_path_factory.mktemp("whole")))


@pytest.fixture(scope="module")
def whole_of_shards(namespaces, tmp_path_factory):
    return made_whole(Place(tmp_path_factory.mktemp("whole"), SHARDS))


def made_whole(place):
    """What nothing happens to."""
    finish(start(*place.program[2:], program=place.program[:2]), seconds=300)
    assert len(place.made()) == 80 * 4 + 8 * 4
    return place


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@pytest.fixture
def nodes(namespaces, tmp_path):
    with two_nodes(tmp_path) as both:
        yield both


def begin(place, nodes, which, **environment):
    """Starts both nodes and waits until they have trained for some epochs."""
    for node in nodes:
        node.start(place.program, which, **environment)
    wait_until(place.has_trained(), nodes[0])


def assert_nothing_was_lost(place, whole, *, bytes_equal):
    """Every step is there, each time that it was made of the same images; the records are those of the whole run."""
    assert place.made() == whole.made()
    if bytes_equal:
        assert_same(outcome(place.run), outcome(whole.run))
        return
    mine, theirs = (outcome(one.run)["log"] for one in (place, whole))
    assert [(r["stage"], r["step"]) for r in mine] == [(r["stage"], r["step"]) for r in theirs]
    for found, expected in zip(mine, theirs, strict=True):
        assert found["train"] == pytest.approx(expected["train"], rel=2e-3)
    for name in ("teacher", "student"):
        found, expected = parameters(place.run, name), parameters(whole.run, name)
        for key, value in expected.items():
            difference = (found[key] - value).abs().max().item()
            assert difference <= ROUNDING["atol"] + ROUNDING["rtol"] * value.abs().max().item(), f"{name}: {key}"


def test_a_process_that_is_killed_comes_back(place, nodes, whole):
    begin(place, nodes, "2:2")
    os.kill(nodes[1].worker(), signal.SIGKILL)
    assert [node.finish() for node in nodes] == [0, 0]
    assert "resumed after epoch" in nodes[0].said()
    assert_nothing_was_lost(place, whole, bytes_equal=True)


def test_a_node_that_is_lost_comes_back_before_the_next_step(place, nodes, whole):
    """The other one waits for it: two nodes are the least."""
    begin(place, nodes, "2:2")
    nodes[1].lose()
    nodes[1].start(place.program, "2:2")
    assert [node.finish() for node in nodes] == [0, 0]
    assert "resumed after epoch" in nodes[0].said()
    assert_nothing_was_lost(place, whole, bytes_equal=True)


def test_a_node_that_is_lost_is_done_without_and_comes_back(place, nodes, whole):
    begin(place, nodes, "1:2")
    nodes[1].lose()
    wait_until(lambda: "begun with 2 processes, goes on with 1" in nodes[0].said(), nodes[0])
    nodes[1].start(place.program, "1:2")
    wait_until(lambda: "begun with 1 process, goes on with 2" in nodes[0].said(), nodes[0])
    assert [node.finish() for node in nodes] == [0, 0]
    assert_nothing_was_lost(place, whole, bytes_equal=False)


def test_a_slow_process_changes_nothing(place, nodes, whole):
    begin(place, nodes, "2:2", FASTKD_TIMEOUT="60")
    worker = nodes[1].worker()
    for _ in range(3):
        os.kill(worker, signal.SIGSTOP)
        time.sleep(2)
        os.kill(worker, signal.SIGCONT)
        time.sleep(0.5)
    assert [node.finish() for node in nodes] == [0, 0]
    assert "waiting for" not in nodes[0].said() and "resumed" not in nodes[0].said()
    assert_nothing_was_lost(place, whole, bytes_equal=True)


def test_a_process_that_is_stopped_for_ever_is_named_and_replaced(place, nodes, whole):
    begin(place, nodes, "2:2", FASTKD_TIMEOUT="12")
    worker = nodes[1].worker()
    os.kill(worker, signal.SIGSTOP)
    name = f"waiting for process 1 (pid {worker} on node-1), "
    wait_until(lambda: name in nodes[0].said(), nodes[0])
    assert "process 0 ends after" not in nodes[0].said(), "it is named before the run ends"
    wait_until(lambda: "process 0 ends after 12 s (FASTKD_TIMEOUT)" in nodes[0].said(), nodes[0])
    assert [node.finish() for node in nodes] == [0, 0]
    assert "Traceback" not in nodes[0].said()
    assert_nothing_was_lost(place, whole, bytes_equal=True)


def test_a_cable_that_is_out_ends_the_run_and_it_goes_on_when_it_is_in(tmp_path, nodes, whole_of_shards):
    """The agent of the node that is cut off is started again, as a scheduler would."""
    place = Place(tmp_path, SHARDS)
    begin(place, nodes, "1:2", FASTKD_TIMEOUT="12")
    nodes[1].plug("down")
    wait_until(lambda: "waiting for process 1 (pid" in nodes[0].said(), nodes[0])
    assert "process 0 ends after" not in nodes[0].said(), "it is named before the run ends"
    wait_until(lambda: "begun with 2 processes, goes on with 1" in nodes[0].said(), nodes[0])
    assert "process 0 (pid" in nodes[1].said(), "the other side names whom it waits for, too"
    nodes[1].lose()
    nodes[1].plug("up")
    nodes[1].start(place.program, "1:2")
    wait_until(lambda: "begun with 1 process, goes on with 2" in nodes[0].said(), nodes[0])
    assert [node.finish() for node in nodes] == [0, 0]
    assert_nothing_was_lost(place, whole_of_shards, bytes_equal=True)


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGHUP))
def test_a_job_that_is_taken_away_goes_on_by_the_same_command(number, place, nodes, whole):
    begin(place, nodes, "2:2")
    for node in nodes:
        node.agent.send_signal(number)
    for node in nodes:
        node.finish()
    assert f"stopped by {number.name} in teacher" in nodes[0].said()
    for node in nodes:
        node.start(place.program, "2:2")
    assert [node.finish() for node in nodes] == [0, 0]
    assert_nothing_was_lost(place, whole, bytes_equal=True)
