"""The generalised Jensen-Shannon divergence of probabilities that have a floor, as TRL's trainers compute it.

A probability below the floor counts as the floor, in both networks, and no gradient comes from it: that of any class
where the teacher's row is whole; where some classes are kept, that of the one class that the others are. Nothing is
renormalised after that. This is plain PyTorch; without a floor it is a form of `fastkd.ops.distill_loss` and of
`fastkd.ops.row_loss`.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fastkd.ops.distill_loss.reference_pairs import mixture_divergence, pair_of
from fastkd.ops.distill_loss.reference_parts import Losses, as_tensor, log_softmax
from fastkd.ops.kept import kept_of
from fastkd.ops.numbers import NUMBERS, Scalar
from fastkd.ops.sparse import SparseTeacher


def compute(
    form: str,
    student_BK: Tensor,
    teachers: Sequence[Tensor | SparseTeacher],
    labels_B: Tensor,
    numbers: Tensor | Mapping[str, Scalar],
    *,
    floor: float,
    ignore_index: int,
) -> Losses:
    """Does as `fastkd.ops.distill_loss.compute` does for the form "jsd"; a teacher may be a `SparseTeacher`, too."""
    if isinstance(numbers, Tensor):
        numbers = {name: numbers[number.role] for name, number in NUMBERS[form].items()}
    (teacher,) = teachers
    pair = pair_of(student_BK, [student_BK], labels_B, None, False, ignore_index)
    log_p, log_q = _floored(teacher, pair.student_BK, numbers["temperature"], math.log(floor))
    divergence_B = mixture_divergence(log_p, log_q, as_tensor(numbers["beta"], pair.student_BK))
    return pair.losses(numbers["ce_weight"], (numbers["weight"], pair.mean(divergence_B)))


def _floored(
    teacher: Tensor | SparseTeacher, student_BK: Tensor, temperature: Scalar, floor: float
) -> tuple[Tensor, Tensor]:
    """The log-probabilities of both networks."""
    if isinstance(teacher, Tensor):
        both = log_softmax(teacher.detach(), temperature), log_softmax(student_BK, temperature)
        log_p, log_q = (torch.where(log > floor, log, floor) for log in both)
        return log_p, log_q
    kept = kept_of(teacher, student_BK)
    log_q = kept.of_student(kept.compared(student_BK / temperature).log_softmax(1))
    if kept.kind == "renormalised":
        return kept.of_teacher(), log_q
    log_p, log_q = (
        torch.cat([log[:, :-1], torch.where(log[:, -1:] > floor, log[:, -1:], floor)], 1)
        for log in (kept.of_teacher(), log_q)
    )
    return log_p, log_q
