"""Batches of so many shards, whatever the number of processes: the same bytes. The processes are threads here."""

import signal
from dataclasses import replace
from functools import cache

import pytest
import torch
from helpers.courses import taught_recipe
from helpers.processes import finish, start, wait_for
from helpers.steps import make_step, step_of_stage
from helpers.threads import ONE_AT_A_TIME, in_threads
from helpers.tiny import outcome
from helpers.without_batchnorm import plain8

from fastkd import networks, train
from fastkd.data import RawBatch
from fastkd.methods.crd import CRDSettings
from fastkd.training.shards import halves, nodes_within


def with_a_bank():
    recipe = taught_recipe("kd+crd")
    *others, student = recipe.stages
    settings = student.settings | {"crd": CRDSettings(negatives=20)}
    return replace(recipe, stages=(*others, replace(student, settings=settings)))


STEPS = {
    "batchnorm": lambda **how: step_of_stage("student", **how),
    "dropout": lambda **how: make_step(network="tf_cnn", **how),
    "memory bank": lambda **how: step_of_stage("student", recipe=with_a_bank(), **how),
}


def trained(kind, processes, **training):
    """What is left of three steps in each process: weights, buffers, momentum, and what the meter reads."""

    def work(rank):
        with ONE_AT_A_TIME:
            step, _ = STEPS[kind](**training)
        loader = step.placing.told(step.loader)
        for number, raw in zip(range(3), loader.epoch(0), strict=False):
            step.stage.begin_step(number)
            step(raw)
        state = {name: value.clone() for name, value in step.stage.state_dict().items()}
        momentum = [state["momentum_buffer"] for state in step.optimizer.state.values()]
        return state | {f"momentum {n}": value for n, value in enumerate(momentum)}, step.meter.read()

    return in_threads(processes, work)


@cache
def by_one(kind, shards):
    ((state, read),) = trained(kind, 1, shards=shards)
    return state, read


CASES = [(kind, 8, processes) for kind in STEPS for processes in (2, 4)]
CASES += [("dropout", 8, 8), ("dropout", 6, 2), ("dropout", 6, 3), ("dropout", 5, 5)]


@pytest.mark.parametrize("kind, shards, processes", CASES)
def test_every_divisor_leaves_the_same_bytes(kind, shards, processes):
    expected, read = by_one(kind, shards)
    for state, own in trained(kind, processes, shards=shards):
        assert own == read, "the numbers of the log"
        assert state.keys() == expected.keys()
        for name, value in expected.items():
            assert value.numpy().tobytes() == state[name].numpy().tobytes(), name


def test_without_shards_they_differ():
    """Else the test above would show nothing."""
    (one,), two = trained("batchnorm", 1), trained("batchnorm", 2)
    assert any(not torch.equal(value, two[0][0][name]) for name, value in one[0].items())


@pytest.mark.parametrize("shards", (1, 4, 7))
def test_the_gradient_is_that_of_the_batch(shards, monkeypatch):
    monkeypatch.setitem(networks.NETWORKS, "plain8", plain8)
    whole, raws = make_step(network="plain8")
    parts, _ = make_step(network="plain8", shards=shards)
    for raw in (raws[0], RawBatch(raws[1].index[:9])):
        whole(raw)
        parts(raw)
        for mine, theirs in zip(parts.stage.parameters(), whole.stage.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)
    mine, theirs = parts.meter.read(), whole.meter.read()
    assert mine.hits == theirs.hits and mine.images == theirs.images == 41
    assert mine.means() == pytest.approx(theirs.means(), rel=1e-4)


def test_running_statistics_are_the_mean_of_the_shards():
    """Those of a batch in equal parts, each of which begins with what the batch began with; counted once."""
    step, raws = make_step(network="resnet8", shards=4)
    norm = next(module for module in step.stage.modules() if isinstance(module, torch.nn.BatchNorm2d))
    given = []
    norm.register_forward_hook(lambda _, images, __: given.append(images[0].detach()))
    step(raws[0])
    assert [len(images) for images in given] == [8, 8, 8, 8]
    means = torch.stack([images.mean((0, 2, 3)) for images in given]).mean(0)
    variances = torch.stack([images.var((0, 2, 3)) for images in given]).mean(0)
    torch.testing.assert_close(norm.running_mean, 0.1 * means)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * variances)
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize("count", (1, 2, 5, 6, 8, 12))
def test_processes_have_whole_nodes_of_one_tree(count):
    def tree(node):
        return [node] if node[1] - node[0] == 1 else [node, *(found for half in halves(node) for found in tree(half))]

    whole = tree((0, count))
    for processes in (n for n in range(1, count + 1) if count % n == 0):
        each = count // processes
        for rank in range(processes):
            own = (rank * each, (rank + 1) * each)
            found = nodes_within((0, count), own)
            assert {*found} <= {*whole}
            assert [shard for node in found for shard in range(*node)] == [*range(*own)]


RUN = ["--seeds", "1", "--limit-train", "148", "--epochs", "2", "--threads", "1", "--control", "off", "--ema", "0.9"]
RUN += ["--teacher-net", "tf_cnn", "--teacher-training", "standard", "--student", "resnet8", "--method", "kd+crd+sp"]
RUN += ["--crd.negatives", "20", "--batch-size", "32", "--drop-last", "off", "--shards", "8"]


@pytest.fixture(scope="module")
def run_of_one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "run"
    assert train.main([*RUN, "--run", str(folder)]) == 0
    return folder


def left_by(folder):
    """Weights, and the log without times; the test set is evaluated in one part for each process."""
    found = outcome(folder)
    return found["files"], found["log"]


@pytest.mark.slow
@pytest.mark.parametrize("processes", (2, 4, 8))
def test_runs_leave_the_same_bytes(processes, run_of_one, tmp_path):
    _, err = finish(start(*RUN, "--run", tmp_path / "run", processes=processes), seconds=500)
    assert "(8 shards of 4); sp relates the images of one shard" in err
    assert left_by(tmp_path / "run") == left_by(run_of_one)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes_as_it_would_have_done(run_of_one, tmp_path):
    process = start(*RUN, "--run", tmp_path / "run", processes=4)
    wait_for(process, tmp_path / "run" / "checkpoints" / "teacher.pt")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=500)
    assert process.returncode != 0 and not (tmp_path / "run" / "student.safetensors").exists()
    _, err = finish(start("--resume", tmp_path / "run"), seconds=500)
    assert "BatchNorm's shares" not in err
    assert left_by(tmp_path / "run") == left_by(run_of_one)
