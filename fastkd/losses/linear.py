"""Distillation through a last linear layer whose logits are never all there: the head of a language model."""

from typing import NamedTuple, Unpack

import torch
from torch import Tensor

from fastkd.losses import rows
from fastkd.losses.checks import check_choice
from fastkd.losses.jsd import JSDTerms
from fastkd.losses.kd import KDTerms
from fastkd.losses.module import checked_numbers, takes_numbers
from fastkd.losses.row_checks import (
    check_ce_weight,
    check_chunk_rows,
    check_labels,
    check_layer,
    check_row_options,
    check_teacher,
    labels_are_classes,
)
from fastkd.losses.rows import Counting, Divergence, RowLoss, RowTeacher, RowTerms
from fastkd.losses.shapes import as_batches
from fastkd.losses.teachers import LinearTeacher
from fastkd.ops import row_loss
from fastkd.ops.numbers import JSDRowNumbers, KDRowNumbers, Scalar
from fastkd.ops.row_loss import Form

Teacher = RowTeacher | LinearTeacher | None
SUMS = ("mean", "sum")
LEAST_ROWS = 128


class Head(NamedTuple):
    """What the student's logits are made of."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    chunk_rows: int | None


@takes_numbers("kd_rows")
def linear_kd_loss(
    hidden: Tensor,
    head_weight: Tensor,
    teacher: Teacher,
    labels: Tensor | None = None,
    *,
    head_bias: Tensor | None = None,
    divergence: Divergence = "forward",
    weights: Tensor | None = None,
    reduction: str = "mean",
    count: Scalar | None = None,
    ignore_index: int = -100,
    chunk_rows: int | None = None,
    **numbers: Unpack[KDRowNumbers],
) -> KDTerms:
    """`kd_loss` of the logits hidden · head_weightᵀ + head_bias, in chunks of rows: memory is that of one chunk.

    hidden: [N,D] or [B,T,D]; head_weight: [K,D]; head_bias: [K]; of one type, or cast to autocast's where that is on.
    teacher: a `LinearTeacher`; or logits [N,K] or [B,T,K], `TeacherProbabilities` or a `SparseTeacher`. What it has
        for each row is used where it is if rows follow each other at one distance, else copied. None: the
        cross-entropy alone.
    labels, weights, count, divergence and the numbers are those of `kd_loss`.
    reduction: "mean" or "sum". Gradients are summed over the rows as they are made, so that there is no "none".
    chunk_rows: rows of a chunk; by default as many as make its logits as large as `hidden`, and at least 128.

    The gradients of weight and bias add up in float32, over the rows' weights before they are divided by the count:
    float16 does not lose them. Nothing waits for the device, and a captured graph may hold it.

    Errors as in `ce_loss`.
    """
    check_choice("divergence", divergence, rows.DIVERGENCES)
    given = rows.without_labels(numbers, labels)
    head = Head(hidden, head_weight, head_bias, chunk_rows)
    check_chunk_rows(chunk_rows)
    check_layer(hidden, head_weight, head_bias, teacher)
    checked = checked_numbers("linear_kd_loss", "kd_rows", given, hidden)
    check_ce_weight(checked["ce_weight"], labels)
    packed, form = rows.packed("kd_rows", checked, given, hidden), Form(divergence, True, *rows.given_caps(given))
    counting = _counting(ignore_index, weights, reduction, count)
    return KDTerms(*_compute(head, teacher, labels, packed, form, counting))


@takes_numbers("jsd_rows")
def linear_jsd_loss(
    hidden: Tensor,
    head_weight: Tensor,
    teacher: Teacher,
    labels: Tensor | None = None,
    *,
    head_bias: Tensor | None = None,
    tau_squared: bool = False,
    weights: Tensor | None = None,
    reduction: str = "mean",
    count: Scalar | None = None,
    ignore_index: int = -100,
    chunk_rows: int | None = None,
    **numbers: Unpack[JSDRowNumbers],
) -> JSDTerms:
    """`jsd_loss` of the logits hidden · head_weightᵀ + head_bias, with the arguments of `linear_kd_loss`."""
    check_chunk_rows(chunk_rows)
    check_layer(hidden, head_weight, head_bias, teacher)
    checked = checked_numbers("linear_jsd_loss", "jsd_rows", numbers, hidden)
    check_ce_weight(checked["ce_weight"], labels)
    packed = rows.packed("jsd_rows", checked, numbers, hidden)
    form, counting = (
        Form("jsd", tau_squared, *rows.given_caps(numbers)),
        _counting(ignore_index, weights, reduction, count),
    )
    return JSDTerms(
        *_compute(Head(hidden, head_weight, head_bias, chunk_rows), teacher, labels, packed, form, counting)
    )


class LinearKDLoss(RowLoss):
    """`linear_kd_loss` as a module; the layer is the model's. Its numbers may be set at any time."""

    form = "kd_rows"

    def __init__(
        self,
        *,
        divergence: Divergence = "forward",
        reduction: str = "mean",
        ignore_index: int = -100,
        chunk_rows: int | None = None,
        **numbers: Unpack[KDRowNumbers],
    ):
        check_choice("divergence", divergence, rows.DIVERGENCES)
        check_choice("reduction", reduction, SUMS)
        check_chunk_rows(chunk_rows)
        super().__init__(numbers)
        self.ignore_index = ignore_index
        self.divergence: Divergence = divergence
        self.reduction = reduction
        self.chunk_rows = chunk_rows

    def forward(
        self,
        hidden: Tensor,
        head_weight: Tensor,
        teacher: Teacher,
        labels: Tensor | None = None,
        *,
        head_bias: Tensor | None = None,
        weights: Tensor | None = None,
        count: Scalar | None = None,
    ) -> KDTerms:
        check_layer(hidden, head_weight, head_bias, teacher)
        if labels is None:
            check_ce_weight(self.ce_weight, labels)
        counting = _counting(self.ignore_index, weights, self.reduction, count)
        form, head = Form(self.divergence, True, *self.caps), Head(hidden, head_weight, head_bias, self.chunk_rows)
        return KDTerms(*_compute(head, teacher, labels, self.numbers_beside(hidden), form, counting))


