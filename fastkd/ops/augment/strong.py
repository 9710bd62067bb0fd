"""Strong augmentation: operations drawn for each image, batched under masks, so that nothing is read on the host.

Images are [B,3,H,W] float32 with whole numbers 0 to 255. Every operation is computed for the whole batch and kept where
it was drawn: a step that holds it can be captured. The draws are integers, functions of (key, epoch, index, view).

The operations are torchvision's (`torchvision.transforms.v2.functional`, to which the tests hold them); its own
transforms draw from a global generator and take one magnitude for a batch. Which operations there are, and how a
magnitude from 0 to 1 becomes their argument, stands in `FIXMATCH` and `RANDAUGMENT`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastkd.ops.philox import below, philox

STREAM = 16  # the fourth counter word of the first draw made here; each further one takes the next
GREY = (0.2989, 0.587, 0.114)
CUTOUT_COLOUR = (125.0, 123.0, 114.0)
"""What FixMatch's code fills a cut-out square with."""
GREATEST_CUTOUT = 0.5
"""Greatest side of that square, as a share of the image's."""

Operation = Callable[[Tensor, Tensor], Tensor]
"""(images, argument [B,1,1,1]) → images."""


class Policy(NamedTuple):
    """What a strong view is made by."""

    operations: tuple[tuple[Operation, Callable[[Tensor], Tensor]], ...]
    """Each with what makes its argument of a magnitude."""
    signed: bool
    """Whether an operation with a direction gets either sign; else its own range has both."""
    cutout: bool


def strengthened(
    images_BCHW: Tensor, policy: Policy, key: tuple[int, int], index_B: Tensor, epoch: Tensor, view: int, how: "Drawn"
) -> Tensor:
    """The images after `how.count` operations of the policy, each drawn from all of them."""
    for number in range(how.count):
        words = philox(key, (index_B, epoch, view, STREAM + number))
        chosen = below(words[0], len(policy.operations))
        magnitude = share(words[1]) if how.magnitude is None else torch.full_like(share(words[1]), how.magnitude)
        sign = 1 - 2 * (words[2] >> 31).float() if policy.signed else torch.ones_like(magnitude)
        images_BCHW = one_of(policy, images_BCHW, chosen, magnitude, sign)
    if policy.cutout:
        side, down, right, _ = philox(key, (index_B, epoch, view, STREAM + how.count))
        images_BCHW = cut_out(images_BCHW, GREATEST_CUTOUT * share(side), share(down), share(right))
    return images_BCHW


class Drawn(NamedTuple):
    """How many operations are drawn, and their magnitude."""

    count: int
    magnitude: float | None = None
    """From 0 to 1; None: drawn for each operation, uniformly."""


def one_of(policy: Policy, images_BCHW: Tensor, chosen_B: Tensor, magnitude_B: Tensor, sign_B: Tensor) -> Tensor:
    """Each image after the operation that was chosen for it."""
    out = images_BCHW
    for number, (operation, argument) in enumerate(policy.operations):
        value = argument(magnitude_B)
        if operation in DIRECTED:
            value = value * sign_B
        elif operation in BLENDED and policy.signed:
            value = 1 + (value - 1) * sign_B
        changed = operation(images_BCHW, value[:, None, None, None])
        out = torch.where((chosen_B == number)[:, None, None, None], changed, out)
    return out


def share(word: Tensor) -> Tensor:
    """[B] float32 in 0 … 1, with 24 bits."""
    return (word >> 8).float() / (1 << 24)


