"""Millions of file names in a few arrays."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from fastkd.data.decoding import Head, decode, probe, read_whole


class Paths:
    """The paths of files below one folder, by row number.

    The names lie in one block of bytes: 1.28 million take 50 MB instead of 200, and a forked worker that reads them
    copies nothing (touching a Python string writes its reference count).
    """

    def __init__(self, root: str, blob: np.ndarray, starts: np.ndarray, lengths: np.ndarray):
        self.root, self.blob, self.starts, self.lengths = root, blob, starts, lengths

    @classmethod
    def of(cls, root: str, names: Sequence[bytes]) -> "Paths":
        """Packs names below the folder `root`, as the file system gives them."""
        lengths = np.fromiter((len(name) for name in names), np.int32, len(names))
        ends = np.cumsum(lengths, dtype=np.int64)
        return cls(root, np.frombuffer(b"".join(names), np.uint8), ends - lengths, lengths)

    @classmethod
    def joined(cls, root: str, parts: Sequence["Paths"]) -> "Paths":
        """Joins parts that lie below the same root."""
        parts = [cls.of(root, ()), *parts]
        shifts = np.cumsum([0, *(len(part.blob) for part in parts)])
        return cls(
            root,
            np.concatenate([part.blob for part in parts]),
            np.concatenate([part.starts + shift for part, shift in zip(parts, shifts[:-1], strict=True)]),
            np.concatenate([part.lengths for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, place: int) -> str:
        return os.path.join(self.root, os.fsdecode(self.name(place)))

    def __iter__(self) -> Iterator[str]:
        return (self[place] for place in range(len(self)))

    def name(self, place: int) -> bytes:
        """The name of a file below the root, as the file system gives it."""
        start = self.starts[place]
        return self.blob[start : start + self.lengths[place]].tobytes()

    def head(self, place: int) -> Head:
        return probe(os.fsencode(os.path.join(self.root, "")) + self.name(place))

    def encoded(self, place: int) -> np.ndarray:
        return read_whole(self[place])

    def pixels(self, place: int) -> Tensor:
        return decode(self.encoded(place))

    def take(self, places: np.ndarray) -> "Paths":
        return Paths(self.root, self.blob, self.starts[places], self.lengths[places])

    def padded(self, places: np.ndarray) -> np.ndarray:
        """[B,L] uint8: whole paths, each followed by zeros."""
        prefix = np.frombuffer(os.fsencode(os.path.join(self.root, "")), np.uint8)
        starts, lengths = self.starts[places], self.lengths[places]
        columns = np.arange(lengths.max(initial=0) + 1)
        inside = columns < lengths[:, None]
        names = np.where(inside, self.blob[np.where(inside, starts[:, None] + columns, 0)], np.uint8(0))
        return np.concatenate([np.broadcast_to(prefix, (len(places), len(prefix))), names], axis=1)
