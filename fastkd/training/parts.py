"""Which part of a global batch a process has, what it counts, and how it is divided further."""

import itertools
from collections.abc import Iterator, Sequence

from fastkd.data.base import Batch, Loader, Mixed, RawBatch
from fastkd.data.shares import Place, share, sizes
from fastkd.support.distributed import rank, world_size


class Placing:
    """Says of each raw batch where its images stand in the global one, and what this process' loss counts in the mean.

    A process with more images counts more: the mean over the processes is then that over the images.
    """

    def __init__(self, batch_size: int):
        """batch_size: that of whole batches, over all processes."""
        self.batch_size, self.rank, self.processes = batch_size, rank(), world_size()
        self.own = sizes(batch_size, self.processes)[self.rank]
        """The images that this process has of a whole batch."""

    def told(self, loader: Loader) -> Loader:
        """The loader, whose batches say how many images the global ones have, where one cannot see that."""
        return loader if self.processes == 1 else Placed(loader, self.batch_size)

    def whole(self, raw: RawBatch) -> int:
        """The images of the global batch."""
        if self.processes == 1:
            return raw.size
        return self.batch_size if raw.whole is None else raw.whole

    def place(self, raw: RawBatch) -> Place:
        whole = self.whole(raw)
        return Place(share(whole, self.rank, self.processes).start, sizes(whole, self.processes))

    def weight(self, raw: RawBatch) -> float:
        """1 where all processes have as many images."""
        return raw.size * self.processes / self.whole(raw)


class Placed:
    """A training's loader whose batches say how many images the global ones have."""

    def __init__(self, loader: Loader, batch_size: int):
        self.loader, self.batch_size = loader, batch_size
        self.steps, self.samples = loader.steps, loader.samples
        self.labels, self.classes = loader.labels, loader.classes

    def epoch(self, epoch: int, start: int = 0) -> Iterator[RawBatch]:
        for step, raw in enumerate(self.loader.epoch(epoch, start), start):
            yield raw._replace(whole=min(self.batch_size, self.samples - step * self.batch_size))


def in_parts(batch: Batch, count: int) -> list[Batch]:
    """The batch in so many parts, or in fewer where a process has not as many images of it: in each process as many."""
    everybody = batch.place.sizes or (len(batch.labels),)
    count = min(count, *everybody)
    if count == 1:
        return [batch]
    of_parts = zip(*(_as_equal_as_can_be(own, count) for own in everybody), strict=True)
    parts = divided(batch, _as_equal_as_can_be(len(batch.labels), count))
    return [part._replace(place=part.place._replace(sizes=found)) for part, found in zip(parts, of_parts, strict=True)]


def _as_equal_as_can_be(images: int, parts: int) -> list[int]:
    """The images of each part, as `torch.tensor_split` has them."""
    return [images // parts + (part < images % parts) for part in range(parts)]


def divided(batch: Batch, counts: list[int]) -> list[Batch]:
    """The batch in parts of so many images, each of which knows where it stands in the global batch."""
    others = (value.split(counts) for value in (batch.labels, batch.index, *batch.taught))
    of_parts = zip(batch.images.split(counts, dim=1), *others, _mixed_in_parts(batch.mixed, counts), strict=True)
    firsts = itertools.accumulate(counts, initial=batch.place.first)
    return [
        batch._replace(images=images, labels=labels, index=index, taught=tuple(taught), mixed=mixed, place=Place(first))
        for (images, labels, index, *taught, mixed), first in zip(of_parts, firsts, strict=False)
    ]


def _mixed_in_parts(mixed: Mixed | None, counts: list[int]) -> Sequence[Mixed | None]:
    if mixed is None:
        return [None] * len(counts)
    pairs = zip(mixed.labels.split(counts), mixed.share.split(counts), strict=True)
    return [Mixed(labels, share) for labels, share in pairs]
