"""The benchmark of messages counts what it says, on a network that takes no time, in two processes."""

import json

import pytest

from benchmarks import reduction
from fastkd import networks


@pytest.mark.slow
def test_every_contender_is_compared_and_its_messages_are_counted(tmp_path):
    reduction.main(["--networks", "resnet8", "--batch", "2", "--rounds", "2", "--json", str(tmp_path / "records.json")])
    records = {record["contender"]: record for record in json.loads((tmp_path / "records.json").read_text())}
    assert [*records] == ["alone", "ddp", "whole", "1/2", "1/4", "1/8", "fastkd", "view", "synced"]
    total = sum(parameter.nbytes for parameter in networks.build("resnet8", num_classes=100).parameters())
    for name, record in records.items():
        gradients = [size for size in record["messages"] if size > 8 * 64 + 4]
        assert sum(gradients) == (0 if name == "alone" else total), name
        assert record["median_s"] > 0 and record["cpu_s"] > 0
    counts = {name: len(record["messages"]) for name, record in records.items()}
    assert counts["1/4"] > counts["whole"] == counts["fastkd"] == 1
    assert counts["synced"] == 1 + 2 * 7, "two of each BatchNorm"
