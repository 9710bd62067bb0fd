# pyright: reportArgumentType=false, reportCallIssue=false, reportReturnType=false
"""Launches the dense path, for banks that are small against B · K. Imports Triton."""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from fastkd.ops import compiled, select
from fastkd.ops.crd import dense_kernels, draw_kernels, draws
from fastkd.ops.crd.draws import DrawPlan
from fastkd.ops.crd.inputs import Drawn, Inputs, Prepared
from fastkd.ops.select import interpreting

DRAWN_LANES = 256
MARKED_ROWS = 512
MARKING_PROGRAMS = 6  # programs of the marking kernel on a multiprocessor
ADDED_LANES = 128
ADDED_AT_ONCE = 16


class Tiles(NamedTuple):
    """Shapes of the large kernel: what `benchmarks.tune_crd` varies."""

    rows: int
    """Rows of the bank that a program scores at a time."""
    warps: int
    stages: int
    programs: int
    """Programs on a multiprocessor."""
    registers: int | None = None
    """Registers of a thread, at most."""


def count(rows_B: Tensor, chosen_BK: Tensor | None, plan: DrawPlan, n: int) -> Drawn:
    """Counts how often each sample drew each of the bank's n rows."""
    drawn = Drawn.empty(rows_B, n, distinct=plan.distinct and chosen_BK is None)
    if len(rows_B) == 0:
        return drawn
    with torch.cuda.device_of(rows_B):
        if drawn.counts.dtype == torch.int32:
            MARKED_BY[select.choose("crd_marks", rows_B.device.type)[0]](rows_B, plan, n, *drawn)
        else:
            _draw(drawn.counts.zero_().view(torch.int32), drawn.positives, rows_B, chosen_BK, plan, n=n)
    return drawn


