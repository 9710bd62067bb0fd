"""What the methods on feature maps share: maps of one size, and blocks that go together."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def pooled_to(x_BCHW: Tensor, size: Sequence[int]) -> Tensor:
    """Adaptive average pooling. By whole factors it is the plain one, whose backward needs no atomic additions."""
    height, width = x_BCHW.shape[2:]
    if (height, width) == tuple(size):
        return x_BCHW
    if height % size[0] == 0 and width % size[1] == 0:
        return F.avg_pool2d(x_BCHW, (height // size[0], width // size[1]))
    return F.adaptive_avg_pool2d(x_BCHW, (size[0], size[1]))


def to_smaller(student_BCHW: Tensor, teacher_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Pools the larger map (by height) to the size of the smaller one, as the published codes do."""
    if student_BCHW.shape[2] > teacher_BCHW.shape[2]:
        return pooled_to(student_BCHW, teacher_BCHW.shape[2:]), teacher_BCHW
    return student_BCHW, pooled_to(teacher_BCHW, student_BCHW.shape[2:])


def blocks_left_out(name: str, student: int, teacher: int, *, kept: str = "first") -> list[str]:
    """The note that says which blocks are not paired where the networks have different numbers of them; else no note.

    kept: "first" or "last", those that are paired.
    """
    if student == teacher:
        return []
    few, longer = min(student, teacher), "student" if student > teacher else "teacher"
    return [
        f"{name}: the student has {student} blocks and the teacher {teacher}: the {kept} {few} are paired and the rest "
        f"of the {longer}'s left out"
    ]
