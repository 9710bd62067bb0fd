"""How the kernels are laid out over a GPU, and their launches."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from fastkd.ops.distill_loss.ends import finish_kernel, scale_kernel
from fastkd.ops.distill_loss.rows import rows_kernel
from fastkd.ops.distill_loss.wide import wide_kernel
from fastkd.ops.select import checks_labels

WIDEST_ROW = 4096
MOST_PROGRAMS = 1024
"""About eight a multiprocessor; each counts the labels once and then takes every 1024th block of samples."""
SCALED_AT_ONCE = 4096


class Form(NamedTuple):
    """Which loss the kernel computes; the names are those of its arguments."""

    ANCHOR_IS_TARGET: bool = False
    PARTNERS_LEARN: bool = False
    DECOUPLED: bool = False
    VIRTUAL: str = ""
    CROSS_ENTROPY: bool = False


FORMS = {
    "sftn": Form(ANCHOR_IS_TARGET=True, PARTNERS_LEARN=True),
    "sftn_reverse": Form(PARTNERS_LEARN=True),
    "kd": Form(),
    "dkd": Form(DECOUPLED=True),
    "virtual": Form(VIRTUAL="plain"),
    "virtual_softened": Form(VIRTUAL="softened"),
    "smoothing_others": Form(VIRTUAL="plain", CROSS_ENTROPY=True),
    "smoothing_all": Form(VIRTUAL="spread", CROSS_ENTROPY=True),
}


class Layout(NamedTuple):
    ROWS: int
    COLUMNS: int
    num_warps: int
    maxnreg: int
    """Registers a thread. Told nothing, ptxas spills a few bytes to fit one more block on a multiprocessor."""


def layout(classes: int, form: str) -> Layout:
    """A warp for each row of up to 128 classes (never four for 100 numbers); 8 or 16 numbers a thread for more."""
    if classes > widest_row(form):
        return Layout(1, 1024, 8, 255)
    columns = max(triton.next_power_of_2(classes), 16)
    rows = min(max(512 // columns, 1), 8)
    warps = min(max(rows * columns // 256, 4), 8)
    at_1024 = 184 if form == "sftn_reverse" else 168
    return Layout(rows, columns, warps, 128 if columns <= 512 else at_1024 if columns == 1024 else 255)


def widest_row(form: str) -> int:
    """Classes that fit into registers. KL(branch ‖ teacher) keeps a tile more than the other forms and would spill."""
    return WIDEST_ROW // 2 if form == "sftn_reverse" else WIDEST_ROW


def kernel_for(classes: int, form: str):
    return rows_kernel if classes <= widest_row(form) else wide_kernel


def constants(
    form: str,
    classes: int,
    strides: tuple[tuple[int, ...], ...],
    *,
    share_strides: tuple[int, ...] = (0, 0),
    detached: bool = False,
    tau_squared: bool = True,
    ignore_index: int = -100,
    check_labels: bool = False,
) -> dict[str, object]:
    """What the large kernel is compiled for, beside the types of its arguments. `strides`: of anchor and partners."""
    rows, columns, _, _ = layout(classes, form)
    return {
        "K": classes,
        "ROW_STRIDES": tuple(row for row, _ in strides),
        "COLUMN_STRIDES": tuple(column for _, column in strides),
        "SHARE_ROW_STRIDE": share_strides[0],
        "SHARE_COLUMN_STRIDE": share_strides[1],
        "PARTNERS": len(strides) - 1,
        "IGNORE_INDEX": ignore_index,
        **FORMS[form]._asdict(),
        "DETACHED": detached,
        "TAU_SQUARED": tau_squared,
        "CHECK_LABELS": check_labels,
        "ROWS": rows,
        "COLUMNS": columns,
    }


def losses_and_gradients(
    logits: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    labels_B: Tensor,
    settings: Tensor,
    shares_MB: Tensor | None,
    form: str,
    *,
    detached: bool,
    tau_squared: bool,
    ignore_index: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """(total, parts [3], hits [networks, 2]); fills `gradients` (contiguous). `logits` is the anchor, then partners."""
    (samples, classes), device = logits[0].shape, logits[0].device
    rows, _, warps, registers = layout(classes, form)
    blocks = triton.cdiv(samples, rows)
    networks = len(logits) if FORMS[form].PARTNERS_LEARN else 1
    quantities = 4 + 2 * networks
    sums = torch.empty(quantities, blocks, dtype=torch.float32, device=device)
    total = torch.empty((), dtype=torch.float32, device=device)
    parts = torch.empty(3, dtype=torch.float32, device=device)
    hits = torch.empty(networks, 2, dtype=torch.int64, device=device)
    checked = checks_labels()
    with device_of(logits[0]):
        if blocks:
            kernel_for(classes, form)[(min(blocks, MOST_PROGRAMS),)](
                tuple(logits),
                tuple(gradients),
                labels_B,
                settings,
                shares_MB,
                sums,
                samples,
                **constants(
                    form,
                    classes,
                    tuple(tensor.stride() for tensor in logits),
                    share_strides=(0, 0) if shares_MB is None else shares_MB.stride(),
                    detached=detached,
                    tau_squared=tau_squared,
                    ignore_index=ignore_index,
                    check_labels=checked,
                ),
                num_warps=warps,
                maxnreg=registers,
                debug=checked,
            )
        finish_kernel[(1,)](
            sums,
            settings,
            total,
            parts,
            hits,
            blocks,
            HAS_THIRD=FORMS[form].PARTNERS_LEARN or FORMS[form].DECOUPLED,
            QUANTITIES=quantities,
            PADDED=triton.next_power_of_2(quantities),
            LANES=256,
            num_warps=8,
        )
    return total, parts, hits


def scale_in_place(gradients: Sequence[Tensor], scale: Tensor) -> None:
    """All of one shape [B,K], contiguous."""
    samples, classes = gradients[0].shape
    if samples == 0:
        return
    with device_of(gradients[0]):
        scale_kernel[(triton.cdiv(samples * classes, SCALED_AT_ONCE),)](
            tuple(gradients), scale, samples, K=classes, GRADIENTS=len(gradients), LANES=SCALED_AT_ONCE, num_warps=8
        )


def device_of(tensor: Tensor):
    """Triton launches on the current device, which need not be the tensor's."""
    return torch.cuda.device_of(tensor)
