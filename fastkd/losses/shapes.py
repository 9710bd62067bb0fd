"""Rows of classes out of the shapes that logits come in, without a copy where the strides allow it.

[B,K]: a row an image; [B,T,K]: a row a token; [B,K,H,W]: a row a pixel, the classes on the axis where PyTorch has them.
"""

from collections.abc import Sequence

from torch import Tensor

SHAPES = "[B,K], [B,T,K] or [B,K,H,W]"


def class_axis(logits: Tensor) -> int:
    return 2 if logits.ndim == 3 else 1


def shape_of_labels(logits: Tensor) -> tuple[int, ...]:
    """That of the logits without their classes: of labels, weights, and a loss that is not reduced."""
    axis = class_axis(logits)
    return tuple(logits.shape[:axis] + logits.shape[axis + 1 :])


def as_matrix(logits: Tensor) -> Tensor:
    """[N,K]."""
    return logits if logits.ndim == 2 else logits.movedim(class_axis(logits), -1).flatten(0, -2)


def as_batches(dense: Sequence[Tensor]) -> list[Tensor]:
    """[B,R,K] each, of one B and R: with B = 1 where the rows of all of them follow each other at one distance."""
    if dense[0].ndim == 2:
        return [tensor[None] for tensor in dense]
    if dense[0].ndim == 3:
        together = all(_rows_follow(tensor) for tensor in dense)
        return [tensor.flatten(0, 1)[None] if together else tensor for tensor in dense]
    return [tensor.flatten(2).transpose(1, 2) for tensor in dense]


def _rows_follow(dense_BTK: Tensor) -> bool:
    return dense_BTK.shape[0] == 1 or dense_BTK.stride(0) == dense_BTK.shape[1] * dense_BTK.stride(1)
