"""Starts the tests that run on the interpreted kernel."""

from pathlib import Path

import pytest
from helpers.subprocesses import run_interpreted

HERE = Path(__file__).parent


@pytest.mark.slow
def test_the_kernel_and_the_operation():
    """The executor runs what is compiled of the kernel in the quick set."""
    pytest.importorskip("triton", reason="Triton is not installed")
    run_interpreted(HERE / "test_interpreted.py", HERE / "test_interpreted_operation.py")
