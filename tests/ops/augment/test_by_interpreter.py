"""Starts the tests that run on the interpreted kernel."""

from pathlib import Path

import pytest
from helpers.subprocesses import run_interpreted


def test_the_kernel():
    pytest.importorskip("triton", reason="Triton is not installed")
    run_interpreted(Path(__file__).with_name("test_interpreted.py"))
