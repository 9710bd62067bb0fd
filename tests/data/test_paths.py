"""A sequence of file names that is a few arrays."""

import os

import numpy as np
import pytest

from fastkd.data.paths import Paths

NAMES = (b"a/1.jpg", b"b/\xff\xfe.jpg", "b/日本.jpg".encode())


@pytest.fixture
def paths():
    return Paths.of("/data", NAMES)


def texts(rows):
    return [bytes(row).rstrip(b"\0") for row in rows]


def test_names_come_back_as_paths_in_every_script(paths):
    assert list(paths) == ["/data/" + os.fsdecode(name) for name in NAMES]
    assert len(paths) == 3 and paths[-1] == paths[2] and paths.name(1) == NAMES[1]


def test_a_root_may_end_with_a_slash():
    paths = Paths.of("/data/", [b"a.jpg"])
    assert list(paths) == ["/data/a.jpg"] and texts(paths.padded(np.array([0]))) == [b"/data/a.jpg"]


@pytest.mark.parametrize("places", ((2, 0), (), (1, 1), (0, 1, 2)), ids=str)
def test_some_may_be_taken_in_any_order(paths, places):
    taken = paths.take(np.array(places, dtype=np.int64))
    assert list(taken) == [paths[place] for place in places] and len(taken) == len(places)


def test_a_mask_takes_those_that_it_marks(paths):
    assert list(paths.take(np.array([True, False, True]))) == [paths[0], paths[2]]


def test_what_was_taken_may_be_taken_from_again_and_joined(paths):
    """Its block of bytes has names that it does not show."""
    last = paths.take(np.array([2, 0])).take(np.array([0]))
    joined = Paths.joined("/data", [last, Paths.of("/data", ()), paths, Paths.of("/data", [b"c"])])
    assert list(joined) == [paths[2], *paths, "/data/c"]
    assert texts(joined.padded(np.array([4, 0]))) == [b"/data/c", os.fsencode(paths[2])]


def test_nothing_joined_is_empty():
    joined = Paths.joined("/data", [])
    assert list(joined) == [] and joined.padded(np.array([], dtype=np.int64)).shape[0] == 0


def test_padded_paths_end_in_a_zero_each(paths):
    rows = paths.padded(np.array([2, 0, 1]))
    assert rows.dtype == np.uint8 and texts(rows) == [os.fsencode(paths[place]) for place in (2, 0, 1)]
    assert (rows[:, -1] == 0).all()
    assert paths.padded(np.array([0])).shape == (1, len("/data/a/1.jpg") + 1)


def test_a_million_names_are_small():
    names = [b"n01440764/n01440764_%08d.JPEG" % number for number in range(100_000)]
    paths = Paths.of("/data/imagenet/train", names)
    assert paths.blob.nbytes + paths.starts.nbytes + paths.lengths.nbytes < 50 * len(names)
