"""What the kernels take of a GPU, without one: no spills, wide loads, matrix units, no float atomics."""

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest
import torch
from helpers.places import ROOT
from helpers.subprocesses import compiled_ahead
from torch.utils.cpp_extension import COMMON_NVCC_FLAGS


def setup_module_of_the_project():
    spec = importlib.util.spec_from_file_location("fastkd_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize(
    "architecture", [pytest.param(80, marks=pytest.mark.slow), 90, pytest.param(100, marks=pytest.mark.slow)]
)
def test_dense_kernels(architecture):
    records = compiled_ahead("crd", str(architecture))
    assert len(records) == 13
    for record in records:
        assert record["spilled"] == 0 and record["float_atomics"] == 0, record
        if record["kernel"] == "scores_kernel":
            assert record["matrix_products"] > 0, record
            assert record["loads_128"] > 0 or record["dim"] % 8, record


def nvcc():
    home, obstacle = setup_module_of_the_project().cuda_home()
    if home is None:
        pytest.skip(obstacle)
    return home / "bin" / "nvcc"


@pytest.mark.parametrize("architecture", [90, *(pytest.param(a, marks=pytest.mark.slow) for a in (80, 100, 120))])
def test_gather_kernels(architecture, tmp_path):
    cubin = tmp_path / "crd.cubin"
    torch_headers = Path(torch.__file__).parent / "include"
    flags = ["-O3", "-std=c++17", "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020b000000000000", f"-I{torch_headers}"]
    flags += COMMON_NVCC_FLAGS  # what torch builds extensions with
    command = [nvcc(), *flags, "-Xptxas=-v", f"-arch=sm_{architecture}", "-cubin", ROOT / "csrc/crd_cuda.cu"]
    done = subprocess.run([*map(str, command), "-o", str(cubin)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    report = done.stderr
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report)
    assert len(spills) >= 12 and set(spills) == {("0", "0", "0")}, report
    registers = [int(number) for number in re.findall(r"Used (\d+) registers", report)]
    assert max(registers) < 255
