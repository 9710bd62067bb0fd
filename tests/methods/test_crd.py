"""The method `crd` in a run: trained, interrupted, resumed, in two processes, on real images."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from helpers.interrupts import AfterSteps
from helpers.places import ROOT
from helpers.real_data import REAL, needs_real_data
from helpers.tiny import assert_same, outcome, tiny_recipe, train

from fastkd.methods import METHODS, split_methods
from fastkd.methods.ce import CESettings
from fastkd.methods.crd import CRDSettings
from fastkd.support.errors import UserError
from fastkd.support.interrupt import Stopped

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT)}


def recipe(**settings):
    base = tiny_recipe()
    teacher, student, *_ = base.stages
    given = {"ce": CESettings(), "crd": CRDSettings(**({"negatives": 60, "embed_dim": 16} | settings))}
    return replace(base, stages=(teacher, replace(student, method="crd", settings=given)))


def test_alone_it_brings_the_cross_entropy_along():
    assert split_methods("crd") == ("ce", "crd")
    assert split_methods("kd+crd") == ("kd", "crd")
    assert "crd" in METHODS


# Steps 9 to 16 are the student's.
@pytest.mark.parametrize(("count", "bank"), [(9, "float32"), (11, "bfloat16"), (12, "float32")])
def test_stopped_and_resumed_is_the_same_bit_for_bit(count, bank, tmp_path):
    given = recipe(bank_dtype=bank, replacement=count == 12, positive="relaxed" if count == 11 else "exact")
    train(given, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped, match="stopped by SIGINT"):
        train(given, tmp_path / "parts", AfterSteps(patch, count))
    train(given, tmp_path / "parts")
    found = outcome(tmp_path / "parts")
    assert_same(found, outcome(tmp_path / "whole"))
    assert found["log"][-1]["train"]["crd.crd"] > 0


def test_it_changes_what_the_student_becomes(tmp_path):
    train(recipe(), tmp_path / "with")
    train(recipe(weight=0.0), tmp_path / "without")
    weights = [outcome(tmp_path / name)["weights"]["student.safetensors"] for name in ("with", "without")]
    assert any(not torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"negatives": 0}, "negatives is 0, expected a whole number from 1"),
        ({"temperature": 0.0}, "temperature is 0.0, expected a number from 0.001"),
        ({"momentum": 1.0}, "momentum is 1.0, expected a number from 0"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(UserError, match=message):
        CRDSettings(**settings)


def finished(*arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


@pytest.mark.slow
def test_two_processes(tmp_path):
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", 2, "--rdzv-backend", "c10d"]
    launcher += ["--rdzv-endpoint", "localhost:0", "-m", "--", "fastkd.train"]
    options = ["--seeds", 1, "--limit-train", 128, "--epochs", 2, "--threads", 1, "--teacher-net", "resnet8"]
    options += ["--method", "crd", "--crd.negatives", 60, "--control", "off"]
    said = finished(*launcher, *options, "--run", tmp_path / "run")
    assert "on 2 processes" in said and "student  epoch 2/2" in said


@needs_real_data
@pytest.mark.slow
def test_real_cifar100(tmp_path):
    finished(REAL / "unpack_cifar100.py", tmp_path / "data", "--limit", 256)
    data = next((tmp_path / "data").rglob("train.bin")).parent
    options = ["--data", f"cifar100:{data}", "--teacher-net", "resnet8", "--student", "resnet8", "--epochs", 1]
    options += ["--method", "crd", "--limit-train", 256, "--control", "off", "--run", tmp_path / "run"]
    said = finished("-m", "fastkd.train", "cifar100-sftn", *options)
    assert "student  epoch 1/1" in said
