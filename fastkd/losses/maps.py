"""What the losses on feature maps share: maps of one size, and their places as rows."""

from torch import Tensor

from fastkd.support.pooling import pooled_to


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
