"""The two small kernels around the large one: the sum over the batch, and the scaling of the gradients in backward."""

import triton
import triton.language as tl

from fastkd.ops.distill_loss.kernel_parts import ANCHOR_CE_WEIGHT, FIRST_HITS, PAIR_WEIGHT, load_third_weight


@triton.jit(do_not_specialize=["programs", "B"])
def finish_kernel(
    sums_ptr,  # [QUANTITIES, programs]
    numbers_ptr,
    total_ptr,
    parts_ptr,  # [3]: CE of the anchor, pair term, third part
    hits_ptr,  # [QUANTITIES - 4]
    correction_ptr,
    programs,
    B,
    PARTNERS_LEARN: tl.constexpr,
    DECOUPLED: tl.constexpr,
    QUANTITIES: tl.constexpr,
    PADDED: tl.constexpr,
    LANES: tl.constexpr,
):
    """Adds what the programs have summed, in an order that depends on their number alone: always to the same bits."""
    quantity = tl.arange(0, PADDED)
    lanes = tl.zeros((PADDED, LANES), tl.float32)
    for start in range(0, programs, LANES):
        program = start + tl.arange(0, LANES)
        mask = (quantity[:, None] < QUANTITIES) & (program[None, :] < programs)
        lanes += tl.load(sums_ptr + quantity[:, None] * programs + program[None, :], mask=mask, other=0.0)
    sums = tl.sum(lanes, 1)
    counted = tl.maximum(tl.sum(tl.where(quantity == 0, sums, 0.0)), 1.0)
    is_part = (quantity > 0) & (quantity < FIRST_HITS)
    parts = sums / counted
    tl.store(parts_ptr + quantity - 1, parts, mask=is_part)
    hits_mask = (quantity >= FIRST_HITS) & (quantity < QUANTITIES)
    tl.store(hits_ptr + quantity - FIRST_HITS, (sums + 0.5).to(tl.int64), mask=hits_mask)
    tl.store(correction_ptr, B.to(tl.float32) / counted)

    ce = tl.sum(tl.where(quantity == 1, parts, 0.0)) * tl.load(numbers_ptr + ANCHOR_CE_WEIGHT)
    total = ce + tl.sum(tl.where(quantity == 2, parts, 0.0)) * tl.load(numbers_ptr + PAIR_WEIGHT)
    if PARTNERS_LEARN or DECOUPLED:
        third = tl.sum(tl.where(quantity == 3, parts, 0.0))
        total += third * load_third_weight(numbers_ptr, PARTNERS_LEARN, DECOUPLED)
    tl.store(total_ptr, total)


@triton.jit(do_not_specialize=["B"])
def scale_kernel(
    gradient_ptrs, scale_ptr, correction_ptr, B, K: tl.constexpr, GRADIENTS: tl.constexpr, LANES: tl.constexpr
):
    """Multiplies in place; returns at once if that changes nothing, as after `loss.total.backward()`."""
    scale = tl.load(scale_ptr) * tl.load(correction_ptr)
    if scale != 1.0:
        elements = B.to(tl.int64) * K  # K is known when this is compiled: its factors of two make the accesses wide
        for start in range(tl.program_id(0), tl.cdiv(elements, LANES), tl.num_programs(0)):
            offsets = start * LANES + tl.arange(0, LANES)
            for i in tl.static_range(GRADIENTS):
                gradient = tl.load(gradient_ptrs[i] + offsets, mask=offsets < elements).to(tl.float32)
                scaled = (gradient * scale).to(gradient_ptrs[i].dtype.element_ty)
                tl.store(gradient_ptrs[i] + offsets, scaled, mask=offsets < elements)
