"""Starts the tests that run on the interpreted kernels."""

from pathlib import Path

import pytest
from helpers.subprocesses import run_interpreted

HERE = Path(__file__).parent


def test_the_kernels():
    run_interpreted(HERE / "test_interpreted_kernels.py")


def test_the_operations():
    run_interpreted(HERE / "test_interpreted_operation.py")


@pytest.mark.slow
def test_the_slow_ones():
    run_interpreted(HERE, marks="slow")
