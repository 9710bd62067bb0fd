"""What the losses of rows may be given. Every mistake is one line that names the argument and what was expected."""

from typing import Any

import torch
from torch import Tensor

from fastkd.losses.checks import (
    as_several,
    check_batch,
    check_logits,
    check_numbers,
    check_scalar,
    is_computed_in,
    require_device,
    require_tensor,
)
from fastkd.losses.shapes import class_axis, shape_of_labels
from fastkd.losses.teachers import LinearTeacher, TeacherProbabilities
from fastkd.ops.kept import FORMS, OF_DRAWS
from fastkd.ops.numbers import STANDARDISED
from fastkd.ops.sparse import TAILS, SparseTeacher
from fastkd.support.ranges import ABOVE_ZERO

TEACHERS = "a tensor, a SparseTeacher or TeacherProbabilities"
WITHOUT_LABELS = ("kd", "ttm", "wttm", "ab", "ab_continuous", "jsd")
"""The forms of batches that compare two networks without knowing the label."""
OF_ONE_CLASS = {
    "dkd": "DKD divides a row into the label's class and the others",
    "rld": "RLD compares the classes that a teacher gives less than the label's",
    "virtual": "a virtual teacher gives its probability to one class",
    "virtual_softened": "a virtual teacher gives its probability to one class",
}
"""The forms that are not defined for probabilities as labels, and why."""
WHOLE_ROWS = {
    "standardised": "standardised logits have the mean and deviation of a whole row, which kept classes do not tell",
    "rld": "RLD compares the classes that the teacher gives less than the label: of those not kept nobody knows it",
    "dist": "DIST correlates each class over the rows, and each row keeps other classes",
    "sftn": "the teacher learns, too: it is logits",
}
"""What does not take a `SparseTeacher`, and why."""
BESIDE_THE_LABEL = ("dkd", "nkd")
"""The forms that need a class beside the label's."""


def labels_are_classes(labels: Tensor | None) -> bool:
    return labels is None or not labels.is_floating_point()


def check_networks(student_logits: Any, teacher_logits: Any) -> None:
    """A student's logits, and a teacher's in the same shape unless it comes in another form."""
    check_logits(student_logits=student_logits)
    if not isinstance(teacher_logits, SparseTeacher | TeacherProbabilities):
        check_logits(student_logits=student_logits, teacher_logits=teacher_logits)


def check_rows(form: str, labels: Any, **logits: Any) -> None:
    """All logits are alike, in one of `SHAPES`, and the labels fit them and the form of the loss of batches."""
    plain, first = form.removesuffix(STANDARDISED), next(iter(logits.values()))
    if isinstance(labels, Tensor) and labels.is_floating_point():
        check_logits(**logits)
        shape = shape_of_labels(first)
        if plain in OF_ONE_CLASS:
            got = f"{labels.dtype} {list(labels.shape)}"
            raise ValueError(f"{OF_ONE_CLASS[plain]}: labels are int64 {list(shape)}, got {got}")
        check_labels(labels, shape, first.shape[class_axis(first)], first)
    elif labels is None and plain in WITHOUT_LABELS:
        check_logits(**logits)
    else:
        check_batch(labels, **logits)
    if plain in BESIDE_THE_LABEL and first.shape[class_axis(first)] < 2:
        raise ValueError("this loss needs classes other than the label's: K is at least 2, got 1")


def check_several(form: str, labels: Any, name: str, several: Any, **logits: Any) -> list[Tensor]:
    """Does as `check_rows`, with the logits of N more networks, as `as_several` takes them. Returns these N."""
    found = as_several(name, several, next(iter(logits.values())))
    check_rows(form, labels, **logits, **{f"{name}[{i}]": tensor for i, tensor in enumerate(found)})
    return found


def check_labels(labels: Any, shape: tuple[int, ...], classes: int, logits: Tensor) -> None:
    """Labels are absent, classes, or probabilities in the shape of the logits."""
    if labels is None:
        return
    of_logits = _with_classes(shape, classes, logits)
    expected = f"int64 {list(shape)}, or probabilities {of_logits}"
    require_tensor("labels", labels, expected)
    is_classes = labels.dtype == torch.int64 and tuple(labels.shape) == shape
    if not is_classes and not (labels.is_floating_point() and list(labels.shape) == of_logits):
        raise ValueError(f"labels are {expected}, got {labels.dtype} {list(labels.shape)}")
    require_device("labels", labels, logits)


def check_teacher(
    teacher: Any, shape: tuple[int, ...], classes: int, logits: Tensor, divergence: str, known: str = TEACHERS
) -> None:
    """A teacher fits the student's rows and classes."""
    if teacher is None:
        return
    if isinstance(teacher, SparseTeacher):
        _check_sparse(teacher, shape, logits, divergence)
        return
    name = "teacher probabilities" if isinstance(teacher, TeacherProbabilities) else "teacher_logits"
    dense = teacher.probabilities if isinstance(teacher, TeacherProbabilities) else teacher
    require_tensor("teacher_logits", dense, known)
    expected = _with_classes(shape, classes, logits)
    if list(dense.shape) != expected or not is_computed_in(dense.dtype):
        raise ValueError(f"{name} are floating point {expected}, got {dense.dtype} {list(dense.shape)}")
    require_device(name, dense, logits)


def _with_classes(shape: tuple[int, ...], classes: int, logits: Tensor) -> list[int]:
    """The shape of dense rows: that of the student's logits, or of those it would have behind its linear layer."""
    return [shape[0], classes, *shape[1:]] if logits.ndim == 4 else [*shape, classes]


