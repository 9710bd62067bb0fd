"""Starts the tests that run on the interpreted kernels."""

from pathlib import Path

import pytest
from helpers.losses import FILES
from helpers.subprocesses import run_interpreted

HERE = Path(__file__).parent


@pytest.mark.slow
def test_the_kernels():
    """By day their compiled code is executed, see test_executed.py."""
    run_interpreted(HERE / "test_interpreted_kernels.py")


@pytest.mark.slow
def test_the_operation():
    """A CPU runs the same contract on its compiled kernel in the quick set, the executor the kernels."""
    run_interpreted(HERE / "test_interpreted_operation.py")


@pytest.mark.slow
def test_the_golden_vectors_and_hard_cases_of_the_reference():
    """The tests of the losses once more, on the kernels in float32."""
    run_interpreted(*FILES, FASTKD_OPS="distill_loss=triton")


@pytest.mark.slow
def test_the_slow_ones():
    run_interpreted(HERE, marks="slow")
