"""How long steps take, and how long of that the host waits for their batches."""

import time
from collections.abc import Iterator
from typing import NamedTuple

from fastkd.data.base import Loader, RawBatch


class Lap(NamedTuple):
    """Seconds of one step, or of several that are taken at once."""

    seconds: float = 0.0
    """From the end of the step before, with whatever was done between them: looking, saving."""
    waited: float = 0.0
    """How long of it the host waited for the loader's batches; a GPU may have had work left meanwhile."""

    def plus(self, other: "Lap") -> "Lap":
        return Lap(self.seconds + other.seconds, self.waited + other.waited)

    def since(self, earlier: "Lap") -> "Lap":
        return Lap(self.seconds - earlier.seconds, self.waited - earlier.waited)

    @property
    def share(self) -> float:
        """The share of its time that was waited."""
        return self.waited / self.seconds if self.seconds > 0 else 0.0


class Laps:
    """A clock of the steps of an epoch."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.began, self.waited = time.perf_counter(), 0.0

    def end(self) -> Lap:
        """The lap that has just ended; the next one begins with it."""
        now = time.perf_counter()
        lap = Lap(now - self.began, self.waited)
        self.began, self.waited = now, 0.0
        return lap


class Timed:
    """A loader that tells a clock how long its batches are waited for."""

    def __init__(self, loader: Loader, laps: Laps):
        self.loader, self.laps = loader, laps
        self.steps, self.samples = loader.steps, loader.samples
        self.labels, self.classes = loader.labels, loader.classes

    def epoch(self, epoch: int, start: int = 0) -> Iterator[RawBatch]:
        batches = self.loader.epoch(epoch, start)
        while True:
            asked = time.perf_counter()
            raw = next(batches, None)
            self.laps.waited += time.perf_counter() - asked
            if raw is None:
                return
            yield raw
