"""The batches of a student that learns from images of a synthesis: their order, and what makes them of it."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fastkd.data.augment import ResidentImages
from fastkd.data.base import Batch, RawBatch
from fastkd.synthesis.draws import normal, seeded
from fastkd.synthesis.generators import Generator
from fastkd.synthesis.settings import SynthesisSettings
from fastkd.synthesis.views import normalised


class PoolOrder:
    """Batches out of a pool that is larger in each epoch: shuffled passes over all of it, one behind the other.

    All batches are whole, and an epoch has as many steps whatever its pool holds: where a pass ends within a batch,
    the next one begins in it.
    """

    paired = False

    def __init__(self, settings: SynthesisSettings, batch_size: int, epochs: int, seed: int):
        self.settings, self.batch_size, self.seed = settings, batch_size, seed
        self.steps, self.samples = settings.steps_per_epoch, settings.images_at(epochs - 1)
        self.largest = batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """[B] int64 each: rows of the pool."""
        yield from self.whole(epoch)[start:]

    def whole(self, epoch: int) -> Tensor:
        """[steps,B] int64: the batches of an epoch."""
        images, wanted = self.settings.images_at(epoch), self.steps * self.batch_size
        generator = seeded(self.seed, "order", epoch)
        passes = [torch.randperm(images, generator=generator) for _ in range(-(-wanted // images))]
        return torch.cat(passes)[:wanted].view(self.steps, self.batch_size)


class FreshOrder:
    """Batches of images that are made when they are needed, and seen once: they are numbered."""

    paired = False

    def __init__(self, settings: SynthesisSettings, batch_size: int):
        self.batch_size, self.largest = batch_size, batch_size
        self.steps, self.samples = settings.steps_per_epoch, settings.steps_per_epoch * batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """[B] int64 each: the images' numbers in the epoch."""
        yield from self.whole(epoch)[start:]

    def whole(self, epoch: int) -> Tensor:
        """[steps,B] int64: the numbers of all batches."""
        return torch.arange(self.samples).view(self.steps, self.batch_size)


def places_of(raw: RawBatch, step: Tensor) -> Tensor:
    """[B] int64: the numbers of a batch's images among all that a training sees, repetitions counted."""
    return step * raw.size + torch.arange(raw.size, device=step.device)


class PoolImages(ResidentImages):
    """Images of a pool, augmented. One that comes again in the same epoch is cropped anew."""

    def forward(self, raw: RawBatch, step: Tensor, epoch: Tensor) -> Batch:
        rows = raw.index.expand(self.views.count, -1)
        return self.batch(self.images, rows, raw, step, epoch, drawn_B=places_of(raw, step))


class FreshImages(nn.Module):
    """Makes the images of a batch by a generator in eval mode, as it is at that step."""

    def __init__(self, generator: Generator, mean: Tensor, std: Tensor, seed: int, dtype: torch.dtype):
        super().__init__()
        self._generator = (generator,)  # in a tuple: it is the synthesis's own, and on its device
        self.mean, self.std = nn.Buffer(mean, persistent=False), nn.Buffer(std, persistent=False)
        self.seed, self.dtype = seed, dtype

    @torch.no_grad()
    def forward(self, raw: RawBatch, step: Tensor, epoch: Tensor) -> Batch:
        (generator,) = self._generator
        latents = normal(self.seed, places_of(raw, step), generator.latent)
        images = normalised(generator.eval()(latents), self.mean, self.std).to(self.dtype)
        return Batch(images[None], torch.zeros_like(raw.index), raw.index, step, epoch)
