"""The loss behind a linear layer, chunk by chunk of rows: the logits of all rows are never there.

A chunk's logits are a matrix product; the loss is computed in their place, which leaves their gradient there; two more
products take that to the gradients of the hidden states and of the weight. The weight's gradient adds up in float32.
Which rows a chunk has depends on the shapes alone, so that nothing is read on the host.
"""

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fastkd.ops.row_loss import cpu, reference
from fastkd.ops.row_loss.inputs import Found, Fused, Labels, Linear, Rows, Teacher


def losses_and_gradients(
    inputs: Fused, wanted: Sequence[bool], chunk_rows: int, path: str
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """The sum of the losses, parts [2,N], ranks [N], and the gradients that are wanted of hidden, weight and bias."""
    samples, weights = inputs.student.hidden_ND.shape[0], inputs.weights_N
    losses, parts = weights.new_empty(samples), weights.new_empty(2, samples)
    ranks = torch.empty(samples, dtype=torch.int64, device=weights.device)
    gradients = room_for_gradients(inputs, wanted)
    places = iter(gradients)
    hidden, weight, bias = (next(places).zero_() if want else None for want in wanted)
    buffers = _buffers(inputs, min(chunk_rows, samples))
    for start in range(0, samples, chunk_rows):
        part = slice(start, min(start + chunk_rows, samples))
        found = _compute_in_place(_rows_of(inputs, part, buffers), any(wanted), path)
        losses[part], parts[:, part], ranks[part] = found.losses_N, found.parts_2N, found.ranks_N
        if any(wanted):
            logits = found.gradient_BRK[0]
            if hidden is not None:
                torch.mm(logits.to(hidden.dtype), inputs.student.weight_KD, out=hidden[part])
            if weight is not None:
                _add_product(weight, logits, inputs.student.hidden_ND[part])
            if bias is not None:
                bias += logits.sum(0, dtype=bias.dtype)
    return losses.sum(), parts, ranks, gradients


def room_for_gradients(inputs: Fused, wanted: Sequence[bool]) -> list[Tensor]:
    """Those of the weight and the bias in float32 at least; a row of the hidden states is a single product."""
    room = []
    for tensor, want, whole in zip(inputs.student, wanted, (True, False, False), strict=True):
        if want:
            assert tensor is not None
            dtype = tensor.dtype if whole else torch.promote_types(tensor.dtype, torch.float32)
            room.append(torch.empty(tensor.shape, dtype=dtype, device=tensor.device))
    return room


def _buffers(inputs: Fused, rows: int) -> tuple[Tensor, Tensor | None]:
    """The logits of one chunk: the student's, and the teacher's if it comes as a linear layer."""
    student, teacher = inputs.student, inputs.teacher_hidden_NE
    own = student.hidden_ND.new_empty(rows, student.weight_KD.shape[0])
    return own, None if teacher is None else teacher.new_empty(own.shape)


def _rows_of(inputs: Fused, part: slice, buffers: tuple[Tensor, Tensor | None]) -> Rows:
    own, of_teacher = buffers
    student = inputs.student
    logits = _product(Linear(student.hidden_ND[part], student.weight_KD, student.bias_K), own)
    teacher = Teacher(inputs.teacher.kind, *_parts(inputs.teacher[1:], part))
    if of_teacher is not None:
        assert inputs.teacher_hidden_NE is not None and inputs.teacher_weight_KE is not None
        layer = Linear(inputs.teacher_hidden_NE[part], inputs.teacher_weight_KE, inputs.teacher_bias_K)
        teacher = teacher._replace(dense_BRK=_product(layer, of_teacher)[None])
    labels = Labels(*_parts(inputs.labels, part))
    return Rows(logits[None], teacher, labels, inputs.weights_N[part], inputs.numbers, inputs.form)


def _parts(tensors: Sequence[Any], part: slice) -> Iterator[Tensor | None]:
    """The rows of a chunk of [1,N,K] and of [N,…]."""
    for tensor in tensors:
        yield tensor if tensor is None else tensor[:, part] if tensor.ndim == 3 else tensor[part]


def _product(layer: Linear, out: Tensor) -> Tensor:
    out = out[: len(layer.hidden_ND)]
    if layer.bias_K is None:
        return torch.mm(layer.hidden_ND, layer.weight_KD.t(), out=out)
    return torch.addmm(layer.bias_K, layer.hidden_ND, layer.weight_KD.t(), out=out)


def _compute_in_place(rows: Rows, wanted: bool, path: str) -> Found:
    if path == "reference":
        return reference.losses_and_gradient(rows, wanted)
    samples, weights = rows.student_BRK.shape[1], rows.weights_N
    ranks = torch.empty(samples, dtype=torch.int64, device=weights.device)
    found = Found(weights.new_empty(samples), weights.new_empty(2, samples), ranks, rows.student_BRK)
    kernel_of(path).fill(rows, found, rows.student_BRK if wanted else None)
    return found


def kernel_of(path: str) -> ModuleType:
    """The module whose `fill` computes the losses of rows."""
    if path == "cpu":
        return cpu
    assert path == "triton", path
    from fastkd.ops.row_loss import launch  # imports Triton

    return launch


def _add_product(total_KD: Tensor, logits_CK: Tensor, hidden_CD: Tensor) -> None:
    """total += logitsᵀ · hidden, in the total's type, which is wider than theirs may be."""
    if hidden_CD.device.type == "cuda" and hidden_CD.dtype != total_KD.dtype:
        torch.addmm(total_KD, logits_CK.t(), hidden_CD, out_dtype=total_KD.dtype, out=total_KD)
    else:
        total_KD.addmm_(logits_CK.t().to(total_KD.dtype), hidden_CD.to(total_KD.dtype))
