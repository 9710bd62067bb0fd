"""The kernel compiled for GPUs that are not there: no spills, 128-bit stores. `pytest -s` prints the table."""

import pytest
from helpers.subprocesses import compiled_ahead


def test_no_spills_and_wide_stores():
    pytest.importorskip("triton", reason="Triton is not installed")
    records = compiled_ahead("augment")
    assert len(records) == 8
    for record in records:
        print(record)
        assert record["spilled"] == 0 and record["registers"] <= 64, record
        assert record["stores_128"] >= 1, record
