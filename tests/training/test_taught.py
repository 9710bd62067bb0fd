"""Which rows an epoch reads, and where they are."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fastkd.stored import RowFormat
from fastkd.training.taught import Shelf, fits

ROW = RowFormat(outputs=("logits",), classes=10, embedding=8)


class Rows:
    """A store in name alone."""

    def __init__(self, name, samples=100):
        self.folder, self.about = Path(name), SimpleNamespace(key=SimpleNamespace(samples=samples))

    def missing(self, epoch):
        return 100 + epoch


def shelf(*names, epochs=6, **options):
    return Shelf(tuple(Rows(name) for name in names), (ROW,) * len(names), epochs, **options)


def read(shelf):
    """The stores and the stored epoch of every epoch."""
    return [
        ([store.folder.name for store in stores], stored) for stores, stored in map(shelf.of_epoch, range(shelf.epochs))
    ]


def test_every_epoch_has_its_own_rows_of_every_teacher():
    assert read(shelf("a", "b", epochs=2)) == [(["a", "b"], 0), (["a", "b"], 1)]


def test_rows_come_again():
    repeated = shelf("a", epochs=5, distinct_epochs=2)
    assert [stored for _, stored in read(repeated)] == [0, 1, 0, 1, 0]
    assert repeated.distinct(range(5)) == [0, 1]
    assert repeated.missing() == {Path("a"): 100 + 101}


def test_waypoints_are_followed_one_after_the_other():
    in_turn = shelf("a", "b", "c", epochs_in_turn=6)
    assert read(in_turn) == [(["a"], 0), (["a"], 1), (["b"], 2), (["b"], 3), (["c"], 4), (["c"], 5)]
    assert in_turn.missing() == {Path("a"): 201, Path("b"): 205, Path("c"): 209}
    repeated = shelf("a", "b", "c", epochs_in_turn=6, distinct_epochs=1)
    assert repeated.distinct(range(6)) == [0, 2, 4], "each of them says something else of the same crops"


@pytest.mark.parametrize("free, expected", ((4 * 100 * 40, True), (4 * 100 * 40 - 1, False)))
def test_rows_are_held_where_a_quarter_of_the_memory_is_enough(free, expected, monkeypatch):
    monkeypatch.setattr("fastkd.training.taught.free_memory", lambda: free)
    assert fits(shelf("a"), torch.device("cpu")) is expected
