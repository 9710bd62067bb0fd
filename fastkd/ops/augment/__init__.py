"""Gathers byte images on the device, crops, flips, turns, normalises and casts them: one pass.

inputs.py      what all of them read
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
from fastkd.ops.augment.inputs import How, Inputs
from fastkd.ops.augment.reference import ANGLES, FIXED
from fastkd.ops.schema import flat

__all__ = ["How", "Inputs", "augment", "turns_table"]


def augment(inputs: Inputs, *, channels_last: bool = False) -> Tensor:
    """[V,B,3,H,W], see `reference.augment`. channels_last: whether each view [B,3,H,W] lies so in memory."""
    height, width = inputs.images_nHWC.shape[1:3]
    if inputs.how.quarter_turns and height != width:
        raise ValueError(f"quarter turns need square images, these are {height} x {width}")
    packed = "" if inputs.images_nHWC.is_contiguous() else "the images are not contiguous"
    implementation, _ = select.choose("augment", inputs.images_nHWC.device.type, (("triton", packed),))
    if implementation == "reference":
        out = reference.augment(inputs)
        return out.movedim(2, -1).contiguous().movedim(-1, 2) if channels_last else out
    from fastkd.ops.augment import operation  # imports Triton

    out = operation.augment(*flat(inputs)).movedim(-1, 2)
    return out if channels_last else out.contiguous()


def turns_table(degrees: float) -> Tensor:
    """[2, ANGLES] int64: fixed-point cosine and sine of the angles from -degrees to +degrees."""
    angles = torch.linspace(-math.radians(degrees), math.radians(degrees), ANGLES, dtype=torch.float64)
    return (torch.stack([angles.cos(), angles.sin()]) * (1 << FIXED)).round().to(torch.int64)
