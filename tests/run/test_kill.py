"""kill -9 at random instants: what is resumed ends as if nothing had happened."""

import multiprocessing
import random
import time

import pytest
import torch
from helpers.tiny import assert_same, outcome, tiny_recipe, train


def go_on(folder):
    """In the process that is to be killed."""
    torch.set_num_threads(1)
    train(tiny_recipe(), folder)


@pytest.mark.parametrize("times", (1, pytest.param(20, marks=pytest.mark.slow)))
def test_killed_many_times(times, tmp_path):
    expected = tmp_path / "whole"
    train(tiny_recipe(), expected)
    # Children fork from a server that has imported everything already, so that the kills hit the training.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["helpers.tiny"])
    warm = context.Process(target=go_on, args=(tmp_path / "warm",))
    started = time.monotonic()
    warm.start()
    warm.join()
    length = time.monotonic() - started
    chance, kills, runs = random.Random(0), 0, 0
    while kills < times:
        folder = tmp_path / f"run {runs}"
        runs += 1
        exit_code = None
        while exit_code != 0:
            child = context.Process(target=go_on, args=(folder,))
            child.start()
            child.join(chance.uniform(0.0, 0.6 * length) if kills < times else None)
            if child.is_alive():
                child.kill()
                child.join()
                kills += 1
            exit_code = child.exitcode
            assert exit_code in (0, -9), f"the run failed by itself with exit code {exit_code}"
        assert_same(outcome(folder), outcome(expected))
