"""Two gloo processes on the CPU, started by torchrun as a user would."""

import json
import os
import signal
import subprocess
import sys
import warnings

import pytest
import torch
import torch.distributed as dist
from helpers.gloo_pair import run_in_two
from helpers.image_folders import write_folder
from helpers.places import TESTS
from helpers.processes import ENVIRONMENT, ROOT, TINY, TORCHRUN, finish, parameters, start, wait_for
from helpers.tiny import assert_same, job_of, outcome

from fastkd import train
from fastkd.recipes.recipe import read_recipe
from fastkd.support import distributed
from fastkd.support.heartbeat import read_heartbeat
from fastkd.support.log import read_metrics
from fastkd.training.evaluation import accuracies

TINY += ["--ema", "0.9"]
TORCHRUN += ["--rdzv-endpoint", "localhost:0"]


def test_no_rank_sends_what_lies_on_a_device(monkeypatch):
    """Every other rank would unpickle it on that device. A meta tensor stands for one of a GPU."""
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed.dist, "all_gather_object", lambda boxes, value, group: boxes.__setitem__(0, value))
    sent = {"sums": [torch.ones(1)], "steps": 3}
    assert distributed.from_all(sent)[0] is sent
    sent["sums"].append(torch.ones(1, device="meta"))
    with pytest.raises(AssertionError, match="lies on a device"):
        distributed.from_all(sent)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two") / "run"
    out, err = finish(start(*TINY, "--run", folder))
    assert "on 2 processes" in err and "the whole batch of 64 (32 a process)" in err
    assert out.count("top-1 on the test set") == 1, "rank 0 alone prints the table"
    assert err.count("teacher  epoch 1/2") == 1
    return folder


def test_every_rank_says_what_it_measured(two):
    records = read_metrics(two / "metrics.jsonl")
    assert records and all(record["ranks"].keys() == {"0", "1"} for record in records)
    for record in records:
        zero, one = record["ranks"]["0"], record["ranks"]["1"]
        assert record["train"]["loss"] == pytest.approx((zero["loss"] + one["loss"]) / 2)
        assert zero["loss"] != one["loss"], "each has images of its own"
        assert record["data_time"] == max(zero["data_time"], one["data_time"])
        assert record["memory"]["rss"] == max(zero["rss"], one["rss"])
        assert all(min(rank["images_per_second"], rank["seconds"], rank["data_time"]) > 0 for rank in (zero, one))
    assert read_heartbeat(two / "heartbeat.json")["processes"] == 2


def train_in_a_group_of_another(rank, folder):
    warnings.simplefilter("ignore")
    from fastkd.api import train

    settings = dict(zip((word.removeprefix("--").replace("-", "_") for word in TINY[::2]), TINY[1::2], strict=True))
    results = train("digits", run=f"{folder}/run", **settings)
    assert dist.is_initialized() and results.stopped == "" and results.accuracy("student") > 0


@pytest.mark.slow
def test_a_training_in_a_group_of_another_is_that_of_torchrun(two, tmp_path):
    run_in_two(train_in_a_group_of_another, str(tmp_path))
    assert_same(outcome(tmp_path / "run"), outcome(two))


def test_two_processes_equal_one_that_forwards_the_two_shards(two, tmp_path):
    """Each shard has its own BatchNorm statistics, the gradients are averaged: `--accumulate 2` does just that."""
    train.main([*TINY, "--accumulate", "2", "--run", str(tmp_path / "one")])
    one, other = parameters(tmp_path / "one"), parameters(two)
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-6)
    logs = [json.loads((folder / "metrics.jsonl").read_text().splitlines()[0]) for folder in (two, tmp_path / "one")]
    assert logs[0]["train"] == pytest.approx(logs[1]["train"], rel=1e-4)


@pytest.mark.slow  # by day the shards alone are told apart, in test_shards.py
def test_two_processes_differ_from_one_with_the_whole_batch(two, tmp_path):
    """What the test above would miss if the shards were not told apart."""
    train.main([*TINY, "--run", str(tmp_path / "one")])
    one, other = parameters(tmp_path / "one"), parameters(two)
    assert any(not torch.allclose(other[name], value, rtol=1e-4, atol=1e-6) for name, value in one.items())


