"""The call of the compiled kernel of a CPU, csrc/row_loss_rows.h."""

import torch
from torch import Tensor

from fastkd.ops import compiled
from fastkd.ops.row_loss.inputs import Found, Rows

_library = torch.library.Library("fastkd", "FRAGMENT")
# What the compiled library implements. It is told where to write: no allocation in C++.
_library.define(
    "_row_loss(Tensor student, Tensor? dense, Tensor? kept, Tensor? log_probs, Tensor? log_rest, Tensor? labels, "
    "Tensor? shares, Tensor weights, Tensor numbers, str teacher, str divergence, bool tau_squared, bool capped, "
    "bool teacher_capped, Tensor(a!) losses, Tensor(b!) parts, Tensor(c!) ranks, Tensor(d!) gradient) -> ()"
)
_READ = (torch.float32, torch.bfloat16, torch.float16)


def fill(rows: Rows, found: Found, gradient_BRK: Tensor | None) -> None:
    """Computes losses, parts and ranks into `found`, the gradient into its own tensor, which may be the student's."""
    teacher, labels, form = rows.teacher, rows.labels, rows.form
    compiled.load("cpu")
    torch.ops.fastkd._row_loss(
        rows.student_BRK,
        _readable(teacher.dense_BRK),
        None if teacher.kept_Nk is None else teacher.kept_Nk.to(torch.int32).contiguous(),
        _as_floats(teacher.log_probs_Nk),
        _as_floats(teacher.log_rest_N),
        None if labels.classes_N is None else labels.classes_N.contiguous(),
        _readable(labels.probabilities_BRK),
        rows.weights_N.contiguous(),
        rows.numbers,
        teacher.kind,
        form.divergence,
        form.tau_squared,
        form.capped,
        form.teacher_capped,
        found.losses_N,
        found.parts_2N,
        found.ranks_N,
        found.gradient_BRK[:0] if gradient_BRK is None else gradient_BRK,
    )


def _readable(dense_BRK: Tensor | None) -> Tensor | None:
    return dense_BRK if dense_BRK is None or dense_BRK.dtype in _READ else dense_BRK.float()


def _as_floats(numbers: Tensor | None) -> Tensor | None:
    return None if numbers is None else numbers.float().contiguous()
