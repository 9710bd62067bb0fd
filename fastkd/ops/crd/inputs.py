"""What the operations read: named tuples to us, flat arguments to PyTorch and csrc/. The fields below decide both."""

from typing import NamedTuple

from torch import Tensor

from fastkd.ops.crd.draws import DrawPlan


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
