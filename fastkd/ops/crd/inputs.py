"""What the operations read: named tuples to us, flat arguments to PyTorch and csrc/. The fields below decide both."""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from fastkd.ops.crd.draws import DrawPlan
from fastkd.ops.select import interpreting

MOST_ROWS = 128
"""Rows of a block of the dense path, at most. Counts are padded to a multiple, so that they are read without a mask."""


class Contrast(NamedTuple):
    """Embeddings of samples, where they live in the bank, and what they are contrasted with."""

    student_BD: Tensor
    """[B,D] float32, contiguous, as `teacher_BD`."""
    teacher_BD: Tensor
    rows_B: Tensor
    """[B] int64: the samples' own rows of the bank."""
    chosen_BK: Tensor | None
    """[B,K+1] int64 rows, the positive first; None: drawn by the plan."""
    plan: DrawPlan


class Inputs(NamedTuple):
    """What the loss of a batch, and the normaliser that it sets, are computed from."""

    contrast: Contrast
    bank_n2D: Tensor
    z: Tensor
    """[2]: Z of the student's and of the teacher's side."""
    numbers: Tensor
    """[2]: temperature and momentum, see `fastkd.ops.numbers.CRDRole`."""


class Drawn(NamedTuple):
    """What the samples of a batch drew, counted: it depends on the plan and their rows alone."""

    counts: Tensor
    """[B,n, and some zeros] int16, unsigned: how often each sample drew each row. Where no row comes twice [B,words]
    int32: bit i of word w says whether the sample drew row 32·w + i."""
    positives: Tensor
    """[B] int64: rows of the bank."""

    @classmethod
    def empty(cls, rows_B: Tensor, n: int, *, distinct: bool) -> Self:
        stride = -(-n // MOST_ROWS) * MOST_ROWS
        shape, dtype = (stride // 32, torch.int32) if distinct else (stride, torch.int16)
        return cls(rows_B.new_empty(len(rows_B), shape, dtype=dtype), torch.empty_like(rows_B))


class Prepared(NamedTuple):
    """What is known before the bank is scored."""

    z: Tensor
    """[2]: Z of both sides, measured if it was unknown."""
    scaled: Tensor | None = None
    """[2,2,B,D], of the dense path: embeddings · log2(e) / T. The first axis has the two addends of each number, the
    second the sides."""

    @classmethod
    def empty(cls, student_BD: Tensor, z: Tensor) -> Self:
        # Interpreted, products of bfloat16 are wrong; the kernels take float32 there.
        dtype = torch.float32 if interpreting() else torch.bfloat16
        return cls(torch.empty_like(z), student_BD.new_empty(2, 2, *student_BD.shape, dtype=dtype))
