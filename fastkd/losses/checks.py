"""What the losses may be given. Every mistake is one line that names the argument and what was expected."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastkd.losses.shapes import SHAPES, class_axis, shape_of_labels
from fastkd.ops.distill_loss.reference import is_transforming
from fastkd.ops.numbers import Scalar
from fastkd.support.ranges import Range


def check_batch(labels: Any, **logits: Any) -> None:
    """Raises ValueError or TypeError unless all logits are alike, in one of `SHAPES`, and the labels fit them."""
    check_logits(**logits)
    first = next(iter(logits.values()))
    shape = shape_of_labels(first)
    expected = f"int64 {list(shape)}"
    require_tensor("labels", labels, expected)
    if labels.shape != shape or labels.dtype != torch.int64:
        raise ValueError(f"labels are {expected}, got {labels.dtype} {list(labels.shape)}")
    require_device("labels", labels, first)


def check_logits(**logits: Any) -> None:
    first_name, first = next(iter(logits.items()))
    expected = f"floating point {SHAPES}"
    for name, tensor in logits.items():
        require_tensor(name, tensor, expected)
        if tensor.is_nested or tensor.layout != torch.strided:
            kind = "nested" if tensor.is_nested else "sparse"
            raise ValueError(f"{name} are {expected}, got a {kind} one: make it dense")
        if tensor.ndim not in (2, 3, 4) or not is_computed_in(tensor.dtype):
            raise ValueError(f"{name} are {expected}, got {tensor.dtype} {list(tensor.shape)}")
        if tensor.shape != first.shape:
            raise ValueError(
                f"logits agree in shape, got {first_name} {list(first.shape)} and {name} {list(tensor.shape)}"
            )
        require_device(name, tensor, first)
    if first.shape[class_axis(first)] == 0:
        raise ValueError(f"{first_name} have one class at least, got {list(first.shape)}")


def is_computed_in(kind: torch.dtype) -> bool:
    """Whether a loss takes numbers of that type: a floating-point one of two bytes or more. Those of eight bits are for
    storing: PyTorch computes nothing in them."""
    return kind.is_floating_point and kind.itemsize > 1


def as_several(name: str, several: Any, logits: Any) -> list[Any]:
    """N more networks' logits, given as [N,B,K] or N times [B,K], one by one; [B,K] may be any of the `SHAPES`."""
    expected = "a tensor [N,B,K] or a sequence of N tensors [B,K], N at least 1"
    if isinstance(several, Tensor):
        if isinstance(logits, Tensor) and several.ndim != logits.ndim + 1:
            raise ValueError(f"{name} are {expected}, got a tensor {list(several.shape)}")
        several = several.unbind(0)
    if not isinstance(several, Sequence):
        raise TypeError(f"{name} are {expected}, got {type(several).__name__}")
    if len(several) == 0:
        raise ValueError(f"{name} are {expected}, got none")
    return list(several)


def check_pairs(student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Pairs of maps: of one map each, or of as many of the one network as of the other; raises ValueError else."""
    if isinstance(student, Tensor) and isinstance(teacher, Tensor):
        return [(student, teacher)]
    if isinstance(student, Tensor) or isinstance(teacher, Tensor) or len(student) != len(teacher) or not len(student):
        raise ValueError("student and teacher are a map each, or as many maps of the one as of the other, at least one")
    return list(zip(student, teacher, strict=True))


def check_teacher_weights(weights: Tensor | None, teachers: Sequence[Tensor]) -> None:
    if weights is None:
        return
    networks, samples = len(teachers), list(shape_of_labels(teachers[0]))
    expected = f"a tensor [{networks}] or {[networks, *samples]}"
    require_tensor("teacher_weights", weights, expected)
    if list(weights.shape) not in ([networks], [networks, *samples]):
        raise ValueError(f"teacher_weights are {expected}, got {list(weights.shape)}")
    require_device("teacher_weights", weights, teachers[0])
    check_numbers("teacher_weights", weights)


def check_numbers(name: str, weights: Tensor) -> None:
    """Weights in a tensor are numbers, finite ones where that can be seen. They may be negative, as advantages are."""
    if weights.dtype == torch.bool or weights.is_complex():
        raise ValueError(f"{name} are numbers, got {weights.dtype}")
    if _may_be_read(weights) and not bool(weights.isfinite().all()):
        raise ValueError(f"{name} are finite, got one that is not")


def check_row_weights(weights: Tensor | None, logits: Tensor) -> None:
    if weights is None:
        return
    shape = shape_of_labels(logits)
    expected = f"a floating-point tensor {list(shape)}"
    require_tensor("row_weights", weights, expected)
    if weights.shape != shape or not weights.is_floating_point():
        raise ValueError(f"row_weights are {expected}, got {weights.dtype} {list(weights.shape)}")
    require_device("row_weights", weights, logits)
    check_numbers("row_weights", weights)


def check_scalar(name: str, value: Scalar, logits: Tensor, allowed: Range) -> None:
    """A number must be in its range; a tensor must be on the logits' device, as no graph can capture a copy.

    What a tensor holds is looked at on a CPU; a GPU would have to be waited for.
    """
    if not isinstance(value, Tensor):
        allowed.check(name, value)
    elif value.ndim > 0:
        raise ValueError(f"{name} is one number, got a tensor {list(value.shape)}")
    elif value.requires_grad:
        raise ValueError(f"{name} gets no gradient from this loss, but requires one: detach it")
    else:
        require_device(name, value, logits)
        if _may_be_read(value):
            allowed.check(name, value.item())


def check_choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {' or '.join(map(repr, known))}, got {value!r}")


def _may_be_read(tensor: Tensor) -> bool:
    """Whether a look at the numbers waits for nothing, and breaks nothing that traces or transforms this call."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    watched = traced or torch._C._len_torch_dispatch_stack() > 0
    return tensor.device.type == "cpu" and not watched and not is_transforming() and type(tensor) is Tensor


def require_tensor(name: str, value: object, expected: str) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} are {expected}, got {type(value).__name__}")


def require_device(name: str, tensor: Tensor, logits: Tensor) -> None:
    if tensor.device != logits.device:
        raise ValueError(f"{name}: on {tensor.device}, where the logits are on {logits.device}")
