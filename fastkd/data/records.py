"""Images by row number, wherever they lie: what a loader asks of a split that is not held as bytes."""

from collections.abc import Iterator
from typing import Protocol, Self

import numpy as np
from torch import Tensor

from fastkd.data.decoding import Head


class Records(Protocol):
    """The images of one split. A forked worker reads them, too: nothing of a file's position is kept."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int) -> str:
        """The name that a person knows an image by: a file's path."""
        ...

    def __iter__(self) -> Iterator[str]: ...

    def name(self, place: int) -> bytes:
        """The image's name below the root of its split, by which two runs see whether they number the same images."""
        ...

    def head(self, place: int) -> Head:
        """The image's size. Raises BadImage where it cannot be used."""
        ...

    def encoded(self, place: int) -> np.ndarray:
        """[bytes] uint8: the image as a file holds it. Raises BadImage."""
        ...

    def pixels(self, place: int) -> Tensor:
        """[H,W,3] uint8: the image as RGB, see `decode`. Raises BadImage."""
        ...

    def take(self, places: np.ndarray) -> Self:
        """The images of those rows, in that order."""
        ...
