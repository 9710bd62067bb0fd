"""The kernel as an operation of PyTorch: schema and shape for `torch.compile`. Imports Triton."""

import torch
from torch import Tensor

from fastkd.ops.augment import kernel


@torch.library.custom_op("fastkd::augment", mutates_args=())
def augment(
    images_nHWC: Tensor,
    rows_VB: Tensor,
    index_B: Tensor,
    epoch: Tensor,
    turns: Tensor | None,
    scale_C: Tensor,
    shift_C: Tensor,
    key_low: int,
    key_high: int,
    padding: int,
    flip: bool,
    quarter_turns: bool,
    dtype: torch.dtype,
) -> Tensor:
    """[V,B,H,W,3], see `reference.augment`; bytes have no gradient."""
    return kernel.augment(
        images_nHWC,
        rows_VB.contiguous(),
        index_B.contiguous(),
        epoch,
        turns,
        scale_C,
        shift_C,
        key=(key_low, key_high),
        padding=padding,
        flip=flip,
        quarter_turns=quarter_turns,
        dtype=dtype,
    )


@augment.register_fake
def _(images_nHWC, rows_VB, index_B, epoch, turns, scale_C, shift_C, key_low, key_high, padding, flip, quarters, dtype):
    return images_nHWC.new_empty(*rows_VB.shape, *images_nHWC.shape[1:], dtype=dtype)
