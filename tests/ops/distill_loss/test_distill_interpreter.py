"""Starts the tests that run on the interpreted kernels, in a process that sets TRITON_INTERPRET before all imports."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TESTS = HERE.parent.parent


def run(*arguments: str, **environment: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, "TRITON_INTERPRET": "1", **environment}
    result = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    print(result.stdout[-400:])


def test_the_kernels():
    run(str(HERE / "test_interpreted_kernels.py"))


def test_the_operation():
    run(str(HERE / "test_interpreted_operation.py"))


def test_the_golden_vectors_and_hard_cases_of_the_reference():
    """`test_losses.py` once more, on the kernels in float32."""
    plugin = ("-p", "ops.distill_loss.conftest", "-W", "ignore::RuntimeWarning")
    run(*plugin, str(TESTS / "test_losses.py"), FASTKD_OPS="distill_loss=triton", PYTHONPATH=str(TESTS))


@pytest.mark.slow
def test_the_slow_ones():
    run(str(HERE), "-m", "slow")
