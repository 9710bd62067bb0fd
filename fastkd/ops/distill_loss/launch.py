"""How the kernels are laid out over a GPU, and their launches."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from fastkd.ops.distill_loss.kernel_finish import finish_kernel, scale_kernel
from fastkd.ops.distill_loss.kernel_pair import pair_kernel
from fastkd.ops.distill_loss.kernel_rows import rows_kernel
from fastkd.ops.distill_loss.kernel_wide import wide_kernel
from fastkd.ops.numbers import STANDARDISED
from fastkd.ops.select import checks_labels, interpreting

WIDEST_ROW = 4096
WIDEST_PAIR = 1024
SCALED_AT_ONCE = 4096
FINISHED_AT_ONCE = 512


class Form(NamedTuple):
    """Which loss the kernels of a network and its branches compute; the names are those of their arguments."""

    ANCHOR_IS_TARGET: bool = False
    PARTNERS_LEARN: bool = False
    DECOUPLED: bool = False
    VIRTUAL: str = ""
    CROSS_ENTROPY: bool = False


class PairForm(NamedTuple):
    """Which loss the kernel of a student and its teachers computes; the names are those of its arguments."""

    PAIR: str
    STANDARDISED: bool = False
    CONTINUOUS: bool = False

    @property
    def PARTNERS_LEARN(self) -> bool:
        return False

    @property
    def DECOUPLED(self) -> bool:
        """Whether there is a third part, with a weight of its own."""
        return self.PAIR in ("dkd", "nkd", "rld")


PAIR_FORMS = {
    **{name: PairForm(name) for name in ("nkd", "rld", "ttm", "wttm", "ab", "jsd")},
    "ab_continuous": PairForm("ab", CONTINUOUS=True),
}
FORMS: dict[str, Form | PairForm] = {
    "ce": Form(),
    "sftn": Form(ANCHOR_IS_TARGET=True, PARTNERS_LEARN=True),
    "sftn_reverse": Form(PARTNERS_LEARN=True),
    "kd": Form(),
    "dkd": Form(DECOUPLED=True),
    "virtual": Form(VIRTUAL="plain"),
    "virtual_softened": Form(VIRTUAL="softened"),
    "smoothing_others": Form(VIRTUAL="plain", CROSS_ENTROPY=True),
    "smoothing_all": Form(VIRTUAL="spread", CROSS_ENTROPY=True),
    **PAIR_FORMS,
    **{
        name + STANDARDISED: form._replace(STANDARDISED=True)
        for name, form in (PAIR_FORMS | {"kd": PairForm("kd"), "dkd": PairForm("dkd")}).items()
    },
}


class Layout(NamedTuple):
    """How a kernel is laid over the GPU: names in capitals are arguments of the kernel, the others of its launch."""

    ROWS: int
    """Samples that a program works on at once."""
    COLUMNS: int
    """Classes that it works on at once: all of them, or a chunk of a row that is too wide."""
    num_warps: int
    maxnreg: int
    """Registers of a thread, at most. Without a limit ptxas spills a few bytes to fit one more block."""
    programs: int
    """Programs on a multiprocessor, at most; each takes every n-th block of samples, n being the number of programs."""
    STAGES: int = 1
    """Stages of the loop over samples, for rows that fit into registers: 3 copy the next samples into shared memory
    while these are computed. (2 have one buffer, which is filled when all is computed: nothing is gained.)"""


IN_CHUNKS = Layout(1, 1024, 8, 255, programs=8)
MANY = 1 << 20
FEW = 256
"""Samples up to which a batch waits for one row, not for the GPU: more warps share a row, and none is loaded ahead."""
AHEAD = 48 << 10
"""Bytes of shared memory, at most, for rows that are loaded ahead."""


def layout(classes: int, form: str = "kd", *, partners: int = 1, itemsize: int = 4, samples: int = MANY) -> Layout:
    """The layout for a batch of so many rows, of so many classes of so many bytes.

    What a row costs besides its numbers, each of its warps pays: they are few, and their threads have as many numbers
    as fit into registers without spills. There are as many programs as are resident at once.
    """
    if isinstance(FORMS[form], PairForm):
        return _pair_layout(classes)
    if classes > WIDEST_ROW:
        return IN_CHUNKS
    columns = max(triton.next_power_of_2(classes), 16)
    numbers = 8 if samples <= FEW else _numbers_of_a_thread(form, partners, columns)
    warps = min(max(columns // (32 * numbers), 1), 8)
    registers = _registers(columns // (32 * warps), warps)
    ahead = samples > FEW and columns >= 256 and 2 * (1 + partners) * columns * itemsize <= AHEAD
    return Layout(
        max(64 // columns, 1), columns, warps, registers, 65536 // (32 * warps * registers), STAGES=3 if ahead else 1
    )


def _pair_layout(classes: int) -> Layout:
    """Rows are read several times, which the cache serves: at most 1024 classes at once."""
    if classes > WIDEST_PAIR:
        return IN_CHUNKS
    columns = max(triton.next_power_of_2(classes), 16)
    rows = min(max(512 // columns, 1), 4)
    warps = max(rows * columns // 256, 1)
    registers = 168 if columns > 128 else 255
    return Layout(rows, columns, warps, registers, 65536 // (32 * warps * registers))


def _numbers_of_a_thread(form: str, partners: int, columns: int) -> int:
    """Numbers of a row that fit into a thread's registers. Where no barrier of several warps stands between two
    partners, the compiler loads the next one early, which takes registers too."""
    if FORMS[form].PARTNERS_LEARN or partners > 1:
        return 8 if columns <= 512 else 16
    return 16 if FORMS[form].DECOUPLED else 32


def _registers(numbers: int, warps: int) -> int:
    if numbers > 8:
        return 255
    return 200 if numbers == 8 and warps == 1 else 168


def kernel_for(form: str, classes: int, chosen: Layout):
    if isinstance(FORMS[form], PairForm):
        return pair_kernel
    return rows_kernel if classes <= chosen.COLUMNS else wide_kernel


def constants(
    form: str,
    classes: int,
    strides: tuple[tuple[int, ...], ...],
    chosen: Layout,
    *,
    share_strides: tuple[int, ...] = (0, 0),
    detached: bool = False,
    tau_squared: bool = True,
    ignore_index: int = -100,
    check_labels: bool = False,
) -> dict[str, object]:
    """What the large kernel is compiled for, beside the types of its arguments.

    strides: (row, column) of the logits of anchor and partners.
    """
    kernel = kernel_for(form, classes, chosen)
    of_kernel: dict[str, object] = {}
    if kernel is rows_kernel:
        # The interpreter has no warps; numpy adds pair by pair only along rows that are not joined.
        of_kernel = {"SHARED": chosen.num_warps > 1 and not interpreting(), "STAGES": chosen.STAGES}
    if kernel is not pair_kernel:
        of_kernel |= {"DETACHED": detached, "TAU_SQUARED": tau_squared}
    return of_kernel | {
        "K": classes,
        "ROW_STRIDES": tuple(row for row, _ in strides),
        "COLUMN_STRIDES": tuple(column for _, column in strides),
        "SHARE_ROW_STRIDE": share_strides[0],
        "SHARE_COLUMN_STRIDE": share_strides[1],
        "PARTNERS": len(strides) - 1,
        "IGNORE_INDEX": ignore_index,
        **FORMS[form]._asdict(),
        "CHECK_LABELS": check_labels,
        "ROWS": chosen.ROWS,
        "COLUMNS": chosen.COLUMNS,
    }


def compute_losses_and_gradients(
    logits: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    labels_B: Tensor,
    numbers: Tensor,
    shares_MB: Tensor | None,
    form: str,
    *,
    detached: bool,
    tau_squared: bool,
    ignore_index: int,
    chosen: Layout | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(total, parts [3], hits [networks, 2], correction); fills `gradients` (contiguous).

    `logits` is the anchor, then its partners. The gradients are divided by B, so that no program needs to know
    how many rows count; the correction is B over that number, and 1 where no row is ignored.
    """
    (samples, classes), device = logits[0].shape, logits[0].device
    chosen = chosen or layout(
        classes, form, partners=len(logits) - 1, itemsize=logits[0].element_size(), samples=samples
    )
    programs = min(triton.cdiv(samples, chosen.ROWS), chosen.programs * multiprocessors(device))
    networks = len(logits) if FORMS[form].PARTNERS_LEARN else 1
    quantities = 4 + 2 * networks
    sums = torch.empty(quantities, programs, dtype=torch.float32, device=device)
    total, correction = (torch.empty((), dtype=torch.float32, device=device) for _ in range(2))
    parts = torch.empty(3, dtype=torch.float32, device=device)
    hits = torch.empty(networks, 2, dtype=torch.int64, device=device)
    checked = checks_labels()
    with device_of(logits[0]):
        if programs:
            kernel_for(form, classes, chosen)[(programs,)](
                tuple(logits),
                tuple(gradients),
                labels_B,
                numbers,
                shares_MB,
                sums,
                samples,
                **constants(
                    form,
                    classes,
                    tuple(tensor.stride() for tensor in logits),
                    chosen,
                    share_strides=(0, 0) if shares_MB is None else shares_MB.stride(),
                    detached=detached,
                    tau_squared=tau_squared,
                    ignore_index=ignore_index,
                    check_labels=checked,
                ),
                num_warps=chosen.num_warps,
                maxnreg=chosen.maxnreg,
                debug=checked,
            )
        finish_kernel[(1,)](
            sums,
            numbers,
            total,
            parts,
            hits,
            correction,
            programs,
            samples,
            PARTNERS_LEARN=FORMS[form].PARTNERS_LEARN,
            DECOUPLED=FORMS[form].DECOUPLED,
            QUANTITIES=quantities,
            PADDED=triton.next_power_of_2(quantities),
            LANES=FINISHED_AT_ONCE,
            num_warps=16,
        )
    return total, parts, hits, correction


def scale_in_place(gradients: Sequence[Tensor], scale: Tensor, correction: Tensor) -> None:
    """Multiplies gradients of one shape [B,K], contiguous, by scale · correction."""
    (samples, classes), device = gradients[0].shape, gradients[0].device
    if samples == 0:
        return
    programs = min(triton.cdiv(samples * classes, SCALED_AT_ONCE), 4 * multiprocessors(device))
    with device_of(gradients[0]):
        scale_kernel[(programs,)](
            tuple(gradients),
            scale,
            correction,
            samples,
            K=classes,
            GRADIENTS=len(gradients),
            LANES=SCALED_AT_ONCE,
            num_warps=8,
        )


@cache
def multiprocessors(device: torch.device) -> int:
    """Multiprocessors of a GPU; two if the interpreter stands in for one."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def device_of(tensor: Tensor):
    """Makes the tensor's device the current one: Triton launches there."""
    return torch.cuda.device_of(tensor)
