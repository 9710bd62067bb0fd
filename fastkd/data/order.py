"""Which images make up the batches of an epoch: a function of the seed and the epoch, never of a worker or a rank."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from fastkd.data.mixing import partners_of_steps
from fastkd.support.errors import UserError
from fastkd.support.words import counted


class Order:
    """Shuffled batches for training. Every rank computes the global order and takes its slice of each batch."""

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
    ):
        """mixed: whether the images are mixed in pairs. The partner of one may then be another rank's, so that each
        loads its own images and behind them their partners."""
        if batch_size < 1:
            raise UserError(f"the batch size is at least 1, got {batch_size}")
        if batch_size % world_size:
            raise UserError(
                f"the global batch of {counted(batch_size, 'image')} does not divide by {world_size} processes"
            )
        if batch_size > samples:
            raise UserError(f"a batch of {counted(batch_size, 'image')} is larger than the training set of {samples}")
        self.samples, self.batch_size, self.seed = samples, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.largest = batch_size // world_size
        self.paired = mixed and world_size > 1
        # A partial batch that does not divide by the ranks would give them steps of different sizes.
        partial = samples % batch_size and not drop_last and (samples % batch_size) % world_size == 0
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
        own = batches.chunk(self.world_size, dim=1)[self.rank]
        if not self.paired:
            return own.contiguous()
        steps = epoch * self.steps + first + torch.arange(len(batches))
        places = partners_of_steps(self.seed, steps, epoch, batches.shape[1])
        return torch.cat([own, batches.gather(1, places.chunk(self.world_size, dim=1)[self.rank])], dim=1)

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
        self.first, self.end = samples * rank // world_size, samples * (rank + 1) // world_size
        self.steps = -(-(self.end - self.first) // batch_size)

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[Tensor]:
        for first in range(self.first + start * self.batch_size, self.end, self.batch_size):
            yield torch.arange(first, min(first + self.batch_size, self.end))

    def whole(self, epoch: int = 0) -> Tensor:
        """[steps,B] int64: what `epoch` yields, without a shorter last batch."""
        steps = (self.end - self.first) // self.batch_size
        return torch.arange(self.first, self.first + steps * self.batch_size).view(steps, self.batch_size)
