# pyright: reportArgumentType=false, reportCallIssue=false, reportReturnType=false
"""Launches of the dense path: for banks that are small against B · K. Imports Triton."""

import torch
import triton
from torch import Tensor

from fastkd.ops.crd import dense_kernels as kernels
from fastkd.ops.crd.draws import Plan
from fastkd.ops.select import interpreting

PROGRAMS = 132  # of the large kernel, over row blocks, tiles of samples and sides: one a multiprocessor of an H200
BANK_ROWS = 32
DRAWN_LANES = 256
ADDED_AT_ONCE = 1024


def losses_and_gradients(
    student_BD: Tensor,
    teacher_BD: Tensor,
    bank_n2D: Tensor,
    rows_B: Tensor,
    chosen_BK: Tensor | None,
    starts: Tensor,
    step: Tensor,
    z: Tensor,
    settings: Tensor,
    plan: Plan,
    outputs: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    """Fills total, sides and both gradients."""
    total, sides, student_gradient, teacher_gradient = outputs
    samples, dim = student_BD.shape
    if samples == 0:
        for output in outputs:
            output.zero_()
        return
    with torch.cuda.device_of(student_BD):
        gradients, sums, programs = _scores(
            student_BD, teacher_BD, bank_n2D, rows_B, chosen_BK, z, settings, plan, measures=False
        )
        kernels.finish_kernel[(triton.cdiv(samples * dim, ADDED_AT_ONCE),)](
            gradients,
            sums,
            total,
            sides,
            student_gradient,
            teacher_gradient,
            samples,
            samples * dim,
            programs,
            sums.shape[1],
            SUMS=triton.next_power_of_2(sums.shape[1]),
            LANES=ADDED_AT_ONCE,
        )


def normaliser(
    student_BD: Tensor,
    teacher_BD: Tensor,
    bank_n2D: Tensor,
    rows_B: Tensor,
    chosen_BK: Tensor | None,
    starts: Tensor,
    step: Tensor,
    z: Tensor,
    settings: Tensor,
    plan: Plan,
    out: Tensor,
) -> None:
    """Fills `out` [2]; where z is known every kernel returns at once."""
    samples = len(student_BD)
    if samples == 0:
        out.copy_(z)
        return
    with torch.cuda.device_of(student_BD):
        _, sums, _ = _scores(student_BD, teacher_BD, bank_n2D, rows_B, chosen_BK, z, settings, plan, measures=True)
        kernels.finish_normaliser_kernel[(1,)](
            sums,
            z,
            out,
            samples,
            len(bank_n2D),
            plan.negatives,
            sums.shape[1],
            SUMS=triton.next_power_of_2(sums.shape[1]),
        )


def update(
    bank_n2D: Tensor,
    z: Tensor,
    step: Tensor,
    rows_B: Tensor,
    student_BD: Tensor,
    teacher_BD: Tensor,
    new_z: Tensor,
    settings: Tensor,
) -> None:
    samples, dim = student_BD.shape
    if samples == 0:
        return
    with torch.cuda.device_of(bank_n2D):
        kernels.update_kernel[(samples,)](
            bank_n2D,
            z,
            step,
            rows_B,
            student_BD,
            teacher_BD,
            new_z,
            settings,
            samples,
            D=dim,
            PADDED=triton.next_power_of_2(dim),
            SAMPLES=triton.next_power_of_2(samples),
            num_warps=1 if samples <= 1024 else 4,
        )


def draw(rows_B: Tensor, n: int, plan: Plan, out: Tensor) -> None:
    """Fills `out` [B,K+1] int64."""
    if len(rows_B):
        with torch.cuda.device_of(rows_B):
            _draw(out, out, rows_B, None, out, plan, n=n, counts=False, unless_known=False)


def tiles(samples: int, rows: int, dim: int, dtype: torch.dtype) -> dict[str, int]:
    """Shapes of the large kernel: samples and rows a block of it takes, warps, programs over the rows.

    What spills no registers (tests/ops/crd looks); float32 takes three products for one, and half the samples.
    """
    block = min(max(triton.next_power_of_2(samples), 16), 64 if dtype == torch.bfloat16 else 32)
    over_rows = max(PROGRAMS // (2 * triton.cdiv(samples, block)), 1)
    return {
        "SAMPLES": block,
        "ROWS": BANK_ROWS,
        "PADDED": max(triton.next_power_of_2(dim), 16),
        "num_warps": 4 if block == 16 else 8,
        "programs": min(over_rows, triton.cdiv(rows, BANK_ROWS)),
    }


def _scores(
    student_BD: Tensor,
    teacher_BD: Tensor,
    bank_n2D: Tensor,
    rows_B: Tensor,
    chosen_BK: Tensor | None,
    z: Tensor,
    settings: Tensor,
    plan: Plan,
    *,
    measures: bool,
) -> tuple[Tensor, Tensor, int]:
    """(gradients [programs,2,B,D], sums [2, programs · tiles], programs), the parts of every program."""
    (samples, dim), n = student_BD.shape, len(bank_n2D)
    stride = n + n % 2
    counts = torch.zeros(samples, stride // 2, dtype=torch.int32, device=student_BD.device)
    positives = torch.empty_like(rows_B)
    _draw(counts, positives, rows_B, chosen_BK, z, plan, n=n, counts=True, unless_known=measures)
    shape = tiles(samples, n, dim, bank_n2D.dtype)
    programs = shape.pop("programs")
    over_samples = triton.cdiv(samples, shape["SAMPLES"])
    sums = student_BD.new_empty(2, programs * over_samples)
    gradients = student_BD.new_empty(0 if measures else programs, 2, samples, dim)
    kernels.scores_kernel[(programs, over_samples, 2)](
        student_BD,
        teacher_BD,
        bank_n2D,
        counts.view(torch.int16),
        positives,
        z,
        settings,
        gradients,
        sums,
        samples,
        n,
        plan.negatives,
        STRIDE=stride,
        D=dim,
        MEASURES=measures,
        # Interpreted, products of bfloat16 are wrong; the kernel takes float32 there.
        SPLIT=bank_n2D.dtype == torch.bfloat16 and not interpreting(),
        **shape,
    )
    return gradients, sums, programs


def _draw(
    out: Tensor,
    positives: Tensor,
    rows_B: Tensor,
    chosen_BK: Tensor | None,
    z: Tensor,
    plan: Plan,
    *,
    n: int,
    counts: bool,
    unless_known: bool,
) -> None:
    classes = len(plan.starts) - 1
    kernels.draw_kernel[(len(rows_B), triton.cdiv(plan.negatives, 4 * DRAWN_LANES))](
        out,
        positives,
        rows_B,
        chosen_BK,
        plan.starts,
        plan.step,
        z,
        n,
        plan.negatives,
        classes,
        plan.seed,
        plan.first_place,
        STRIDE=2 * out.shape[1],
        COUNT=counts,
        REPLACEMENT=plan.replacement,
        RELAXED=plan.relaxed,
        UNLESS_KNOWN=unless_known,
        SEARCH=classes.bit_length(),
        LANES=DRAWN_LANES,
        num_warps=4,
    )
