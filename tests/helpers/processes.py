"""Trainings in several processes, started as a person would."""

import os
import subprocess
import sys
import time

from safetensors.torch import load_file

from helpers.places import ROOT

TINY = ["--seeds", "1", "--limit-train", "128", "--epochs", "2", "--threads", "1", "--teacher-net", "resnet8"]


# `--` keeps torchrun from reading `--run` as an abbreviation of an option of its own.
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT)}


def start(*arguments, program=("-m", "--", "fastkd.train"), processes=2):
    torchrun = [str(processes) if word == "2" else word for word in TORCHRUN]
    line = [*torchrun, *program, *map(str, arguments)]
    return subprocess.Popen(line, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process, code=0, *, seconds=120):
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == code, err
    return out, err


def parameters(folder, name="teacher"):
    tensors = load_file(folder / f"{name}.safetensors")
    return {key: value for key, value in tensors.items() if "running" not in key and "num_batches" not in key}


def wait_for(process, path):
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
