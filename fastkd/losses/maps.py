"""What the losses on feature maps share: maps of one size, and their places as rows."""

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


def rows_of(map_BCHW: Tensor) -> Tensor:
    """[B·H·W,C]: the places of a map."""
    return map_BCHW.movedim(1, 3).flatten(0, 2)


def map_of(rows_NC: Tensor, like_BCHW: Tensor) -> Tensor:
    """[B,C,H,W]: rows back in the places that they have in another map."""
    batch, _, height, width = like_BCHW.shape
    return rows_NC.unflatten(0, (batch, height, width)).movedim(3, 1)
