"""Starts the tests that run on the interpreted kernels."""

from pathlib import Path

import pytest
from helpers.subprocesses import run_interpreted


@pytest.mark.parametrize("marks", ["not slow and not gpu", pytest.param("slow", marks=pytest.mark.slow)])
def test_the_dense_kernels(marks):
    pytest.importorskip("triton", reason="Triton is not installed")
    run_interpreted(Path(__file__).with_name("test_interpreted.py"), marks=marks)
