"""One of a thing is said as one."""

import pytest

from fastkd.support.words import counted


@pytest.mark.parametrize(
    "given, words",
    [
        ((0, "epoch"), "0 epochs"),
        ((1, "epoch"), "1 epoch"),
        ((1200, "image"), "1,200 images"),
        ((1, "process"), "1 process"),
        ((2, "process"), "2 processes"),
        ((2, "batch"), "2 batches"),
        ((1, "row", "are"), "1 row is"),
        ((2, "row", "are"), "2 rows are"),
        ((1, "class", "have"), "1 class has"),
    ],
)
def test_a_number_of_things(given, words):
    assert counted(*given) == words
