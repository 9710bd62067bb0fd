"""Gather, crop, flip, turn, normalise in plain PyTorch: the CPU path, the oracle, the definition.

Every output pixel looks up where it comes from. The random numbers of an image are a function of (key, epoch, index,
view) alone, in integers throughout, so that every device picks the same pixels.
"""

import torch
from torch import Tensor

from fastkd.ops.augment.inputs import Inputs
from fastkd.ops.philox import below, philox

ANGLES = 1024  # a rotation takes one of so many angles: integer arithmetic from there on, the same on every device
FIXED = 16  # bits after the point of a sine or cosine
_CACHED = 1 << 20  # bytes of images that are worked on at a time
STREAM = 0  # the fourth counter word of the draws made here


def augment(inputs: Inputs) -> Tensor:
    """[V,B,3,H,W]: view v of sample b is byte image rows_VB[v,b], its random numbers are those of index_B[b].

    A view is cropped out of the zero-padded image, flipped, then turned by an angle of the table `turns`; with
    quarter_turns view v is at last turned by v·90°, and all views share flip and angle, not the crop.
    """
    images_nHWC, rows_VB, index_B, epoch, turns, scale_C, shift_C, how = inputs
    key_low, key_high, padding, flip, quarter_turns, dtype = how
    key = key_low, key_high
    _, height, width, channels = images_nHWC.shape
    views, batch = rows_VB.shape
    out = torch.empty(views, batch, channels, height, width, dtype=dtype, device=images_nHWC.device)
    # A CPU takes a few large images at a time, so that what is computed of them stays in its cache.
    together = max(1, _CACHED // (channels * height * width)) if images_nHWC.device.type == "cpu" else max(1, batch)
    words = first = philox(key, (index_B, epoch, 0, STREAM))
    for view in range(views):
        if view:
            words = philox(key, (index_B, epoch, view, STREAM))
        shared = first if quarter_turns else words
        down, right = ((below(word, 2 * padding + 1) - padding)[:, None, None] for word in words[:2])
        flipped = (shared[2] >> 31).bool()[:, None, None] if flip else None
        turned = None if turns is None else turns[:, below(shared[3], ANGLES)][:, :, None, None]
        for begin in range(0, batch, together):
            part = slice(begin, begin + together)
            pixels = _planes(images_nHWC, rows_VB[view, part])
            mirrored = None if flipped is None else flipped[part]
            if padding or turned is not None or (quarter_turns and view):
                pixels = _looked_up(
                    pixels,
                    down[part],
                    right[part],
                    flipped=mirrored,
                    turned=None if turned is None else turned[:, part],
                    quarters=view if quarter_turns else 0,
                    margin=max(padding, turned is not None),
                )
            elif mirrored is not None:
                pixels = torch.where(mirrored[:, None], pixels.flip(3), pixels)
            normalised = out[view, part] if dtype == torch.float32 else torch.empty_like(pixels, dtype=torch.float32)
            normalised.copy_(pixels).mul_(scale_C[:, None, None]).add_(shift_C[:, None, None])
            if dtype != torch.float32:
                out[view, part] = normalised.to(dtype)
    return out


def _planes(images_nHWC: Tensor, rows_B: Tensor) -> Tensor:
    """[B,C,H,W] contiguous, by copying whole images, however they lie in memory."""
    if images_nHWC.is_contiguous():
        return images_nHWC.index_select(0, rows_B).movedim(-1, 1).contiguous()
    return images_nHWC.movedim(-1, 1).index_select(0, rows_B)


def _looked_up(
    pixels_BCHW: Tensor,
    down: Tensor,
    right: Tensor,
    *,
    flipped: Tensor | None,
    turned: Tensor | None,
    quarters: int,
    margin: int,
) -> Tensor:
    """[B,C,H,W]: each pixel looked up where crop, flip and turns bring it from.

    margin: black pixels around each image; whatever comes from outside of the image comes from there.
    """
    batch, channels, height, width = pixels_BCHW.shape
    rows = torch.arange(height, device=pixels_BCHW.device)[None, :, None]
    columns = torch.arange(width, device=pixels_BCHW.device)[None, None, :]
    for _ in range(quarters):
        rows, columns = columns, height - 1 - rows
    if turned is not None:
        rows, columns = _turned_back(rows, columns, turned, height, width)
    if flipped is not None:
        columns = torch.where(flipped, width - 1 - columns, columns)
    if turned is not None:  # what the turn brought in from outside stays black, whatever the crop
        outside = (rows < 0) | (rows >= height) | (columns < 0) | (columns >= width)
        rows = torch.where(outside, -(height + margin), rows)
    rows = (rows + down).clamp(-margin, height - 1 + margin) + margin
    columns = (columns + right).clamp(-margin, width - 1 + margin) + margin
    stride = width + 2 * margin
    source = (rows * stride + columns).view(batch, 1, height * width).expand(-1, channels, -1)
    if margin:
        framed = pixels_BCHW.new_zeros(batch, channels, height + 2 * margin, stride)
        framed[:, :, margin:-margin, margin:-margin] = pixels_BCHW
        pixels_BCHW = framed
    return pixels_BCHW.reshape(batch, channels, -1).gather(2, source).view(batch, channels, height, width)


def _turned_back(rows: Tensor, columns: Tensor, turned: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Row and column in the straight image of each pixel of the turned one; the turn is about the image's centre."""
    cosine, sine = turned.unbind()
    down, right = 2 * rows + 1 - height, 2 * columns + 1 - width  # half pixels from the centre
    turned_down, turned_right = sine * right + cosine * down, cosine * right - sine * down
    return _to_pixel(turned_down, height), _to_pixel(turned_right, width)


def _to_pixel(half_pixels_fixed: Tensor, size: int) -> Tensor:
    return (half_pixels_fixed + (size << FIXED)) >> (FIXED + 1)
