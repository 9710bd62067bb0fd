"""Which images make up the batches of an epoch: a function of the seed and the epoch, never of a worker or a rank."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from fastkd.data.mixing import partners_of_steps
from fastkd.data.shares import share, sizes
from fastkd.support.errors import UserError
from fastkd.support.words import counted


class Order:
    """Shuffled batches for training. Every rank computes the global order and takes its share of each batch.

    Batches and steps are the same for any number of ranks; shares differ by an image where these do not divide a batch.
    """

    def __init__(
        self,
        samples: int,
        batch_size: int,
        seed: int,
        *,
        drop_last: bool = True,
        rank: int = 0,
        world_size: int = 1,
        mixed: bool = False,
        shards: int | None = None,
    ):
        """shards: those that a batch is taken in, if they are not one a rank. mixed: whether the images are mixed
        in pairs. The partner of one may then be another rank's, so that each loads its own images and behind them
        their partners."""
        if batch_size < 1:
            raise UserError(f"the batch size is at least 1, got {batch_size}")
        parts = max(shards or 1, world_size)
        by = f"{parts} shards" if shards == parts else f"{parts} processes"
        if batch_size < parts:
            raise UserError(f"a global batch of {counted(batch_size, 'image')} cannot be shared by {by}")
        if batch_size > samples:
            raise UserError(f"a batch of {counted(batch_size, 'image')} is larger than the training set of {samples}")
        self.samples, self.batch_size, self.seed = samples, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.paired = mixed and world_size > 1
        partial = 0 if drop_last else samples % batch_size
        if 0 < partial < parts:
            raise UserError(
                f"the last batch of an epoch ({counted(samples, 'image')} in batches of {batch_size}) has "
                f"{counted(partial, 'image')} for {by}: give --drop-last on, or another --batch-size"
            )
        self.largest = max(sizes(count, world_size)[rank] for count in (batch_size, partial))
        self.steps = samples // batch_size + bool(partial)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """The indices [B] int64 of this rank's part of each global batch; [2B] with their partners."""
        order = self._permutation(epoch)
        for step in range(start, self.steps):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield self._part(batch[None], epoch, step)[0]

    def whole(self, epoch: int) -> Tensor:
        """[steps,B] int64: what `epoch` yields, without a shorter last batch."""
        steps = self.samples // self.batch_size
        ordered = self._permutation(epoch)[: steps * self.batch_size]
        return self._part(ordered.view(steps, self.batch_size), epoch, 0)

    def _part(self, batches: Tensor, epoch: int, first: int) -> Tensor:
        """What this rank loads of global batches [steps,·], of the steps from `first` on."""
        own = share(batches.shape[1], self.rank, self.world_size)
        if not self.paired:
            return batches[:, own].contiguous()
        steps = epoch * self.steps + first + torch.arange(len(batches))
        places = partners_of_steps(self.seed, steps, epoch, batches.shape[1])
        return torch.cat([batches[:, own], batches.gather(1, places[:, own])], dim=1)

    def _permutation(self, epoch: int) -> Tensor:
        return torch.from_numpy(np.random.Generator(np.random.Philox([self.seed, epoch])).permutation(self.samples))


class InOrder:
    """Every image once, in order: for evaluation.

    Each rank takes its own part of the set, in batches of batch_size: the last may be shorter, none is empty. One rank
    may have a batch more than another, so that what they count has to be summed once, at the end.
    """

    paired = False

    def __init__(self, samples: int, batch_size: int, *, rank: int = 0, world_size: int = 1):
        if batch_size < 1:
            raise UserError(f"the batch size is at least 1, got {batch_size}")
        if samples < world_size:
            raise UserError(f"a test set of {counted(samples, 'image')} cannot be shared by {world_size} processes")
        self.samples, self.batch_size, self.largest = samples, batch_size, batch_size
        own = share(samples, rank, world_size)
        self.first, self.end = own.start, own.stop
        self.steps = -(-(self.end - self.first) // batch_size)

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[Tensor]:
        for first in range(self.first + start * self.batch_size, self.end, self.batch_size):
            yield torch.arange(first, min(first + self.batch_size, self.end))

    def whole(self, epoch: int = 0) -> Tensor:
        """[steps,B] int64: what `epoch` yields, without a shorter last batch."""
        steps = (self.end - self.first) // self.batch_size
        return torch.arange(self.first, self.first + steps * self.batch_size).view(steps, self.batch_size)
