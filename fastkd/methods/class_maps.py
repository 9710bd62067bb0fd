"""Classifiers applied to places of a map, for the methods that read a network's logits before they are pooled."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastkd.losses.frozen import Frozen
from fastkd.losses.maps import map_of, rows_of
from fastkd.methods.base import Context
from fastkd.networks.base import Output
from fastkd.support.errors import UserError


class Classifiers(nn.Module):
    """The student's classifier, which stays the student's own, and a frozen copy of the teacher's."""

    def __init__(self, name: str, context: Context):
        super().__init__()
        (teacher,), (teacher_shapes,) = context.teachers, context.teacher_shapes
        _refuse_unlike(name, "student", context.student_shapes)
        _refuse_unlike(name, "teacher", teacher_shapes)
        self._student = (context.student.head.classifier,)  # a tuple, as its weights are registered already
        self.teacher = Frozen(teacher.head.classifier)

    def of_student(self, vectors: Tensor) -> Tensor:
        return self._student[0](vectors)

    def of_teacher(self, vectors: Tensor) -> Tensor:
        with torch.no_grad():
            return self.teacher(vectors)


def class_map(classify: Callable[[Tensor], Tensor], map_BCHW: Tensor) -> Tensor:
    """[B,K,H,W]: the classifier at every place of a map, as a 1x1 convolution."""
    return map_of(classify(rows_of(map_BCHW)), map_BCHW)


def _refuse_unlike(name: str, which: str, shapes: Output) -> None:
    if shapes.final_map.shape[1] != shapes.embedding.shape[1]:
        raise UserError(
            f"{name}: the {which}'s classifier reads {shapes.embedding.shape[1]} numbers, its last map has "
            f"{shapes.final_map.shape[1]} channels: they have to be the same ones, averaged"
        )
