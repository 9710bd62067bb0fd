"""The kernel compiled for GPUs that are not there: no spills, 128-bit stores. `pytest -s` prints the table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def test_no_spills_and_wide_stores():
    pytest.importorskip("triton", reason="Triton is not installed")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(HERE.parents[2])
    command = [sys.executable, str(HERE / "compile_ahead.py")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(records) == 8
    for record in records:
        print(record)
        assert record["spilled"] == 0 and record["registers"] <= 64, record
        assert record["stores_128"] >= 1, record