def identity(images: Tensor, _argument: Tensor) -> Tensor:
    return images


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    return _blend(images, torch.zeros_like(images[:, :1]), factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    return _blend(images, _grey(images).mean((1, 2, 3), keepdim=True), factor)


def colour(images: Tensor, factor: Tensor) -> Tensor:
    return _blend(images, _grey(images), factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """The pixels at the border stay as they are."""
    channels = images.shape[1]
    kernel = torch.ones(3, 3, dtype=images.dtype, device=images.device)
    kernel[1, 1].fill_(5)
    smooth = F.conv2d(images, (kernel / 13).expand(channels, 1, 3, 3), groups=channels).round()
    inner = _blend(images[:, :, 1:-1, 1:-1], smooth, factor)
    return torch.cat(
        [
            images[:, :, :1],
            torch.cat([images[:, :, 1:-1, :1], inner, images[:, :, 1:-1, -1:]], 3),
            images[:, :, -1:],
        ],
        2,
    )


def posterise(images: Tensor, bits: Tensor) -> Tensor:
    step = 2 ** (8 - bits.floor())
    return (images / step).floor() * step


def solarise(images: Tensor, threshold: Tensor) -> Tensor:
    return torch.where(images >= threshold, 255 - images, images)


def autocontrast(images: Tensor, _argument: Tensor) -> Tensor:
    least, greatest = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    flat = least == greatest
    least, scale = torch.where(flat, 0, least), torch.where(flat, 1, (greatest - least) * (1 / 255))
    return ((images - least) / scale).clamp(0, 255).floor()


def equalise(images: Tensor, _argument: Tensor) -> Tensor:
    """Each channel's values spread so that all are about as frequent."""
    planes = images.flatten(0, 1).flatten(1).long()
    counts = torch.zeros(len(planes), 256, dtype=torch.int64, device=images.device)
    counts = counts.scatter_add(1, planes, torch.ones_like(planes))
    total = counts.cumsum(1)
    last = (counts != 0).long().cumsum(1).argmax(1, keepdim=True)  # the greatest value there is
    step = (planes.shape[1] - counts.gather(1, last)) // 255
    table = (total - counts + step // 2) // step.clamp(min=1)
    spread = table.clamp(0, 255).gather(1, planes)
    return torch.where(step == 0, planes, spread).view(images.shape).to(images.dtype)


def shear_x(images: Tensor, slope: Tensor) -> Tensor:
    """A pixel comes from slope · (row + 1/2) to its right."""
    down, right = _places(images)
    return _looked_up(images, down, right + slope[:, 0] * (down + 0.5))


def shear_y(images: Tensor, slope: Tensor) -> Tensor:
    down, right = _places(images)
    return _looked_up(images, down + slope[:, 0] * (right + 0.5), right)


def translate_x(images: Tensor, by: Tensor) -> Tensor:
    """Moves by a share of the width, in whole pixels."""
    down, right = _places(images)
    return _looked_up(images, down, right - (by[:, 0] * images.shape[3]).trunc())


def translate_y(images: Tensor, by: Tensor) -> Tensor:
    down, right = _places(images)
    return _looked_up(images, down - (by[:, 0] * images.shape[2]).trunc(), right)


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Anticlockwise about the image's centre."""
    down, right = _places(images)
    centre_down, centre_right = (images.shape[2] - 1) / 2, (images.shape[3] - 1) / 2
    angle = degrees[:, 0] * (math.pi / 180)
    y, x = down - centre_down, right - centre_right
    source_down = angle.sin() * x + angle.cos() * y + centre_down
    return _looked_up(images, source_down, angle.cos() * x - angle.sin() * y + centre_right)


def cut_out(images: Tensor, side_B: Tensor, down_B: Tensor, right_B: Tensor) -> Tensor:
    """A square of so much of the image's width, about a point, becomes grey; it is cut off at the image's border."""
    height, width = images.shape[2:]
    rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    half = (side_B * width / 2)[:, None]
    tall = (rows >= down_B[:, None] * height - half) & (rows < down_B[:, None] * height + half)
    wide = (columns >= right_B[:, None] * width - half) & (columns < right_B[:, None] * width + half)
    inside = (tall[:, :, None] & wide[:, None, :])[:, None]
    channels = [torch.where(inside, colour, images[:, place : place + 1]) for place, colour in enumerate(CUTOUT_COLOUR)]
    return torch.cat(channels, 1)


DIRECTED = (shear_x, shear_y, translate_x, translate_y, rotate)
"""Operations that go either way; their argument gets a sign."""
BLENDED = (brightness, colour, contrast, sharpness)
"""Operations whose argument is 1 where they do nothing; it goes to either side of that."""


def _unused(magnitude: Tensor) -> Tensor:
    return magnitude


def _between(least: float, greatest: float) -> Callable[[Tensor], Tensor]:
    return lambda magnitude: least + (greatest - least) * magnitude


FIXMATCH = Policy(
    (
        (autocontrast, _unused),
        (brightness, _between(0.05, 0.95)),
        (colour, _between(0.05, 0.95)),
        (contrast, _between(0.05, 0.95)),
        (equalise, _unused),
        (identity, _unused),
        (posterise, _between(4, 8)),
        (rotate, _between(-30, 30)),
        (sharpness, _between(0.05, 0.95)),
        (shear_x, _between(-0.3, 0.3)),
        (shear_y, _between(-0.3, 0.3)),
        (solarise, _between(0, 256)),
        (translate_x, _between(-0.3, 0.3)),
        (translate_y, _between(-0.3, 0.3)),
    ),
    signed=False,
    cutout=True,
)
"""The strong view of FixMatch's code, which MLLD and CRLD take: two operations at magnitudes drawn for each."""

RANDAUGMENT = Policy(
    (
        (identity, _unused),
        (shear_x, _between(0, 0.3)),
        (shear_y, _between(0, 0.3)),
        (translate_x, _between(0, 150 / 331)),
        (translate_y, _between(0, 150 / 331)),
        (rotate, _between(0, 30)),
        (brightness, _between(1, 1.9)),
        (colour, _between(1, 1.9)),
        (contrast, _between(1, 1.9)),
        (sharpness, _between(1, 1.9)),
        (posterise, lambda magnitude: 8 - (4 * magnitude).round()),
        (solarise, _between(255, 0)),
        (autocontrast, _unused),
        (equalise, _unused),
    ),
    signed=True,
    cutout=False,
)
"""RandAugment (Cubuk et al., 2020, arXiv 1909.13719) with torchvision's table; a magnitude of 30 is 1 here."""


def _grey(images: Tensor) -> Tensor:
    red, green, blue = images.split(1, 1)
    return (red * GREY[0] + green * GREY[1] + blue * GREY[2]).floor()


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (images * factor + other * (1 - factor)).clamp(0, 255).floor()


def _places(images: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of each pixel, [1,H,1] and [1,1,W]."""
    height, width = images.shape[2:]
    rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    return rows[None, :, None].float(), columns[None, None, :].float()


def _looked_up(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Each pixel from the nearest to a place of the image, black from outside of it."""
    height, width = images.shape[2:]
    shape = (len(images), height, width)
    rows, columns = down.round().expand(shape).long(), right.round().expand(shape).long()
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    source = (rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)).flatten(1)[:, None]
    found = images.flatten(2).gather(2, source.expand(-1, images.shape[1], -1)).view(images.shape)
    return torch.where(inside[:, None], found, 0)
