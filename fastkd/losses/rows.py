"""What the losses of single rows have in common: any shape, teacher and kind of label, weights, a reduction.

`fastkd.ops.row_loss` computes them. Its rows have weights; what a mean is divided by is known before it runs, so that
the gradients it writes need no second pass.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fastkd.losses.checks import check_choice
from fastkd.losses.module import Loss
from fastkd.losses.row_checks import check_labels, check_row_options, check_teacher, labels_are_classes
from fastkd.losses.shapes import as_batches, as_matrix, class_axis, shape_of_labels
from fastkd.losses.teachers import LinearTeacher, TeacherProbabilities
from fastkd.ops import row_loss
from fastkd.ops.distill_loss.reference import counted_rows
from fastkd.ops.numbers import NUMBERS, LogitNumbers, Row, Scalar
from fastkd.ops.sparse import SparseTeacher

Divergence = Literal["forward", "reverse"]
DIVERGENCES = ("forward", "reverse")
Reduction = Literal["mean", "sum", "none"]
REDUCTIONS = ("mean", "sum", "none")
RowTeacher = Tensor | SparseTeacher | TeacherProbabilities
CAPS = ("softcap", "teacher_softcap")
NUMBERS_OF_LOGITS = tuple(LogitNumbers.__annotations__)


class Counting(NamedTuple):
    """Which rows count, how much, and what their sum is divided by."""

    ignore_index: int = -100
    weights: Tensor | None = None
    reduction: Reduction = "mean"
    count: Scalar | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is the mean over the rows that are not ignored."""
        return self.weights is None and self.reduction == "mean" and self.count is None

    def check(self, logits: Tensor) -> None:
        check_choice("reduction", self.reduction, REDUCTIONS)
        check_row_options(logits, shape_of_labels(logits), self.weights, self.reduction, self.count)


class RowTerms(NamedTuple):
    """A scalar each for a mean or a sum, else of the labels' shape; the hits are always counts."""

    total: Tensor
    ce: Tensor
    divergence: Tensor
    hits: Tensor


class RowLoss(Loss):
    """A loss of rows as a module. It has a soft-cap if it was made with one."""

    form = "kd_rows"

    def __init__(self, given: Mapping[str, Any], form: str | None = None):
        self._absent = tuple(name for name in CAPS if name not in given)
        super().__init__(given, form)

    @property
    def row(self) -> Row:
        return {name: number for name, number in NUMBERS[self._form].items() if name not in self._absent}

    @property
    def caps(self) -> tuple[bool, bool]:
        """Whether the student's and the teacher's logits are soft-capped."""
        return "softcap" not in self._absent, "teacher_softcap" not in self._absent

    def numbers_beside(self, logits: Tensor) -> Tensor:
        if self.numbers.device != logits.device:
            where = str(logits.device)
            raise ValueError(
                f"the loss is on {self.numbers.device}, the logits are on {where}: move it with .to({where!r})"
            )
        return self.numbers.to(torch.promote_types(logits.dtype, torch.float32))


def is_plain(teacher: Any, labels: Any, counting: Counting) -> bool:
    """Whether the operation of batches could compute it: logits or no teacher, classes as labels, a mean over rows."""
    return (
        (teacher is None or isinstance(teacher, Tensor))
        and labels is not None
        and (not isinstance(labels, Tensor) or labels_are_classes(labels))
        and counting.is_plain
    )


def is_small(logits: Any, teacher: Any, labels: Any, counting: Counting) -> bool:
    """Whether it should: it reads the rows of [B,K] once, and tokens and pixels come with strides and many classes."""
    return isinstance(logits, Tensor) and logits.ndim == 2 and is_plain(teacher, labels, counting)


def given_caps(numbers: Mapping[str, object]) -> tuple[bool, bool]:
    return "softcap" in numbers, "teacher_softcap" in numbers


def packed(form: str, checked: Mapping[str, Scalar], given: Mapping[str, object], logits: Tensor) -> Tensor:
    """The numbers of a function as a tensor; a soft-cap that was not given has no value."""
    known = {name: value for name, value in checked.items() if name not in CAPS or name in given}
    return row_loss.packed(form, known, logits)