@pytest.mark.slow
def test_mixed_images_have_partners_on_the_other_process(tmp_path):
    """A student is left out: the running statistics of its teacher's BatchNorm are those of a rank's own shards."""
    how = [*TINY, "--mixup", "0.4", "--cutmix", "1", "--teacher-training", "standard"]
    finish(start(*how, "--run", tmp_path / "two"))
    train.main([*how, "--accumulate", "2", "--run", str(tmp_path / "one")])
    for name in ("teacher", "control"):
        one, other = (parameters(tmp_path / run, name) for run in ("one", "two"))
        for key, value in one.items():
            torch.testing.assert_close(other[key], value, rtol=1e-4, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.slow
def test_without_batchnorm_two_processes_equal_one_with_the_whole_batch(tmp_path):
    """Teacher, student by KD, and a control; grafted branches bring BatchNorm of their own."""
    program = TESTS / "helpers" / "without_batchnorm.py"
    how = [*TINY, "--teacher-net", "plain8", "--student", "plain8", "--teacher-training", "standard"]
    finish(start(*how, "--run", tmp_path / "two", program=("--", program)))
    line = [sys.executable, str(program), *how, "--run", str(tmp_path / "one")]
    done = subprocess.run(line, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("teacher", "student", "control"):
        one, other = parameters(tmp_path / "one", name), parameters(tmp_path / "two", name)
        for key, value in one.items():
            torch.testing.assert_close(other[key], value, rtol=1e-4, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}")
    logs = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("two", "one")]
    for mine, theirs in zip(*([json.loads(line) for line in lines] for lines in logs), strict=True):
        assert mine["train"] == pytest.approx(theirs["train"], rel=1e-4)


def test_averaged_weights_are_one_network_on_all_ranks(two):
    """Their BatchNorm statistics too: what the ranks counted together is what the saved network gives alone."""
    from fastkd.run import load_network
    from fastkd.run.weights import open_network

    recipe = read_recipe(two / "recipe.json")
    source = job_of(recipe).test_source()
    averaged = open_network(two / "student-ema.safetensors").eval()
    networks = {"student": load_network(two, "student"), "student (ema)": averaged}
    counts = accuracies(
        lambda images: {name: network(images).logits for name, network in networks.items()}, source, torch.device("cpu")
    )
    assert counts == json.loads((two / "results.json").read_text())["stages"]["student"]["test"]


def test_every_test_image_is_counted_once(two):
    results = json.loads((two / "results.json").read_text())
    for stage in results["stages"].values():
        for counts in stage["test"].values():
            assert counts["samples"] == 899 and 0 < counts["top1"] < counts["top5"] < 899


def test_similarity_is_that_of_one_process(two):
    from fastkd.analysis.measured import measure
    from fastkd.analysis.opened import Opened

    measured = measure(Opened.of(two, torch.device("cpu")))
    results = json.loads((two / "results.json").read_text())
    for name in ("student", "control"):
        for key in ("kl", "cka", "agreement"):
            assert measured[name][key] == pytest.approx(results["similarity"][name][key], rel=1e-5)
        assert measured[name]["top1"] == results["stages"][name]["test"][name]["top1"]


@pytest.mark.slow  # by day the same is done by another number of processes
def test_stopped_and_resumed_is_the_same_bit_for_bit(two, tmp_path):
    process = start(*TINY, "--run", tmp_path / "run")
    wait_for(process, tmp_path / "run" / "checkpoints" / "teacher.pt")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    if not (tmp_path / "run" / "student.safetensors").exists():
        finish(start("--resume", tmp_path / "run"))
    assert_same(outcome(tmp_path / "run"), outcome(two))


@pytest.mark.slow
def test_a_rank_that_dies_takes_the_run_down_and_it_resumes(two, tmp_path):
    process = start(*TINY, "--run", tmp_path / "run")
    wait_for(process, tmp_path / "run" / "checkpoints" / "teacher.pt")
    workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert ("rank" in err and "SIGKILL" in err) or "-9" in err
    finish(start("--resume", tmp_path / "run"))
    assert_same(outcome(tmp_path / "run"), outcome(two))


@pytest.mark.slow  # by day one that a rank makes alone does
def test_a_mistake_stops_every_rank(tmp_path):
    _, err = finish(start("--batch-size", "1", "--run", tmp_path / "run"), code=1)
    assert "fastkd: a global batch of 1 image cannot be shared by 2 processes" in err
    assert "in _main" not in err, "a traceback of ours; torchrun prints its own"
    assert not (tmp_path / "run").exists()


def test_a_rank_that_ends_with_a_mistake_leaves_the_others_one_line(tmp_path):
    """An image that one rank alone cannot read: the other one's next call meets a process that is gone."""
    root = write_folder(tmp_path / "data", per_class=40)
    (root / "train" / "ant" / "7.png").write_bytes(damaged_inside((root / "train" / "ant" / "7.png").read_bytes()))
    how = ["--data", f"imagefolder:{root}", "--image-size", "8", "--resident", "off", "--limit-train", "80"]
    _, err = finish(start(*TINY, *how, "--batch-size", "16", "--run", tmp_path / "run"), code=1)
    assert "1 image cannot be used" in err
    ours = err.partition("distributed/elastic")[0]  # torchrun shows a traceback of its own
    assert "Traceback" not in ours and "gloo" not in ours.lower(), ours


def damaged_inside(content):
    """Head and tail are whole: it is found when it is decoded."""
    middle = content.index(b"IDAT") + 4
    return content[:middle] + bytes(len(content) - middle - 20) + content[-20:]


@pytest.mark.slow
@pytest.mark.parametrize("victim", (0, 1))
def test_torchrun_restarts_a_rank_that_died_and_the_same_command_goes_on(victim, two, tmp_path):
    """All ranks are started anew and meet again, where the store still holds the addresses of those before."""
    line = [*TORCHRUN, "--max-restarts", "2", "-m", "--", "fastkd.train", *TINY, "--run", str(tmp_path / "run")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*line, "--resume", "auto"], cwd=ROOT, env=ENVIRONMENT, **pipes)
    wait_for(process, tmp_path / "run" / "checkpoints" / "teacher.pt")
    workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(workers[victim]), signal.SIGKILL)
    _, err = finish(process)
    assert "resumed after epoch 1" in err
    assert_same(outcome(tmp_path / "run"), outcome(two))


