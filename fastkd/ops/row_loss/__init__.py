"""Cross-entropy and a divergence from a teacher for every row of logits, and the same behind a linear layer.

inputs.py         what goes in and comes out
reference.py      plain PyTorch: the CPU path, the oracle, the definition
kernel_dense.py   Triton, for a teacher that is logits, probabilities, or not there
kernel_kept.py    the same for a teacher that is some kept classes
kernel_scale.py   the scaling of gradients in backward
kernel_parts.py   what the kernels share
launch.py         grids and tiles
fused.py          the linear layer, chunk by chunk
operation.py      registration with torch.library

This file is the choice between them. `distill_loss` gives sums over a batch from small rows that it reads once; this
gives single rows, of any width, with weights, and with the teachers and labels that `inputs.py` names.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from fastkd.ops import select
from fastkd.ops.numbers import NUMBERS, Scalar, neutral
from fastkd.ops.row_loss.inputs import Form, Found, Fused, Labels, Linear, Rows, Teacher
from fastkd.ops.row_loss.operation import linear_loss, row_loss
from fastkd.ops.schema import flat

__all__ = ["Form", "Found", "Fused", "Labels", "Linear", "Rows", "Teacher", "compute", "compute_linear", "packed"]

_IN_FLOAT32 = (("triton", "the kernel computes in float32, the logits are float64"),)


def compute(rows: Rows) -> Found:
    """The losses of all rows, differentiable by the student's logits, by the implementation that `select` chooses."""
    student = rows.student_BRK
    wanted = torch.is_grad_enabled() and student.requires_grad
    return Found(*row_loss(*flat(rows), wanted, _path(student)))


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
    return select.choose("row_loss", logits.device.type, _IN_FLOAT32 if logits.dtype == torch.float64 else ())[0]
