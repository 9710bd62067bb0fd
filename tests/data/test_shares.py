"""Contiguous shares of a batch."""

import itertools

import pytest

from fastkd.data.shares import share, sizes, words


def joined(parts):
    return [*itertools.chain.from_iterable(parts)]


@pytest.mark.parametrize("count", (1, 3, 8, 31, 32, 64))
@pytest.mark.parametrize("shares", (1, 2, 3, 4, 6, 8))
def test_shares_follow_each_other_and_those_of_a_process_are_its_own(count, shares):
    images = [*range(count)]
    parts = [images[share(count, number, shares)] for number in range(shares)]
    assert joined(parts) == images and tuple(map(len, parts)) == sizes(count, shares)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for processes in (divisor for divisor in range(1, shares + 1) if shares % divisor == 0):
        each = shares // processes
        for rank in range(processes):
            assert joined(parts[rank * each : (rank + 1) * each]) == images[share(count, rank, processes)]


def test_in_words():
    assert words(32, 2) == "16"
    assert words(32, 3) == "10+11+11"
    assert words(32, 12) == "2 or 3"