@pytest.mark.slow
@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGINT))
def test_a_signal_to_the_whole_job_reaches_every_rank_once(number, two, tmp_path):
    line = [*TORCHRUN, "-m", "--", "fastkd.train", *TINY, "--run", str(tmp_path / "run")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(line, cwd=ROOT, env=ENVIRONMENT, start_new_session=True, **pipes)
    wait_for(process, tmp_path / "run" / "checkpoints" / "teacher.pt")
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=120)
    assert f"stopped by {number.name} in " in err or (tmp_path / "run" / "student.safetensors").exists()
    finish(start("--resume", tmp_path / "run"))
    assert_same(outcome(tmp_path / "run"), outcome(two))


@pytest.mark.parametrize("began, goes_on", ((2, 1), pytest.param(1, 2, marks=pytest.mark.slow)))
def test_resumed_by_another_number_of_processes(began, goes_on, tmp_path):
    """In the middle of an epoch: what the ranks had counted of it is counted on."""
    folder = tmp_path / "run"
    how = [*TINY, "--limit-train", "320", "--teacher-epochs", "60", "--eval-every", "60"]
    how += ["--teacher-training", "standard", "--control", "off"]
    if began == 2:
        process = start(*how, "--run", folder)
    else:
        line = [sys.executable, "-m", "fastkd.train", *how, "--run", str(folder)]
        process = subprocess.Popen(line, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    wait_for(process, folder / "checkpoints" / "teacher.pt")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert not (folder / "teacher.safetensors").exists(), "nothing is left to go on with"
    if goes_on == 2:
        _, err = finish(start("--resume", folder))
    else:
        line = [sys.executable, "-m", "fastkd.train", "--resume", str(folder)]
        done = subprocess.run(line, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        err = done.stderr
    assert f"begun with {began} process{'es' * (began > 1)}, goes on with {goes_on}" in err
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    epochs = [record for record in records if record["stage"] == "teacher" and "epoch" in record]
    assert [record["epoch"] for record in epochs] == list(range(1, 61))
    assert all(record["train"]["loss"] < 4 for record in epochs)
