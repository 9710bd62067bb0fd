"""CMI's two views of each image, in the conventions of kornia 0.6.12, on whole batches; their draws are tensors.

The views are taken of images in [0, 1], and normalised afterwards: what is padded is black.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING = 4
LEAST_AREA = 0.25
MOST_RATIO = 4 / 3
TRIES = 10


class GlobalDraws(NamedTuple):
    """[B] int64 each: the left column and top row of a crop of the padded image, and whether it is mirrored."""

    left: Tensor
    top: Tensor
    flip: Tensor


class LocalDraws(NamedTuple):
    """[B] int64 each: the box that is resized to the image's size, and whether it is mirrored."""

    left: Tensor
    top: Tensor
    width: Tensor
    height: Tensor
    flip: Tensor


def global_view(images_BCHW: Tensor, draws: GlobalDraws) -> Tensor:
    """Crops of images that are padded with 0 on every side, as large as the image, mirrored where drawn so."""
    height, width = images_BCHW.shape[2:]
    padded = F.pad(images_BCHW, (PADDING,) * 4)
    rows_BH = draws.top[:, None] + torch.arange(height, device=images_BCHW.device)
    columns_BW = _mirrored(torch.arange(width, device=images_BCHW.device).expand(len(rows_BH), -1), draws.flip)
    return _taken(padded, rows_BH, columns_BW + draws.left[:, None])


def local_view(images_BCHW: Tensor, draws: LocalDraws) -> Tensor:
    """Boxes resized to the image's size, bilinearly with the corners aligned (output pixel i reads i (n-1) / (H-1) of
    the box's n), without antialiasing, mirrored where drawn so."""
    height, width = images_BCHW.shape[2:]
    rows_BHh = _weights(draws.top, draws.height, height, images_BCHW)
    columns_BWw = _weights(draws.left, draws.width, width, images_BCHW)
    columns_BWw = torch.where(draws.flip[:, None, None].bool(), columns_BWw.flip(1), columns_BWw)
    return torch.einsum("byh,bchw,bxw->bcyx", rows_BHh, images_BCHW, columns_BWw)


def normalised(images_BCHW: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """mean, std: [3], where white is 1."""
    return (images_BCHW - mean[:, None, None]) / std[:, None, None]


def drawn_global(count: int, generator: torch.Generator) -> GlobalDraws:
    """Draws for so many images, on the generator's device: every place and both sides are as likely."""
    device = generator.device
    left, top = torch.randint(2 * PADDING + 1, (2, count), generator=generator, device=device)
    return GlobalDraws(left, top, torch.randint(2, (count,), generator=generator, device=device))


def drawn_local(count: int, image_size: int, generator: torch.Generator) -> LocalDraws:
    """Draws for so many images: a box's share of the area is even in (1/4, 1), the logarithm of its aspect ratio in
    (log 3/4, log 4/3). It is the first of ten that is smaller than the image both ways, else 3/4 of the image's height.
    """
    even = torch.rand((5, count, TRIES), generator=generator, device=generator.device, dtype=torch.float64)
    area = (LEAST_AREA + even[0] * (1 - LEAST_AREA)) * image_size**2
    ratio = ((2 * even[1] - 1) * math.log(MOST_RATIO)).exp()
    widths, heights = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
    fits = (widths > 0) & (widths < image_size) & (heights > 0) & (heights < image_size)
    first = fits.to(torch.int8).argmax(1, keepdim=True)
    any_fits = fits.any(1)
    width = torch.where(any_fits, widths.gather(1, first)[:, 0], image_size)
    height = torch.where(any_fits, heights.gather(1, first)[:, 0], round(0.75 * image_size))
    left, top = ((even[2 + axis, :, 0] * (image_size - side + 1)).long() for axis, side in enumerate((width, height)))
    return LocalDraws(left, top, width, height, (even[4, :, 0] < 0.5).long())


def _mirrored(columns_BW: Tensor, flip_B: Tensor) -> Tensor:
    return torch.where(flip_B[:, None].bool(), columns_BW.flip(1), columns_BW)


def _taken(images_BCHW: Tensor, rows_BH: Tensor, columns_BW: Tensor) -> Tensor:
    channels, width = images_BCHW.shape[1], images_BCHW.shape[3]
    places = (rows_BH[:, :, None] * width + columns_BW[:, None, :]).flatten(1)
    taken = images_BCHW.flatten(2).gather(2, places[:, None].expand(-1, channels, -1))
    return taken.unflatten(2, (rows_BH.shape[1], columns_BW.shape[1]))


def _weights(start_B: Tensor, length_B: Tensor, outputs: int, like: Tensor) -> Tensor:
    """[B,outputs,n]: how much of each of the n rows each output row is made of."""
    rows = torch.arange(outputs, device=like.device, dtype=like.dtype)
    places = start_B[:, None] + rows * (length_B[:, None].to(like.dtype) - 1) / max(outputs - 1, 1)
    return (1 - (places[:, :, None] - rows).abs()).clamp(min=0)