def without_labels(numbers: Mapping[str, object], labels: Tensor | None) -> dict[str, Any]:
    """Takes ce_weight for 0 where there are no labels and it was not given."""
    return {"ce_weight": 0.0, **numbers} if labels is None else dict(numbers)


def compute(
    logits: Tensor,
    teacher: RowTeacher | None,
    labels: Tensor | None,
    numbers: Tensor,
    form: row_loss.Form,
    counting: Counting,
) -> RowTerms:
    """The loss of rows of logits, after all checks."""
    shape, classes = shape_of_labels(logits), logits.shape[class_axis(logits)]
    counting.check(logits)
    check_labels(labels, shape, classes, logits)
    check_teacher(teacher, shape, classes, logits, form.divergence)
    dense = (logits, dense_of(teacher), None if labels_are_classes(labels) else labels)
    given = iter(as_batches([tensor for tensor in dense if tensor is not None]))
    student, target, shares = (None if tensor is None else next(given) for tensor in dense)
    assert student is not None
    classes_N = labels_as_classes(labels)
    weights, divisor = weights_and_divisor(classes_N, labels, classes, counting, numbers.new_ones(shape))
    if divisor is not None:
        weights = weights / divisor
    target_N = as_input(teacher, target, classes)
    rows = row_loss.Rows(student, target_N, row_loss.Labels(classes_N, shares), weights, numbers, form)
    found = row_loss.compute(rows)
    parts, hits = found.parts_2N.detach(), hits_of(found.ranks_N)
    if counting.reduction == "none":
        return RowTerms(found.losses_N.view(shape), parts[0].view(shape), parts[1].view(shape), hits)
    ce, divergence = (parts * weights).sum(1).unbind()
    return RowTerms(found.losses_N.sum(), ce, divergence, hits)


def dense_of(teacher: RowTeacher | LinearTeacher | None) -> Tensor | None:
    if isinstance(teacher, TeacherProbabilities):
        return teacher.probabilities.detach()
    return teacher.detach() if isinstance(teacher, Tensor) else None


def as_input(teacher: RowTeacher | LinearTeacher | None, dense_BRK: Tensor | None, classes: int) -> row_loss.Teacher:
    """The teacher as the operation takes it. dense_BRK: its dense rows, if it has some."""
    if isinstance(teacher, SparseTeacher):
        kept = teacher.indices.flatten(0, -2)
        kept = kept if kept.dtype in (torch.int32, torch.int64) else kept.long()
        log_rest = teacher.log_rest_of(classes).detach().flatten() if teacher.kind == "lumped" else None
        log_probs = teacher.log_probabilities.detach().flatten(0, -2)
        return row_loss.Teacher(teacher.kind, None, kept.contiguous(), log_probs.contiguous(), log_rest)
    kind = "none" if teacher is None else "probabilities" if isinstance(teacher, TeacherProbabilities) else "logits"
    return row_loss.Teacher(kind, dense_BRK, None, None, None)


def labels_as_classes(labels: Tensor | None) -> Tensor | None:
    """[N] int64: of probabilities the likeliest class, for which hits are counted."""
    if labels is None:
        return None
    return labels.reshape(-1) if labels_are_classes(labels) else as_matrix(labels.detach()).argmax(1)


def weights_and_divisor(
    classes_N: Tensor | None, labels: Tensor | None, classes: int, counting: Counting, ones: Tensor
) -> tuple[Tensor, Tensor | Scalar | None]:
    """The weight of every row [N], 0 if it does not count, and what a mean divides by; None: nothing."""
    weights = ones.flatten()
    if counting.weights is not None:
        weights = counting.weights.detach().reshape(-1).to(weights.dtype)
    if classes_N is not None and labels_are_classes(labels):
        weights = torch.where(counted_rows(classes_N, classes, counting.ignore_index), weights, 0)
    if counting.reduction != "mean":
        return weights, None
    if counting.count is not None:
        return weights, counting.count
    total = weights.sum()
    return weights, torch.where(total == 0, 1, total)


def hits_of(ranks_N: Tensor) -> Tensor:
    """[2] int64: rows whose label is among the top 1, the top 5."""
    return torch.stack([(ranks_N < k).sum() for k in (1, 5)])
