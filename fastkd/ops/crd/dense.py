# pyright: reportArgumentType=false, reportCallIssue=false, reportReturnType=false
"""Launches the dense path, for banks that are small against B · K. Imports Triton."""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from fastkd.ops.crd import dense_kernels, draw_kernels
from fastkd.ops.crd.draws import DrawPlan
from fastkd.ops.crd.inputs import Contrast, Inputs
from fastkd.ops.select import interpreting

DRAWN_LANES = 256
COUNTED_ROWS = 512
MOST_ROWS = 128  # of a block, at most: the counts are padded to a multiple of it, so that they are read without a mask
COUNTING_PROGRAMS = 6  # programs of the counting kernel on a multiprocessor
ADDED_LANES = 64
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


def compute_losses_and_gradients(inputs: Inputs, *, outputs: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    """Fills `outputs`: total, sides [2] and the gradients of both embeddings."""
    contrast, bank_n2D = inputs.contrast, inputs.bank_n2D
    if len(contrast.student_BD) == 0:
        for output in outputs:
            output.zero_()
        return
    with torch.cuda.device_of(bank_n2D):
        drawn = count(contrast, len(bank_n2D), inputs.numbers)
        add(*score(drawn, bank_n2D, inputs.z, contrast.plan.negatives), inputs.numbers, outputs)


class Drawn(NamedTuple):
    """What the large kernel reads of a batch."""

    counts: Tensor
    """[B, n and some zeros] int16, unsigned: how often each sample drew each row."""
    positives: Tensor
    """[B] int64: rows of the bank."""
    scaled: Tensor
    """[2,2,B,D]: embeddings · log2(e) / T. The first axis has the two addends of each number, the second the sides."""


def count(contrast: Contrast, n: int, numbers: Tensor) -> Drawn:
    """Counts how often each sample drew each of the bank's n rows."""
    student_BD, teacher_BD, rows_B, chosen_BK, plan = contrast
    (samples, dim), stride = student_BD.shape, triton.cdiv(n, MOST_ROWS) * MOST_ROWS
    counts = torch.empty(samples, stride, dtype=torch.int16, device=rows_B.device)
    # Interpreted, products of bfloat16 are wrong; the kernels take float32 there.
    scaled = student_BD.new_empty(2, 2, samples, dim, dtype=torch.float32 if interpreting() else torch.bfloat16)
    drawn = Drawn(counts, torch.empty_like(rows_B), scaled)
    embeddings = (student_BD, teacher_BD, numbers, scaled)
    if plan.replacement or chosen_BK is not None:  # counted by atomics, one for each draw
        counts.zero_()
        _draw(counts.view(torch.int32), drawn.positives, embeddings, rows_B, chosen_BK, plan, n=n, dim=dim)
        return drawn
    blocks, wanted = triton.cdiv(stride, COUNTED_ROWS), max(COUNTING_PROGRAMS * _device(counts)[0] // samples, 1)
    draw_kernels.count_kernel[(samples, min(blocks, wanted))](
        counts,
        drawn.positives,
        *embeddings,
        rows_B,
        plan.starts,
        plan.step,
        n,
        plan.negatives,
        len(plan.starts) - 1,
        plan.seed,
        plan.first_place,
        STRIDE=stride,
        RELAXED=plan.relaxed,
        SEARCH=_search_steps(plan),
        ROWS=COUNTED_ROWS,
        LANES=DRAWN_LANES,
        D=dim,
        PADDED=triton.next_power_of_2(dim),
        num_warps=4,
    )
    return drawn


def score(
    drawn: Drawn, bank_n2D: Tensor, z: Tensor, negatives: int, tiles: Tiles | None = None
) -> tuple[Tensor, Tensor]:
    """Scores the bank: (gradients [programs,2,B,D], sums [2, programs · tiles of samples]), a part for each program."""
    (n, _, dim), samples = bank_n2D.shape, len(drawn.positives)
    block = tile_of_samples(samples)
    multiprocessors, generation = _device(bank_n2D)
    tiles = tiles or tiles_for(bank_n2D.dtype, generation)
    over_samples = triton.cdiv(samples, block)
    wanted = max(multiprocessors * tiles.programs // (2 * over_samples), 1)
    programs = min(wanted, triton.cdiv(n, tiles.rows))
    sums = z.new_empty(2, programs * over_samples)
    gradients = z.new_empty(programs, 2, samples, dim)
    dense_kernels.scores_kernel[(programs, over_samples, 2)](
        drawn.scaled,
        bank_n2D,
        drawn.counts,
        drawn.positives,
        z,
        gradients,
        sums,
        samples,
        n,
        negatives,
        STRIDE=drawn.counts.shape[1],
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


def compute_normaliser(inputs: Inputs, *, out: Tensor) -> None:
    """Fills `out` [2] with Z; if it is known, both kernels return at once."""
    (student_BD, teacher_BD, rows_B, chosen_BK, plan), bank_n2D, z, numbers = inputs
    (samples, dim), n = student_BD.shape, len(bank_n2D)
    if samples == 0:
        out.copy_(z)
        return
    sums = student_BD.new_empty(2, samples)
    with torch.cuda.device_of(student_BD):
        dense_kernels.measure_kernel[(samples,)](
            student_BD,
            teacher_BD,
            bank_n2D,
            rows_B,
            chosen_BK,
            plan.starts,
            plan.step,
            z,
            numbers,
            sums,
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
        )
        dense_kernels.finish_normaliser_kernel[(1,)](
            sums, z, out, samples, n, plan.negatives, SUMS=triton.next_power_of_2(samples), num_warps=1
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
            _draw(out, None, (None,) * 4, rows_B, None, plan, n=n, dim=1)


def tile_of_samples(samples: int) -> int:
    return min(max(triton.next_power_of_2(samples), 16), 64)


def tiles_for(dtype: torch.dtype, generation: int) -> Tiles:
    """The tiles that spill no registers, as tests/ops/crd checks. generation: the GPU's, 9 for Hopper."""
    if dtype == torch.float32:
        return Tiles(rows=32, warps=4, stages=2, programs=2)
    return Tiles(rows=64, warps=4, stages=2, programs=3, registers=168) if generation == 9 else Tiles(64, 4, 2, 2)


def _device(tensor: Tensor) -> tuple[int, int]:
    """(multiprocessors, generation) of a GPU; an H100's for the interpreter."""
    if tensor.device.type != "cuda":
        return 132, 9
    properties = torch.cuda.get_device_properties(tensor.device)
    return properties.multi_processor_count, properties.major


def _draw(
    out: Tensor,
    positives: Tensor | None,
    embeddings: tuple,
    rows_B: Tensor,
    chosen_BK: Tensor | None,
    plan: DrawPlan,
    *,
    n: int,
    dim: int,
) -> None:
    """Draws. With room for positives `out` gets counts, else the table of what was drawn."""
    draw_kernels.draw_kernel[(len(rows_B), triton.cdiv(plan.negatives, 4 * DRAWN_LANES))](
        out,
        positives,
        *embeddings,
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
        D=dim,
        PADDED=triton.next_power_of_2(dim),
        num_warps=4,
    )


def _search_steps(plan: DrawPlan) -> int:
    """The number of steps in which a class is found, each with 128 probes."""
    classes, steps = len(plan.starts) - 1, 1
    while draw_kernels.PROBES.value**steps < classes:
        steps += 1
    return steps
