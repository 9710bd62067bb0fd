"""The two small kernels around the large one: the sum over the batch, and the scaling of the gradients in backward."""

import triton
import triton.language as tl

from fastkd.ops.distill_loss.pieces import ANCHOR_CE_WEIGHT, FIRST_HITS, PAIR_WEIGHT, THIRD


@triton.jit(do_not_specialize=["blocks"])
def finish_kernel(
    sums_ptr,  # [QUANTITIES, blocks]
    settings_ptr,
    total_ptr,
    parts_ptr,  # [3]: CE of the anchor, pair term, third part
    hits_ptr,  # [QUANTITIES - 4]
    blocks,
    HAS_THIRD: tl.constexpr,
    QUANTITIES: tl.constexpr,
    PADDED: tl.constexpr,
    LANES: tl.constexpr,
):
    """Sums in an order that depends on the number of blocks alone: every run gives the same bits."""
    quantity = tl.arange(0, PADDED)
    lanes = tl.zeros((PADDED, LANES), tl.float32)
    for start in range(0, blocks, LANES):
        block = start + tl.arange(0, LANES)
        mask = (quantity[:, None] < QUANTITIES) & (block[None, :] < blocks)
        lanes += tl.load(sums_ptr + quantity[:, None] * blocks + block[None, :], mask=mask, other=0.0)
    sums = tl.sum(lanes, 1)
    counted = tl.maximum(tl.sum(tl.where(quantity == 0, sums, 0.0)), 1.0)
    is_part = (quantity > 0) & (quantity < FIRST_HITS)
    parts = sums / counted
    tl.store(parts_ptr + quantity - 1, parts, mask=is_part)
    hits_mask = (quantity >= FIRST_HITS) & (quantity < QUANTITIES)
    tl.store(hits_ptr + quantity - FIRST_HITS, (sums + 0.5).to(tl.int64), mask=hits_mask)

    ce = tl.sum(tl.where(quantity == 1, parts, 0.0)) * tl.load(settings_ptr + ANCHOR_CE_WEIGHT)
    total = ce + tl.sum(tl.where(quantity == 2, parts, 0.0)) * tl.load(settings_ptr + PAIR_WEIGHT)
    if HAS_THIRD:
        total += tl.sum(tl.where(quantity == 3, parts, 0.0)) * tl.load(settings_ptr + THIRD)
    tl.store(total_ptr, total)


@triton.jit(do_not_specialize=["B"])
def scale_kernel(gradient_ptrs, scale_ptr, B, K: tl.constexpr, GRADIENTS: tl.constexpr, LANES: tl.constexpr):
    """Multiplies in place; returns at once where the scale is 1, as it is for `loss.total.backward()`."""
    scale = tl.load(scale_ptr)
    if scale != 1.0:
        offsets = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
        exists = offsets < B.to(tl.int64) * K  # K's factors of two make the accesses wide
        for i in tl.static_range(GRADIENTS):
            gradient = tl.load(gradient_ptrs[i] + offsets, mask=exists).to(tl.float32)
            tl.store(gradient_ptrs[i] + offsets, (gradient * scale).to(gradient_ptrs[i].dtype.element_ty), mask=exists)
