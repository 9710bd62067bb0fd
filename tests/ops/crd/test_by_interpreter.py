"""Starts the tests that run on the interpreted kernels."""

from pathlib import Path

import pytest
from helpers.subprocesses import run_interpreted


@pytest.mark.slow
@pytest.mark.parametrize("marks", ["not slow and not gpu", "slow"])
def test_the_dense_kernels(marks):
    """By day their compiled code is executed, see test_executed.py."""
    pytest.importorskip("triton", reason="Triton is not installed")
    run_interpreted(Path(__file__).with_name("test_interpreted.py"), marks=marks)
