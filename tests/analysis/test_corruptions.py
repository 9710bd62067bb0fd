"""Accuracy by corruption and severity: the golden collection's toy set and its toy classifier."""

import pytest
from helpers.corruptions import write_toy

from fastkd.analysis.corruptions import by_level, grand_mean, means_by_level
from fastkd.data import open_dataset


def test_the_toy_classifiers_table(tmp_path):
    told = write_toy(tmp_path)["toy_classifier"]
    data = open_dataset(f"cifar100c:{tmp_path}", image_size=32, resident=True, limit_train=None, threads=1)
    right = data.test.images.flatten(1).long().sum(1) % 7 == data.test.labels % 7
    table = by_level(right, data.parts)
    counts = {name: [round(share * 12 / 100) for share in shares] for name, shares in table.items()}
    assert counts == told["correct_per_file_and_severity"]
    assert means_by_level(table) == pytest.approx(told["percent_per_severity_mean_over_19"])
    assert grand_mean(table) == pytest.approx(told["grand_mean_percent"])
