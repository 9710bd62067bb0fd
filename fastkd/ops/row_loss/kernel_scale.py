"""The scaling of the rows' gradients in backward."""

import triton
import triton.language as tl

from fastkd.ops.row_loss.kernel_parts import load_numbers, place_of_rows, row_pointers


@triton.jit(do_not_specialize=["batches", "R"])
def scale_rows_kernel(
    gradient_ptr,
    scale_ptr,  # [N]
    batches,
    R,
    K: tl.constexpr,
    STRIDES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Multiplies rows in place; does not touch those that this changes nothing of, as after `total.backward()`."""
    for block in range(tl.program_id(0), batches * tl.cdiv(R, ROWS), tl.num_programs(0)):
        row, batch, inner, exists = place_of_rows(block, R, ROWS)
        scale = tl.load(scale_ptr + row, mask=exists, other=1.0)
        changes = scale != 1.0
        if tl.max(changes.to(tl.int32), 0) > 0:
            gradients = row_pointers(gradient_ptr, batch, inner, STRIDES)
            for start in range(0, K, COLUMNS):
                columns = start + tl.arange(0, COLUMNS)
                scaled = load_numbers(gradients, columns, changes, 0.0, STRIDES, K) * scale[:, None]
                places = gradients[:, None] + (columns.to(tl.int64) * STRIDES[2])[None, :]
                mask = changes[:, None] & (columns[None, :] < K)
                tl.store(places, scaled.to(gradient_ptr.dtype.element_ty), mask=mask)
