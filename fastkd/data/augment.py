"""Training-time augmentation of images that live on the device as bytes."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fastkd.data.base import Batch, RawBatch, Split
from fastkd.ops.philox import below, philox, split_seed

_ANGLES = 1024  # a rotation takes one of so many angles: integer arithmetic from there on, the same on every device
_FIXED = 16  # bits after the point of a sine or cosine


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What happens to a training image; evaluation images are only normalised (and cropped, see `crop`)."""

    crop: Literal["pad", "resized"] = "pad"
    """"pad": a random window of the zero-padded image. "resized": a random area and aspect ratio, resized, as is usual
    on ImageNet; evaluation then takes the centre of the image resized to 8/7 of the image size."""
    crop_padding: int = 4
    """Pixels on each side."""
    flip: bool = True
    """Horizontally, every second image."""
    rotation: float = 0.0
    """Uniform in ± so many degrees, nearest pixel, black outside (the Tf-KD recipes)."""
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)


class Normalise(nn.Module):
    """Bytes [...,H,W,3] to normalised float32 [...,3,H,W]."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: tuple[float, float, float], std: tuple[float, float, float]):
        super().__init__()
        mean_C, std_C = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
        self.register_buffer("scale", (1 / (255 * std_C)).float()[:, None, None], persistent=False)
        self.register_buffer("shift", (-mean_C / std_C).float()[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return torch.addcmul(self.shift, images.movedim(-1, -3).contiguous().float(), self.scale)


class ResidentImages(nn.Module):
    """A split on the device: a raw batch of indices becomes a `Batch`, in training augmented.

    The random numbers of an image are a function of (seed, epoch, index, view) alone.
    """

    images: Tensor
    labels: Tensor
    turns: Tensor

    def __init__(self, split: Split, normalise: Normalise, augmentation: Augmentation | None, seed: int = 0):
        super().__init__()
        self.register_buffer("images", split.images, persistent=False)
        self.register_buffer("labels", split.labels, persistent=False)
        self.normalise, self.augmentation, self.key = normalise, augmentation, split_seed(seed)
        self.register_buffer("turns", _turns(augmentation.rotation if augmentation else 0.0), persistent=False)

    def forward(self, raw: RawBatch, step: Tensor, epoch: Tensor) -> Batch:
        index = raw.index
        pixels = self.images[index] if self.augmentation is None else self._augmented(index, epoch, self.augmentation)
        return Batch(self.normalise(pixels)[None], self.labels[index], index, step, epoch)

    def _augmented(self, index_B: Tensor, epoch: Tensor, augmentation: Augmentation, view: int = 0) -> Tensor:
        """[B,H,W,3] uint8: rotated, flipped and cropped by looking up, for each pixel, where it comes from."""
        n, height, width, channels = self.images.shape
        word_y, word_x, word_flip, word_turn = philox(self.key, (index_B, epoch, view, 0))
        rows = torch.arange(height, device=index_B.device)[None, :, None]
        columns = torch.arange(width, device=index_B.device)[None, None, :]
        inside = None
        if augmentation.rotation:
            rows, columns = self._rotate(rows, columns, below(word_turn, _ANGLES))
            inside = _within(rows, height) & _within(columns, width)
        if augmentation.flip:
            flipped = (word_flip >> 31).bool()[:, None, None]
            columns = torch.where(flipped, width - 1 - columns, columns)
        if augmentation.crop_padding:
            shifts = 2 * augmentation.crop_padding + 1
            rows = rows + (below(word_y, shifts) - augmentation.crop_padding)[:, None, None]
            columns = columns + (below(word_x, shifts) - augmentation.crop_padding)[:, None, None]
            cropped = _within(rows, height) & _within(columns, width)
            inside = cropped if inside is None else inside & cropped
        source = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
        pixels = self.images.view(n * height * width, channels)[index_B[:, None, None] * (height * width) + source]
        return pixels if inside is None else pixels * inside[..., None]

    def _rotate(self, rows: Tensor, columns: Tensor, angle_B: Tensor) -> tuple[Tensor, Tensor]:
        """Where each pixel of the turned image lies in the straight one; the turn is about the image's centre."""
        height, width = self.images.shape[1:3]
        cosine, sine = self.turns[:, angle_B][:, :, None, None].unbind()
        down, right = 2 * rows + 1 - height, 2 * columns + 1 - width  # half pixels from the centre
        turned_right = cosine * right - sine * down
        turned_down = sine * right + cosine * down
        return _to_pixel(turned_down, height), _to_pixel(turned_right, width)


def _to_pixel(half_pixels_fixed: Tensor, size: int) -> Tensor:
    return (half_pixels_fixed + (size << _FIXED)) >> (_FIXED + 1)


def _turns(degrees: float) -> Tensor:
    """[2, angles] int64: fixed-point cosine and sine of the angles from -degrees to +degrees."""
    angles = torch.linspace(-math.radians(degrees), math.radians(degrees), _ANGLES, dtype=torch.float64)
    return (torch.stack([angles.cos(), angles.sin()]) * (1 << _FIXED)).round().to(torch.int64)


def _within(position: Tensor, size: int) -> Tensor:
    return (position >= 0) & (position < size)