class LinearJSDLoss(RowLoss):
    """`linear_jsd_loss` as a module; the layer is the model's. Its numbers may be set as those of `JSDLoss`."""

    form = "jsd_rows"

    def __init__(
        self,
        *,
        tau_squared: bool = False,
        reduction: str = "mean",
        ignore_index: int = -100,
        chunk_rows: int | None = None,
        **numbers: Unpack[JSDRowNumbers],
    ):
        check_choice("reduction", reduction, SUMS)
        check_chunk_rows(chunk_rows)
        super().__init__(numbers)
        self.ignore_index = ignore_index
        self.tau_squared = tau_squared
        self.reduction = reduction
        self.chunk_rows = chunk_rows

    def forward(
        self,
        hidden: Tensor,
        head_weight: Tensor,
        teacher: Teacher,
        labels: Tensor | None = None,
        *,
        head_bias: Tensor | None = None,
        weights: Tensor | None = None,
        count: Scalar | None = None,
    ) -> JSDTerms:
        check_layer(hidden, head_weight, head_bias, teacher)
        if labels is None:
            check_ce_weight(self.ce_weight, labels)
        counting = _counting(self.ignore_index, weights, self.reduction, count)
        form, head = Form("jsd", self.tau_squared, *self.caps), Head(hidden, head_weight, head_bias, self.chunk_rows)
        return JSDTerms(*_compute(head, teacher, labels, self.numbers_beside(hidden), form, counting))


def rows_of_a_chunk(rows_in_all: int, dim: int, classes: int) -> int:
    """As many as make a chunk's logits as large as the hidden states, in multiples of 128."""
    return LEAST_ROWS * max(round(rows_in_all * dim / classes / LEAST_ROWS), 1)


def _counting(ignore_index: int, weights: Tensor | None, reduction: str, count: Scalar | None) -> Counting:
    check_choice("reduction", reduction, SUMS)
    return Counting(ignore_index, weights, "mean" if reduction == "mean" else "sum", count)


def _compute(
    head: Head, teacher: Teacher, labels: Tensor | None, numbers: Tensor, form: Form, counting: Counting
) -> RowTerms:
    hidden, shape, classes = head.hidden, tuple(head.hidden.shape[:-1]), len(head.weight)
    check_row_options(hidden, shape, counting.weights, counting.reduction, counting.count)
    check_labels(labels, shape, classes, hidden)
    if not isinstance(teacher, LinearTeacher):
        check_teacher(teacher, shape, classes, hidden, form.divergence)
    classes_N = rows.labels_as_classes(labels)
    weights, divisor = rows.weights_and_divisor(classes_N, labels, classes, counting, numbers.new_ones(shape))
    shares = None if labels is None or labels_are_classes(labels) else _one_batch(labels)
    dense = rows.dense_of(teacher)
    inputs = row_loss.Fused(
        _cast(head.hidden, head.weight, head.bias),
        *_teachers_layer(teacher),
        rows.as_input(teacher, None if dense is None else _one_batch(dense), classes),
        row_loss.Labels(classes_N, shares),
        weights,
        numbers,
        form,
    )
    samples, dim = inputs.student.hidden_ND.shape
    total, parts, ranks = row_loss.compute_linear(inputs, head.chunk_rows or rows_of_a_chunk(samples, dim, classes))
    means = (parts.detach() * weights).sum(1)
    if divisor is not None:
        total, means = total / divisor, means / divisor
    return RowTerms(total, means[0], means[1], rows.hits_of(ranks))


def _teachers_layer(teacher: Teacher) -> row_loss.Linear | tuple[None, None, None]:
    if not isinstance(teacher, LinearTeacher):
        return None, None, None
    hidden, weight, bias = teacher
    return _cast(hidden.detach(), weight.detach(), bias if bias is None else bias.detach())


def _one_batch(dense: Tensor) -> Tensor:
    """[1,N,K]."""
    return as_batches([dense])[0].flatten(0, 1)[None]


def _cast(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> row_loss.Linear:
    """The layer with its rows as a matrix, in autocast's type where that is on."""
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        hidden, weight, bias = hidden.to(dtype), weight.to(dtype), bias if bias is None else bias.to(dtype)
    return row_loss.Linear(hidden.flatten(0, -2), weight, bias)
