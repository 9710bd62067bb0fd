"""Gather, crop, flip, turn, normalise and cast in one pass over the output, in Triton."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastkd.ops.augment.inputs import Inputs
from fastkd.ops.augment.reference import ANGLES, FIXED, STREAM

BLOCK = 1024
WARPS = 4


@triton.jit
def below(word, n):
    """Maps a 32-bit word to 0 … n-1, as fastkd.ops.philox.below."""
    return ((word.to(tl.uint64) * n) >> 32).to(tl.int32)


@triton.jit(do_not_specialize=["key_low", "key_high"])
def augment_kernel(
    images_ptr,
    rows_ptr,
    index_ptr,
    epoch_ptr,
    turns_ptr,
    scale_ptr,
    shift_ptr,
    out_ptr,
    B,
    key_low,
    key_high,
    H: tl.constexpr,
    W: tl.constexpr,
    PADDING: tl.constexpr,
    FLIP: tl.constexpr,
    QUARTER_TURNS: tl.constexpr,
    TURN: tl.constexpr,
    ANGLES: tl.constexpr,
    FIXED: tl.constexpr,
    STREAM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program (p, c) writes block c of the numbers of image p of V·B; images and output are [·,H,W,3] contiguous."""
    image = tl.program_id(0)
    view = image // B
    row = tl.load(rows_ptr + image)
    index = tl.load(index_ptr + image % B).to(tl.uint32)
    epoch = tl.load(epoch_ptr).to(tl.uint32)
    seed = key_low.to(tl.uint64) | (key_high.to(tl.uint64) << 32)
    zero = index * 0
    word_down, word_right, word_flip, word_turn = tl.philox(
        seed, index, epoch, zero + view.to(tl.uint32), zero + STREAM
    )
    if QUARTER_TURNS:  # flip and angle are those of view 0
        _, _, word_flip, word_turn = tl.philox(seed, index, epoch, zero, zero + STREAM)

    element = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    pixel = element // 3
    channel = element - 3 * pixel
    y = pixel // W
    x = pixel - y * W
    if QUARTER_TURNS:
        for quarter in tl.static_range(3):
            turned = quarter < view
            before = y
            y = tl.where(turned, x, y)
            x = tl.where(turned, H - 1 - before, x)
    inside = element < 3 * H * W
    wanted = inside
    if TURN:
        angle = below(word_turn, ANGLES)
        cosine, sine = tl.load(turns_ptr + angle), tl.load(turns_ptr + ANGLES + angle)
        down, right = 2 * y + 1 - H, 2 * x + 1 - W
        y = ((sine * right + cosine * down + (H << FIXED)) >> (FIXED + 1)).to(tl.int32)
        x = ((cosine * right - sine * down + (W << FIXED)) >> (FIXED + 1)).to(tl.int32)
        inside = inside & (y >= 0) & (y < H) & (x >= 0) & (x < W)
    if FLIP:
        x = tl.where((word_flip >> 31) == 1, W - 1 - x, x)
    if PADDING:
        y += below(word_down, 2 * PADDING + 1) - PADDING
        x += below(word_right, 2 * PADDING + 1) - PADDING
        inside = inside & (y >= 0) & (y < H) & (x >= 0) & (x < W)
    source = images_ptr + row * (3 * H * W)
    value = tl.load(source + (y * W + x) * 3 + channel, mask=inside, other=0).to(tl.float32)
    value = value * tl.load(scale_ptr + channel) + tl.load(shift_ptr + channel)
    out = out_ptr + image.to(tl.int64) * (3 * H * W)
    tl.store(out + element, value.to(out_ptr.dtype.element_ty), mask=wanted)


def augment(inputs: Inputs) -> Tensor:
    """[V,B,H,W,3], see `reference.augment`; rows and index are contiguous."""
    views, batch = inputs.rows_VB.shape
    _, height, width, _ = inputs.images_nHWC.shape
    out, how = empty_output(inputs), inputs.how
    if not out.numel():
        return out
    with torch.cuda.device_of(out):
        augment_kernel[(views * batch, triton.cdiv(3 * height * width, BLOCK))](
            inputs.images_nHWC,
            inputs.rows_VB,
            inputs.index_B,
            inputs.epoch,
            inputs.scale_C if inputs.turns is None else inputs.turns,
            inputs.scale_C,
            inputs.shift_C,
            out,
            batch,
            how.key_low,
            how.key_high,
            H=height,
            W=width,
            PADDING=how.padding,
            FLIP=how.flip,
            QUARTER_TURNS=how.quarter_turns,
            TURN=inputs.turns is not None,
            ANGLES=ANGLES,
            FIXED=FIXED,
            STREAM=STREAM,
            BLOCK=BLOCK,
            num_warps=WARPS,
        )
    return out


def empty_output(inputs: Inputs) -> Tensor:
    """[V,B,H,W,3] of the type that is asked for."""
    shape = (*inputs.rows_VB.shape, *inputs.images_nHWC.shape[1:])
    return inputs.images_nHWC.new_empty(shape, dtype=inputs.how.dtype)
