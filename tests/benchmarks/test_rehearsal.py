"""The order that a rehearsal finds is checked: a step that is missing, made differently or in another order is seen."""

import sys

import numpy as np
import pytest

from benchmarks import rehearsal
from benchmarks.many_images import make_folders, make_shards
from benchmarks.rehearsal import Rehearsal, Step, check_order
from benchmarks.rehearsed import delayed, opened
from fastkd.data.order import Order

OF_120 = Rehearsal("folder", "", None, 120, 10, 120, 20)


def steps(numbers=range(6)):
    expected = Order(120, 20, seed=0).whole(0).numpy()
    return [Step(0, number, expected[number].copy()) for number in numbers]


def test_an_epoch_in_its_order_passes():
    assert check_order(steps(), OF_120, 6) == 0
    assert check_order(steps([0, 1, 2, 3, 2, 3, 4, 5]), OF_120, 6) == 2


@pytest.mark.parametrize("numbers", ([0, 1, 2, 4, 5], [0, 1, 3, 2, 4, 5], [0, 1, 2, 3, 4, 5, 5, 5]))
def test_other_steps_are_seen(numbers):
    with pytest.raises(AssertionError):
        check_order(steps(numbers), OF_120, 6)


def test_other_images_are_seen():
    made = steps()
    made[3].index[:2] = made[3].index[1::-1].copy()
    with pytest.raises(AssertionError):
        check_order(made, OF_120, 6)


def test_a_line_that_a_kill_cut_off_is_no_step(tmp_path):
    lines = [np.concatenate([[0, step.step, 20], step.index]).astype(np.int64).tobytes() for step in steps()]
    (tmp_path / "log").write_bytes(b"".join(lines)[:-8])
    assert [step.step for step in rehearsal._logged(tmp_path / "log")] == [0, 1, 2, 3, 4]


def test_folders_and_shards_hold_the_same_images(tmp_path):
    folders, shards = (make(tmp_path / make.__name__, 120, 10, 5) for make in (make_folders, make_shards))
    one, other = opened(folders), opened(shards)
    for left, right in ((one.train, other.train), (one.test, other.test)):
        assert [left.records.name(n) for n in range(len(left))] == [right.records.name(n) for n in range(len(right))]
        assert left.labels.tolist() == right.labels.tolist()
    assert (len(one.train), len(one.test), len(one.classes)) == (120, 10, 5)


def test_a_delay_is_that_of_every_call(tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr("benchmarks.rehearsed.time.sleep", slept.append)
    for make, wanted in ((make_folders, [0.02]), (make_shards, [0.01])):
        data = opened(make(tmp_path / make.__name__, 40, 10, 5))
        slept.clear()
        with delayed(0.01):
            data.train.records.pixels(3)
        assert slept == wanted
    data.train.records.pixels(3)
    assert slept == wanted


@pytest.mark.slow
def test_two_thousand_images_are_rehearsed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["rehearsal", "--quick", "--place", str(tmp_path)])
    rehearsal.main()
    out = capsys.readouterr().out
    assert out.count("every image once, in the order of the epoch") == 2
    assert "images looked at by each: [2078, 0]" in out and not list(tmp_path.iterdir())
