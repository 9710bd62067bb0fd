"""Gathers byte images on the device, crops, flips, turns, normalises and casts them: one pass.

reference.py   plain PyTorch: the CPU path, the oracle, the definition
kernel.py      Triton: each byte read once, each output written once, channels last
operation.py   registration with torch.library

This file is the choice between them.
"""

import math

import torch
from torch import Tensor

from fastkd.ops import select
from fastkd.ops.augment import reference
from fastkd.ops.augment.reference import ANGLES, FIXED

__all__ = ["augment", "turns_table"]


def augment(
    images_nHWC: Tensor,
    rows_VB: Tensor,
    index_B: Tensor,
    epoch: Tensor,
    turns: Tensor | None,
    scale_C: Tensor,
    shift_C: Tensor,
    *,
    key: tuple[int, int],
    padding: int = 0,
    flip: bool = False,
    quarter_turns: bool = False,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
) -> Tensor:
    """[V,B,3,H,W], see `reference.augment`. channels_last: whether each view [B,3,H,W] lies so in memory."""
    height, width = images_nHWC.shape[1:3]
    if quarter_turns and height != width:
        raise ValueError(f"quarter turns need square images, these are {height} x {width}")
    how = {"padding": padding, "flip": flip, "quarter_turns": quarter_turns, "dtype": dtype}
    packed = "" if images_nHWC.is_contiguous() else "the images are not contiguous"
    implementation, _ = select.choose("augment", images_nHWC.device.type, (("triton", packed),))
    if implementation == "reference":
        out = reference.augment(images_nHWC, rows_VB, index_B, epoch, turns, scale_C, shift_C, key=key, **how)
        return out.movedim(2, -1).contiguous().movedim(-1, 2) if channels_last else out
    from fastkd.ops.augment import operation  # imports Triton

    out = operation.augment(
        images_nHWC, rows_VB, index_B, epoch, turns, scale_C, shift_C, *key, padding, flip, quarter_turns, dtype
    ).movedim(-1, 2)
    return out if channels_last else out.contiguous()


def turns_table(degrees: float) -> Tensor:
    """[2, ANGLES] int64: fixed-point cosine and sine of the angles from -degrees to +degrees."""
    angles = torch.linspace(-math.radians(degrees), math.radians(degrees), ANGLES, dtype=torch.float64)
    return (torch.stack([angles.cos(), angles.sin()]) * (1 << FIXED)).round().to(torch.int64)
