"""A sequence of file names that is a few arrays."""

import os

import numpy as np

from fastkd.data.paths import Paths


class TestPaths:
    NAMES = (b"a/1.jpg", b"b/\xff\xfe.jpg", "b/日本.jpg".encode())

    def test_a_sequence_of_names(self):
        paths = Paths.of("/data", self.NAMES)
        assert list(paths) == ["/data/" + os.fsdecode(name) for name in self.NAMES]
        assert len(paths) == 3 and paths[-1] == paths[2]
        assert list(paths.take(np.array([2, 0]))) == [paths[2], paths[0]]
        joined = Paths.joined("/data", [paths, Paths.of("/data", [b"c"])])
        assert list(joined) == [*paths, "/data/c"]

    def test_padded(self):
        paths = Paths.of("/data", self.NAMES)
        rows = paths.padded(np.array([2, 0, 1]))
        assert [bytes(row).rstrip(b"\0") for row in rows] == [os.fsencode(paths[place]) for place in (2, 0, 1)]
        assert (rows[:, -1] == 0).all()
        assert Paths.of("/data", []).padded(np.array([], dtype=np.int64)).shape[0] == 0

    def test_a_million_names_are_small(self):
        names = [b"n01440764/n01440764_%08d.JPEG" % number for number in range(100_000)]
        paths = Paths.of("/data/imagenet/train", names)
        assert paths.blob.nbytes + paths.starts.nbytes + paths.lengths.nbytes < 50 * len(names)
