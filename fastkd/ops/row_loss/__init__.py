"""Cross-entropy and a divergence from a teacher for every row of logits, and the same behind a linear layer.

inputs.py         what goes in and comes out
reference.py      plain PyTorch: the oracle, the definition, the path where nothing is compiled
kernel_dense.py   Triton, for a teacher that is logits, probabilities, or not there
kernel_kept.py    the same for a teacher that is some kept classes
kernel_scale.py   the scaling of gradients in backward
kernel_parts.py   what the kernels share
launch.py         grids and tiles
cpu.py            the call of a CPU's kernel, csrc/row_loss_rows.h
fused.py          the linear layer, chunk by chunk
operation.py      registration with torch.library

This file is the choice between them. `distill_loss` gives sums over a batch from small rows that it reads once; this
gives single rows, of any width, with weights, and with the teachers and labels that `inputs.py` names.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from fastkd.ops import select
from fastkd.ops.distill_loss.reference import is_transforming
from fastkd.ops.numbers import NUMBERS, Scalar, neutral
from fastkd.ops.row_loss import reference
from fastkd.ops.row_loss.inputs import Form, Found, Fused, Labels, Linear, Rows, Teacher
from fastkd.ops.row_loss.operation import differentiable, linear_loss
from fastkd.ops.schema import flat

__all__ = ["Form", "Found", "Fused", "Labels", "Linear", "Rows", "Teacher", "compute", "compute_linear", "packed"]

_KERNELS = ("triton", "cpu")
_IN_FLOAT32 = tuple((path, "the kernel computes in float32, the logits are float64") for path in _KERNELS)
_NOT_TRANSFORMED = tuple((path, "torch.func does not transform the kernel") for path in _KERNELS)


def compute(rows: Rows) -> Found:
    """The losses of all rows, differentiable by the student's logits, by the implementation that `select` chooses."""
    path = _path(rows.student_BRK)
    if path == "reference" and is_transforming():  # torch.func differentiates the definition itself
        return reference.losses_and_gradient(rows, wanted=False)
    return differentiable(rows, path)


def compute_linear(inputs: Fused, chunk_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """(sum of the losses, parts [2,N], ranks [N]), the sum differentiable by the layer's input and parameters."""
    layer = inputs.student
    wanted = [torch.is_grad_enabled() and tensor is not None and tensor.requires_grad for tensor in layer]
    total, parts, ranks, *_ = linear_loss(*flat(inputs), wanted, chunk_rows, _path(layer.hidden_ND))
    return total, parts, ranks


def packed(form: str, numbers: Mapping[str, Scalar], logits: Tensor) -> Tensor:
    """The numbers as a tensor beside the logits: float32, and float64 for logits of that type."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    # Filled on the device: a copy from the host would make the host wait, and could not be captured.
    tensor = torch.ones(len(neutral(form)), dtype=dtype, device=logits.device)
    for name, value in numbers.items():
        place = tensor[NUMBERS[form][name].role]
        place.copy_(value) if isinstance(value, Tensor) else place.fill_(value)
    return tensor


def _path(logits: Tensor) -> str:
    impossible: select.Reasons = ()
    if logits.dtype == torch.float64:
        impossible = _IN_FLOAT32
    elif is_transforming():
        impossible = _NOT_TRANSFORMED
    return select.choose("row_loss", logits.device.type, impossible)[0]
