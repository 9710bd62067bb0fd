"""csrc/crd_cuda.cu on a GPU that is not there: its kernels as nvcc compiles them, launched as its host code does.

The host code itself is C++ of the CUDA library and cannot be called without a GPU, so the choice of a variant, the
grids and the layout of the arguments stand here once more.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from ptx import Device, Kernel, Program, Result, Struct, decoded, kernels, launch, nvcc
from torch import Tensor
from torch.utils.cpp_extension import COMMON_NVCC_FLAGS

from fastkd.ops.crd.inputs import Contrast, Drawn, Inputs
from helpers.places import ROOT

TILE, WARPS, THREADS = 128, 4, 128
MARKING_THREADS, MARKED_WORDS = 512, 12288
DRAWS, PASS = "PPPPqqqqII???", "PPPPPiii?PP"
"""The structs Draws and Pass of csrc: pointers, 64-bit and 32-bit numbers, flags."""
VARIANTS = [
    ("fp32", 20),
    ("fp32", 128),
    ("fp32", 200),
    ("fp32", 13),
    ("fp32", 255),
    ("bf16", 48),
    ("bf16", 136),
    ("bf16", 21),
    ("bf16", 255),
]
"""A width for each variant of the gather."""
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@cache
def module(architecture: str) -> Mapping[str, Kernel]:
    return kernels(text(architecture))


@cache
def text(architecture: str) -> str:
    headers = Path(torch.__file__).parent / "include"
    flags = ["-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020b000000000000", f"-I{headers}", *COMMON_NVCC_FLAGS]
    return nvcc.compiled(ROOT / "csrc" / "crd_cuda.cu", architecture, flags)


def full_name(architecture: str, pattern: str) -> str:
    """The one kernel whose mangled name fits."""
    (name,) = (name for name in module(architecture) if re.search(pattern, name))
    return name


@cache
def program(architecture: str, pattern: str) -> Program:
    return decoded(module(architecture)[full_name(architecture, pattern)])


def edited(architecture: str, pattern: str, edit: Callable[[str], str]) -> Program:
    """The program with a change in its text, which nothing else of the module shares."""
    name, whole = full_name(architecture, pattern), text(architecture)
    start = whole.index(f".entry {name}(")
    end = whole.find(".entry ", start + 1) if ".entry " in whole[start + 1 :] else len(whole)
    return decoded(kernels(whole[:start] + edit(whole[start:end]) + whole[end:])[name])


def variant(dim: int, dtype: torch.dtype) -> str:
    """The gather that csrc/crd_cuda.cu launches: elements at a time, pieces a lane, rows in flight."""
    if dtype == torch.bfloat16:
        shape = ((1, 8, 4) if dim <= 128 else (1, 16, 2)) if dim % 8 else (8, 1, 8) if dim <= 128 else (8, 2, 8)
        return "gatherI13__nv_bfloat16Li{}ELi{}ELi{}E".format(*shape)
    if dim % 4:
        shape = (1, 8, 4) if dim <= 128 else (1, 16, 2)
    else:
        shape = (4, 1, 8) if dim <= 64 else (4, 2, 8) if dim <= 128 else (4, 4, 4)
    return "gatherIfLi{}ELi{}ELi{}E".format(*shape)


ENTRIES = {
    "gather": tuple(variant(dim, TYPES[dtype]) for dtype, dim in VARIANTS),
    "finish": ("6finishE",),
    "finish_normaliser": ("17finish_normaliser",),
    "update": ("updateIfE", "updateI13__nv_bfloat16E"),
    "draw": ("fastkd4draw",),
    "mark": ("fastkd4mark",),
}
"""{kernel of csrc: what the mangled names of its templates contain}: all that are launched."""


class Gather:
    """The operations of csrc/crd_cuda.cu for one architecture. What was launched is kept."""

    def __init__(self, architecture: str, *, blocks: int = 4096, **options):
        """blocks: that are wanted at least, as the host code has it. options: of `ptx.launch`."""
        self.programs: dict[str, Program] = {}
        """In place of the compiled ones, by pattern."""
        self.architecture, self.blocks, self.options = architecture, blocks, options
        self.device = Device(architecture)
        self.launches: list[Result] = []

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.device.empty(torch.empty(*shape, dtype=dtype))

    def run(self, pattern: str, grid: Any, threads: int, *arguments: Any, shared_bytes: int = 0) -> Result:
        """arguments: tensors, numbers, or (layout, values) for a struct. shared_bytes: of dynamic shared memory."""
        buffers: dict = {}

        def converted(value: Any) -> Any:
            if isinstance(value, tuple):
                layout, values = value
                return Struct(layout, tuple(converted(one) for one in values))
            return self.device.argument(value, buffers)

        given = [converted(value) for value in arguments]
        chosen = self.programs.get(pattern) or program(self.architecture, pattern)
        self.launches.append(launch(chosen, grid, threads, given, shared_bytes=shared_bytes, **self.options))
        return self.launches[-1]

    def draws(self, contrast: Contrast, n: int) -> tuple:
        plan, key = contrast.plan, contrast.plan.seed % 2**64
        sizes = (len(plan.starts) - 1, n, plan.negatives, plan.first_place)
        pointers = (contrast.rows_B, contrast.chosen_BK, plan.starts, plan.step)
        return (*pointers, *sizes, key % 2**32, key >> 32, plan.replacement, plan.relaxed, plan.scarce)

    def splits(self, samples: int, negatives: int) -> int:
        tiles = (negatives + TILE) // TILE
        return min(-(-self.blocks // samples), -(-tiles // WARPS))

    def arguments(self, inputs: Inputs, gradients: Tensor | None, sums: Tensor, *, measures: bool) -> tuple:
        contrast, bank, z, numbers = inputs
        student, teacher = contrast.student_BD.detach(), contrast.teacher_BD.detach()
        sizes = (*student.shape, self.splits(len(student), contrast.plan.negatives), measures)
        values = (*self.draws(contrast, len(bank)), student, teacher, bank, z, numbers, *sizes, gradients, sums)
        return DRAWS + PASS, values

    def gather(self, inputs: Inputs, gradients: Tensor | None, sums: Tensor, *, measures: bool) -> None:
        samples, dim = inputs.contrast.student_BD.shape
        grid = (self.splits(samples, inputs.contrast.plan.negatives), samples)
        given = self.arguments(inputs, gradients, sums, measures=measures)
        self.run(variant(dim, inputs.bank_n2D.dtype), grid, THREADS, given)

    def normaliser(self, inputs: Inputs) -> Tensor:
        """[2]: Z, as `crd.normaliser` has it."""
        samples = len(inputs.contrast.student_BD)
        sums, out = self.empty(samples, self.splits(samples, inputs.contrast.plan.negatives), 2), self.empty(2)
        self.gather(inputs, None, sums, measures=True)
        self.run("17finish_normaliser", 1, THREADS, self.arguments(inputs, None, sums, measures=True), out)
        return out

    def loss(self, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Total, sides [2], the gradients of both embeddings."""
        samples, dim = inputs.contrast.student_BD.shape
        splits = self.splits(samples, inputs.contrast.plan.negatives)
        gradients, sums = self.empty(samples, splits, 2, dim), self.empty(samples, splits, 2)
        outputs = (self.empty(1), self.empty(2), self.empty(samples, dim), self.empty(samples, dim))
        self.gather(inputs, gradients, sums, measures=False)
        given = self.arguments(inputs, gradients, sums, measures=False)
        self.run("6finishE", samples + 1, THREADS, given, *outputs)
        return outputs

    def update(self, bank, z, step, rows, student, teacher, new_z, numbers) -> None:
        kind = "13__nv_bfloat16" if bank.dtype == torch.bfloat16 else "f"
        tensors = (bank, z, step, rows, student, teacher, new_z, numbers)
        self.run(f"updateI{kind}E", len(rows), THREADS, *tensors, *student.shape, len(bank))

    def draw(self, contrast: Contrast, n: int) -> Tensor:
        samples, negatives = len(contrast.rows_B), contrast.plan.negatives
        out = self.empty(samples, negatives + 1, dtype=torch.int64)
        given = (DRAWS, self.draws(contrast, n))
        self.run("fastkd4draw", ((negatives + TILE) // TILE, samples), 32, given, out)
        return out

    def mark(self, contrast: Contrast, n: int) -> Drawn:
        """What the samples drew, as bits."""
        samples, words = len(contrast.rows_B), Drawn.empty(contrast.rows_B, n, distinct=True).counts.shape[1]
        bits, positives = self.empty(samples, words, dtype=torch.int32), self.empty(samples, dtype=torch.int64)
        parts, given = -(-words // MARKED_WORDS), (DRAWS, self.draws(contrast, n))
        shared = 4 * min(words, MARKED_WORDS)
        self.run("fastkd4mark", (samples, parts), MARKING_THREADS, given, words, bits, positives, shared_bytes=shared)
        return Drawn(bits, positives)