def mark_backwards(rows_B: Tensor, plan: DrawPlan, n: int, bits: Tensor, positives: Tensor) -> None:
    """Marks the rows that each sample drew, by asking every row."""
    blocks = triton.cdiv(32 * bits.shape[1], MARKED_ROWS)
    wanted = max(MARKING_PROGRAMS * _device(rows_B)[0] // len(rows_B), 1)
    with torch.cuda.device_of(rows_B):
        draw_kernels.mark_kernel[(len(rows_B), min(blocks, wanted))](
            bits,
            positives,
            rows_B,
            plan.starts,
            plan.step,
            n,
            plan.negatives,
            len(plan.starts) - 1,
            plan.seed,
            plan.first_place,
            STRIDE=32 * bits.shape[1],
            RELAXED=plan.relaxed,
            SEARCH=_search_steps(plan),
            ROWS=MARKED_ROWS,
            num_warps=4,
        )


def _mark_forwards(rows_B: Tensor, plan: DrawPlan, n: int, bits: Tensor, positives: Tensor) -> None:
    compiled.load("cuda")
    torch.ops.fastkd._crd_mark(rows_B, *plan, n, bits, positives)


MARKED_BY = {"cuda": _mark_forwards, "triton": mark_backwards, "reference": draws.mark}
"""Who marks the rows that were drawn: a row for each of the implementations of `crd_marks`."""


def prepare(inputs: Inputs) -> Prepared:
    """Scales the embeddings, and measures Z if it is unknown; the device decides."""
    (student_BD, teacher_BD, rows_B, chosen_BK, plan), bank_n2D, z, numbers = inputs
    (samples, dim), n = student_BD.shape, len(bank_n2D)
    prepared = Prepared.empty(student_BD, z)
    if samples == 0:
        prepared.z.copy_(z)
        return prepared
    with torch.cuda.device_of(student_BD):
        dense_kernels.prepare_kernel[(samples,)](
            student_BD,
            teacher_BD,
            bank_n2D,
            rows_B,
            chosen_BK,
            plan.starts,
            plan.step,
            z,
            numbers,
            prepared.scaled,
            prepared.z,
            samples,
            n,
            plan.negatives,
            len(plan.starts) - 1,
            plan.seed,
            plan.first_place,
            REPLACEMENT=plan.replacement,
            RELAXED=plan.relaxed,
            SEARCH=_search_steps(plan),
            D=dim,
            PADDED=triton.next_power_of_2(dim),
            num_warps=4,
            maxnreg=128,  # left alone, ptxas takes 72 for sm_90 and spills
        )
    return prepared


def compute_losses_and_gradients(
    drawn: Drawn,
    scaled: Tensor,
    bank_n2D: Tensor,
    z: Tensor,
    numbers: Tensor,
    negatives: int,
    outputs: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    """Fills `outputs`: total, sides [2] and the gradients of both embeddings."""
    if len(drawn.positives) == 0:
        for output in outputs:
            output.zero_()
        return
    with torch.cuda.device_of(bank_n2D):
        add(*score(drawn, scaled, bank_n2D, z, negatives), numbers, outputs)


def score(
    drawn: Drawn, scaled: Tensor, bank_n2D: Tensor, z: Tensor, negatives: int, tiles: Tiles | None = None
) -> tuple[Tensor, Tensor]:
    """Scores the bank: (gradients [programs,2,B,D], sums [2, programs · tiles of samples]), a part for each program.

    scaled: may be a part of the samples that were prepared.
    """
    (n, _, dim), samples = bank_n2D.shape, len(drawn.positives)
    block = tile_of_samples(samples)
    multiprocessors, generation = _device(bank_n2D)
    bits = drawn.counts.dtype == torch.int32
    tiles = tiles or tiles_for(bank_n2D.dtype, generation, bits=bits)
    over_samples = triton.cdiv(samples, block)
    wanted = max(multiprocessors * tiles.programs // (2 * over_samples), 1)
    programs = min(wanted, triton.cdiv(n, tiles.rows))
    sums = z.new_empty(2, programs * over_samples)
    gradients = z.new_empty(programs, 2, samples, dim)
    dense_kernels.scores_kernel[(programs, over_samples, 2)](
        scaled,
        bank_n2D,
        drawn.counts,
        drawn.positives,
        z,
        gradients,
        sums,
        samples,
        scaled.stride(1) // dim,
        n,
        negatives,
        STRIDE=drawn.counts.shape[1] * (32 if bits else 1),
        BITS=bits,
        D=dim,
        PADDED=max(triton.next_power_of_2(dim), 16),
        PARTS=0 if interpreting() else 1 if bank_n2D.dtype == torch.bfloat16 else 2,
        SAMPLES=block,
        ROWS=tiles.rows,
        STAGES=tiles.stages,
        FENCED=generation >= 9 and not interpreting(),
        num_warps=tiles.warps,
        maxnreg=tiles.registers,
    )
    return gradients, sums


def add(gradients: Tensor, sums: Tensor, numbers: Tensor, outputs: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    """Adds the programs' parts into `outputs`, in a fixed order."""
    total, sides, student_gradient, teacher_gradient = outputs
    programs, _, samples, dim = gradients.shape
    at_once = min(ADDED_AT_ONCE, triton.next_power_of_2(programs))
    dense_kernels.finish_kernel[(triton.cdiv(samples * dim, ADDED_LANES), 2)](
        gradients,
        sums,
        numbers,
        total,
        sides,
        student_gradient,
        teacher_gradient,
        samples,
        programs,
        sums.shape[1],
        D=dim,
        SUMS=triton.next_power_of_2(sums.shape[1]),
        PROGRAMS=triton.cdiv(programs, at_once) * at_once,
        AT_ONCE=at_once,
        LANES=ADDED_LANES,
        num_warps=4,
    )


def update(
    bank_n2D: Tensor,
    z: Tensor,
    step: Tensor,
    rows_B: Tensor,
    student_BD: Tensor,
    teacher_BD: Tensor,
    new_z: Tensor,
    numbers: Tensor,
) -> None:
    """Moves the batch's rows towards its embeddings, stores Z, counts the step."""
    samples, dim = student_BD.shape
    if samples == 0:
        return
    with torch.cuda.device_of(bank_n2D):
        dense_kernels.update_kernel[(samples,)](
            bank_n2D,
            z,
            step,
            rows_B,
            student_BD,
            teacher_BD,
            new_z,
            numbers,
            samples,
            D=dim,
            PADDED=triton.next_power_of_2(dim),
            SAMPLES=triton.next_power_of_2(samples),
            num_warps=1 if samples <= 1024 else 4,
        )


def draw(rows_B: Tensor, n: int, plan: DrawPlan, out: Tensor) -> None:
    """Fills `out` [B,K+1] int64: the positive and the K negatives of every sample."""
    if len(rows_B):
        with torch.cuda.device_of(rows_B):
            _draw(out, None, rows_B, None, plan, n=n)


def tile_of_samples(samples: int) -> int:
    return min(max(triton.next_power_of_2(samples), 16), 64)


def tiles_for(dtype: torch.dtype, generation: int, *, bits: bool) -> Tiles:
    """The tiles that spill no registers, as tests/ops/crd checks. generation: the GPU's, 9 for Hopper. bits: whether no
    row comes twice."""
    if dtype == torch.float32 and generation == 8:
        return Tiles(rows=32, warps=4, stages=3, programs=2) if bits else Tiles(16, 4, 2, 2)
    if dtype == torch.float32 or (generation > 9 and not bits):
        return Tiles(rows=32, warps=4, stages=2, programs=2)
    return Tiles(rows=64, warps=4, stages=2, programs=2)


def _device(tensor: Tensor) -> tuple[int, int]:
    """(multiprocessors, generation) of a GPU; an H100's for the interpreter."""
    if tensor.device.type != "cuda":
        return 132, 9
    properties = torch.cuda.get_device_properties(tensor.device)
    return properties.multi_processor_count, properties.major


def _draw(
    out: Tensor,
    positives: Tensor | None,
    rows_B: Tensor,
    chosen_BK: Tensor | None,
    plan: DrawPlan,
    *,
    n: int,
) -> None:
    """Draws. With room for positives `out` gets counts, else the table of what was drawn."""
    draw_kernels.draw_kernel[(len(rows_B), triton.cdiv(plan.negatives, 4 * DRAWN_LANES))](
        out,
        positives,
        rows_B,
        chosen_BK,
        plan.starts,
        plan.step,
        n,
        plan.negatives,
        len(plan.starts) - 1,
        plan.seed,
        plan.first_place,
        STRIDE=2 * out.shape[1],
        COUNT=positives is not None,
        REPLACEMENT=plan.replacement,
        RELAXED=plan.relaxed,
        SEARCH=_search_steps(plan),
        LANES=DRAWN_LANES,
        num_warps=4,
    )


def _search_steps(plan: DrawPlan) -> int:
    """The number of steps in which a class is found, each with 128 probes."""
    classes, steps = len(plan.starts) - 1, 1
    while draw_kernels.PROBES.value**steps < classes:
        steps += 1
    return steps
