"""What is counted stands in a record, and the record in a table."""

import json

import pytest

from benchmarks import tables, traffic

pytestmark = pytest.mark.ptx


def test_records_become_a_table(tmp_path, capsys):
    file = tmp_path / "traffic.json"
    assert traffic.main(["--quick", "--json", str(file)]) == 0
    records = json.loads(file.read_text())
    assert all(record["checked"] for record in records)
    (loss, *_, images) = records
    assert [kernel["kernel"] for kernel in loss["kernels"]] == ["rows_kernel", "finish_kernel", "scale_kernel"]
    assert loss["floor_bytes"] == 2 * 4 * 64 * 100 * 4
    assert images["kernels"][0]["written"]["unique_bytes"] == 64 * 3 * 32 * 32 * 2
    lines = tables.tables(records).splitlines()
    assert lines[0].startswith("sm_90, executed on a CPU; ")
    assert lines[2].startswith("|  |  |  | floor | sectors read | written | different | bank conflicts |")
    assert len(lines) == 4 + len(records)
    assert lines[4].split(" | ")[1:4] == ["triton", "sm_90", "0.205 MB"]
    assert all(0 < float(cell) < 2 for cell in lines[4].split(" | ")[4:7])
