"""Images that are decoded as they are needed: random-resized crops by torch's DataLoader, one call a batch.

The crop of an image is a function of (seed, epoch, index), so any number of workers gives the same batches.
"""

import math
from collections.abc import Iterator

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from fastkd.data.augment import Augmentation, Normalise
from fastkd.data.base import Batch, FileSplit, RawBatch
from fastkd.data.folder import centre, decode, to_tensor
from fastkd.data.order import InOrder, Order
from fastkd.ops.philox import philox, split_seed

_CROP_STREAM = 1  # the fourth counter word: crops drawn here never share numbers with what `Flip` draws


class StreamingLoader:
    """Yields raw batches with pixels [1,B,H,W,3]."""

    def __init__(
        self,
        split: FileSplit,
        order: Order | InOrder,
        image_size: int,
        augmentation: Augmentation | None,
        *,
        seed: int = 0,
        workers: int = 0,
    ):
        self.split, self.order, self.steps = split, order, order.steps
        self.image_size, self.augmentation, self.seed, self.workers = image_size, augmentation, seed, workers

    def epoch(self, epoch: int, start: int = 0) -> Iterator[RawBatch]:
        batches = list(self.order.epoch(epoch, start))
        pixels = _BatchOfPixels(self.split, batches, self.image_size, self.augmentation, self.seed, epoch)
        loader = DataLoader(
            pixels,
            batch_size=None,
            num_workers=self.workers,
            prefetch_factor=2 if self.workers else None,
            worker_init_fn=_one_thread,
        )
        for index, images in loader:
            yield RawBatch(index, images[None])


class _BatchOfPixels(Dataset[tuple[Tensor, Tensor]]):
    """Item i is the whole batch i."""

    def __init__(
        self,
        split: FileSplit,
        batches: list[Tensor],
        image_size: int,
        augmentation: Augmentation | None,
        seed: int,
        epoch: int,
    ):
        self.split, self.batches, self.image_size = split, batches, image_size
        self.augmentation, self.seed, self.epoch = augmentation, seed, epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        index = self.batches[number]
        images = [decode(self.split.paths[place]) for place in index.tolist()]
        size = self.image_size
        if self.augmentation is None:
            pixels = [to_tensor(centre(image, round(size * 8 / 7), size)) for image in images]
        else:
            sizes = torch.tensor([image.size for image in images])
            boxes = crop_boxes(sizes, index, self.epoch, self.seed, self.augmentation).tolist()
            pixels = [
                to_tensor(image.resize((size, size), Image.Resampling.BILINEAR, box=tuple(box)))
                for image, box in zip(images, boxes, strict=True)
            ]
        return index, torch.stack(pixels)


def crop_boxes(sizes_B2: Tensor, index_B: Tensor, epoch: int, seed: int, augmentation: Augmentation) -> Tensor:
    """[B,4] int64 (left, top, right, bottom): a random area and aspect ratio, as in "Going deeper with convolutions"
    (Szegedy et al. 2015), inside images of size [B,2] (width, height).

    A box that does not fit is clipped to the image: torchvision draws again up to ten times instead, which one
    vectorised call cannot.
    """
    words = philox(split_seed(seed), (index_B, epoch, 0, _CROP_STREAM))
    u_area, u_aspect, u_left, u_top = (word.to(torch.float64) / 2**32 for word in words)
    width, height = sizes_B2.to(torch.float64).unbind(1)
    low, high = augmentation.area
    area = (low + (high - low) * u_area) * width * height
    low, high = (math.log(bound) for bound in augmentation.aspect)
    aspect = torch.exp(low + (high - low) * u_aspect)
    box_width = (area * aspect).sqrt().round().clamp(min=1).minimum(width)
    box_height = (area / aspect).sqrt().round().clamp(min=1).minimum(height)
    left = (u_left * (width - box_width + 1)).floor()
    top = (u_top * (height - box_height + 1)).floor()
    return torch.stack([left, top, left + box_width, top + box_height], dim=1).to(torch.int64)


class StreamedImages(nn.Module):
    """A raw batch with pixels becomes a `Batch`; in training every second image is flipped."""

    labels: Tensor

    def __init__(self, labels: Tensor, normalise: Normalise, augmentation: Augmentation | None, seed: int = 0):
        super().__init__()
        self.register_buffer("labels", labels, persistent=False)
        self.normalise, self.augmentation, self.key = normalise, augmentation, split_seed(seed)

    def forward(self, raw: RawBatch, step: Tensor, epoch: Tensor) -> Batch:
        images, index = raw.images, raw.index
        assert images is not None, "a streaming loader yields pixels"
        if self.augmentation is not None and self.augmentation.flip:
            flipped = (philox(self.key, (index, epoch, 0, 0))[2] >> 31).bool()
            images = torch.where(flipped[None, :, None, None, None], images.flip(3), images)
        return Batch(self.normalise(images), self.labels[index], index, step, epoch)


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)
