"""Starts the tests that run on the interpreted kernels."""

from pathlib import Path

import pytest
from helpers.subprocesses import run_interpreted

HERE = Path(__file__).parent


@pytest.mark.slow
def test_the_kernels():
    """The executor runs what is compiled of them in the quick set."""
    run_interpreted(HERE / "test_interpreted_kernels.py")


@pytest.mark.slow
def test_the_operations():
    """A CPU runs the same contract on the reference in the quick set."""
    run_interpreted(HERE / "test_interpreted_operation.py")


@pytest.mark.slow
def test_the_slow_ones():
    run_interpreted(HERE, marks="slow")
