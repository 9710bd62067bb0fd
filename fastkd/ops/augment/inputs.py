"""What an augmentation reads: one named tuple to us, flat arguments to PyTorch. The fields below decide both."""

from typing import NamedTuple

import torch
from torch import Tensor


class How(NamedTuple):
    """What is done to the images, the same for all of them."""

    key_low: int
    """The low and the high 32 bits of the seed, see `fastkd.ops.philox.split_seed`."""
    key_high: int
    padding: int = 0
    """Pixels of black on each side, out of which an image is cropped."""
    flip: bool = False
    """Whether an image is mirrored with probability 1/2."""
    quarter_turns: bool = False
    """Whether view v is turned by v·90°; all views then share flip and angle, not the crop."""
    dtype: torch.dtype = torch.float32


class Inputs(NamedTuple):
    """Byte images, which of them are taken, and what is done to them."""

    images_nHWC: Tensor
    """[n,H,W,3] uint8."""
    rows_VB: Tensor
    """[V,B] int64: the image that each view of each sample is cut out of."""
    index_B: Tensor
    """[B] int64: the samples' row numbers in the split, which their random numbers are drawn by."""
    epoch: Tensor
    """[] int64."""
    turns: Tensor | None
    """[2,ANGLES] int64, see `turns_table`; None: images are not rotated."""
    scale_C: Tensor
    """[3] float32: a byte is multiplied by it and `shift_C` is added."""
    shift_C: Tensor
    how: How