def _check_sparse(teacher: SparseTeacher, shape: tuple[int, ...], logits: Tensor, divergence: str) -> None:
    if not isinstance(teacher.tail, Tensor) and teacher.tail not in TAILS:
        raise ValueError(f"tail is a tensor, {' or '.join(map(repr, TAILS))}, got {teacher.tail!r}")
    if teacher.kind == "sampled" and divergence == "reverse":
        raise ValueError("KL(student ‖ teacher) is infinite for a sampled teacher, which gives nothing to most classes")
    k = teacher.indices.shape[-1] if isinstance(teacher.indices, Tensor) and teacher.indices.ndim else 0
    if k == 0:
        raise ValueError("a SparseTeacher keeps at least one class a row, got none")
    for name, tensor, expected in (
        ("indices", teacher.indices, [*shape, k]),
        ("log_probabilities", teacher.log_probabilities, [*shape, k]),
        ("tail", teacher.tail, list(shape)),
    ):
        if not isinstance(tensor, str):
            require_tensor(name, tensor, f"a tensor {expected}")
            floats = tensor.is_floating_point()
            if list(tensor.shape) != expected or floats == (name == "indices"):
                kind = "integers" if name == "indices" else "floating point"
                raise ValueError(f"{name} are {kind} {expected}, got {tensor.dtype} {list(tensor.shape)}")
            require_device(name, tensor, logits)


def check_kept(teacher: SparseTeacher, logits: Tensor, form: str) -> None:
    """What is kept of a teacher fits the student's logits, and the form takes it with its tail."""
    plain = form.removesuffix(STANDARDISED)
    if plain != form:
        raise ValueError(f"{plain}: {WHOLE_ROWS['standardised']}")
    if form not in FORMS:
        raise ValueError(f"{form}: {WHOLE_ROWS.get(form, 'it takes the logits of a whole row')}")
    _check_sparse(teacher, shape_of_labels(logits), logits, "forward")
    if teacher.kind == "sampled" and form not in OF_DRAWS:
        raise ValueError(f"{form}: it is not linear in the teacher's probabilities, which draws give on average alone")


def refuse_kept(name: str, teacher: Any) -> None:
    """Raises ValueError where a loss that wants whole rows is given some classes of them."""
    if isinstance(teacher, SparseTeacher):
        raise ValueError(f"{name}: {WHOLE_ROWS[name]}")


def check_layer(hidden: Any, weight: Any, bias: Any, teacher: Any) -> None:
    """The student's layer, and the teacher's if it is one."""
    _check_layer("", hidden, weight, bias)
    if isinstance(teacher, LinearTeacher):
        _check_layer("the teacher's ", *teacher)
        if teacher.hidden.shape[:-1] != hidden.shape[:-1] or len(teacher.weight) != len(weight):
            shapes = [list(tensor.shape) for tensor in (hidden, weight, teacher.hidden, teacher.weight)]
            raise ValueError("both layers agree in rows and classes, got hidden {} weight {} and {} {}".format(*shapes))
        require_device("the teacher's hidden", teacher.hidden, hidden)


def _check_layer(whose: str, hidden: Any, weight: Any, bias: Any) -> None:
    require_tensor(f"{whose}hidden", hidden, "floating point [N,D] or [B,T,D]")
    require_tensor(f"{whose}weight", weight, "floating point [K,D]")
    if hidden.ndim not in (2, 3) or weight.ndim != 2 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"{whose}hidden is [N,D] or [B,T,D] and weight [K,D], got {list(hidden.shape)} and {list(weight.shape)}"
        )
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            if tensor.dtype != hidden.dtype and not torch.is_autocast_enabled(hidden.device.type):
                raise ValueError(f"{whose}{name} has the type of hidden, {hidden.dtype}, got {tensor.dtype}")
            require_device(f"{whose}{name}", tensor, hidden)
    if bias is not None and list(bias.shape) != [len(weight)]:
        raise ValueError(f"{whose}bias is [{len(weight)}], got {list(bias.shape)}")


def check_chunk_rows(chunk_rows: Any) -> None:
    if chunk_rows is not None and (not isinstance(chunk_rows, int) or chunk_rows < 1):
        raise ValueError(f"chunk_rows is a whole number above 0, got {chunk_rows!r}")


def check_row_options(logits: Tensor, shape: tuple[int, ...], weights: Any, reduction: str, count: Any) -> None:
    if weights is not None:
        require_tensor("weights", weights, f"a tensor {list(shape)}")
        if tuple(weights.shape) != shape:
            raise ValueError(f"weights are a tensor {list(shape)}, got {list(weights.shape)}")
        require_device("weights", weights, logits)
        check_numbers("weights", weights)
    if count is None:
        return
    if reduction != "mean":
        raise ValueError(f"count is what a mean is divided by: reduction is 'mean', got {reduction!r}")
    check_scalar("count", count, logits, ABOVE_ZERO)


def check_standardised(possible: bool) -> None:
    if not possible:
        raise ValueError(
            "standardise and row_weights are for a teacher's logits as they are, and for KL from the teacher"
        )


def check_ce_weight(ce_weight: Any, labels: Tensor | None) -> None:
    """There is no cross-entropy without labels. A tensor is not read: it stays on its device."""
    if labels is None and not isinstance(ce_weight, Tensor) and ce_weight != 0:
        raise ValueError(f"ce_weight is 0 where there are no labels, got {ce_weight!r}")
