"""Cross-entropy, and knowledge distillation from one teacher or several."""

from collections.abc import Sequence
from typing import NamedTuple, Unpack

from torch import Tensor

from fastkd.losses.checks import check_batch, check_several, check_teacher_weights
from fastkd.losses.module import Loss, checked_numbers, takes_numbers
from fastkd.losses.pair import named
from fastkd.ops.distill_loss import Numbers, compute
from fastkd.ops.numbers import KDNumbers


class CETerms(NamedTuple):
    """Cross-entropy of one network."""

    total: Tensor
    """The one differentiable value."""
    ce: Tensor
    hits: Tensor
    """[2] int64: in how many counted rows the label is among the top 1, the top 5."""


class KDTerms(NamedTuple):
    """ce_weight · CE + kl_weight · τ² KL(teacher ‖ student)."""

    total: Tensor
    ce: Tensor
    kl: Tensor
    """τ² KL, before its weight."""
    hits: Tensor


def ce_loss(logits: Tensor, labels: Tensor, *, ignore_index: int = -100) -> CETerms:
    """Cross-entropy with hit counts, in nats, averaged over the rows whose label is not `ignore_index`.

    logits: [B,K]; labels: [B] int64.

    Raises ValueError or TypeError for logits that are not a [B,K] floating-point matrix or labels that are not [B]
    int64 beside them, and RuntimeError on the CPU for a label outside 0..K-1 (on a GPU, FASTKD_CHECK_LABELS=1 turns on
    a device assertion).
    """
    check_batch(labels, logits=logits)
    total, parts, hits = compute("ce", logits, [], labels, {}, ignore_index=ignore_index)
    return CETerms(total, parts[0], hits[0])


@takes_numbers("kd")
def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    standardise: bool = False,
    ignore_index: int = -100,
    **numbers: Unpack[KDNumbers],
) -> KDTerms:
    """Knowledge distillation (Hinton et al. 2015): ce_weight · CE + kl_weight · τ² KL(teacher ‖ student).

    student_logits, teacher_logits: [B,K]; labels: [B] int64.
    standardise: KL compares the logits of each row less their mean, divided by their deviation (divisor K − 1) plus
        1e-7 (Sun, Ren, Li, Wang, Cao: "Logit standardization in knowledge distillation", CVPR 2024, arXiv 2403.01427).

    CE is taken at temperature 1, KL at `temperature`; no gradient reaches the teacher. Errors as in `ce_loss`.
    """
    check_batch(labels, student_logits=student_logits, teacher_logits=teacher_logits)
    checked = checked_numbers("kd_loss", "kd", numbers, student_logits)
    return _kd(named("kd", standardise), student_logits, [teacher_logits], labels, checked, ignore_index)


@takes_numbers("kd")
def multi_teacher_loss(
    student_logits: Tensor,
    teacher_logits: Tensor | Sequence[Tensor],
    labels: Tensor,
    *,
    teacher_weights: Tensor | None = None,
    standardise: bool = False,
    ignore_index: int = -100,
    **numbers: Unpack[KDNumbers],
) -> KDTerms:
    """`kd_loss` from several teachers: KL is the sum over them of weight · τ² KL(teacher ‖ student).

    This is KL(mean teacher ‖ student), the mean teacher being the weighted mean of the teachers' probabilities at
    `temperature`, plus what the teachers disagree among themselves (with weights that sum to 1, their Jensen-Shannon
    divergence times τ²). That does not depend on the student: the gradient is the mean teacher's. The value is that of
    the sum, as in the code of the multi-teacher papers.

    student_logits: [B,K]; labels: [B] int64.
    teacher_logits: [M,B,K], or a sequence of M tensors [B,K]; M >= 1. No gradient reaches them.
    teacher_weights: [M], or [M,B] for weights of each sample; 1/M by default. They are used as they are, detached.
    standardise: as in `kd_loss`.

    Errors as in `ce_loss`.
    """
    teachers = check_several(labels, "teacher_logits", teacher_logits, student_logits=student_logits)
    checked = checked_numbers("multi_teacher_loss", "kd", numbers, student_logits)
    check_teacher_weights(teacher_weights, teachers)
    form = named("kd", standardise)
    return _kd(form, student_logits, teachers, labels, checked, ignore_index, teacher_weights)


class KDLoss(Loss):
    """`kd_loss` as a module. Its numbers may be set at any time."""

    form = "kd"

    def __init__(self, *, standardise: bool = False, ignore_index: int = -100, **numbers: Unpack[KDNumbers]):
        super().__init__(numbers, named("kd", standardise))
        self.ignore_index = ignore_index
        self.standardise = standardise

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> KDTerms:
        check_batch(labels, student_logits=student_logits, teacher_logits=teacher_logits)
        return _kd(self._form, student_logits, [teacher_logits], labels, self.numbers, self.ignore_index)


class MultiTeacherLoss(Loss):
    """`multi_teacher_loss` as a module. Its numbers may be set at any time."""

    form = "kd"

    def __init__(self, *, standardise: bool = False, ignore_index: int = -100, **numbers: Unpack[KDNumbers]):
        super().__init__(numbers, named("kd", standardise))
        self.ignore_index = ignore_index
        self.standardise = standardise

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor | Sequence[Tensor],
        labels: Tensor,
        teacher_weights: Tensor | None = None,
    ) -> KDTerms:
        teachers = check_several(labels, "teacher_logits", teacher_logits, student_logits=student_logits)
        check_teacher_weights(teacher_weights, teachers)
        return _kd(self._form, student_logits, teachers, labels, self.numbers, self.ignore_index, teacher_weights)


def _kd(
    form: str,
    student_BK: Tensor,
    teachers_BK: Sequence[Tensor],
    labels_B: Tensor,
    numbers: Numbers,
    ignore_index: int,
    shares: Tensor | None = None,
) -> KDTerms:
    frozen = [teacher.detach() for teacher in teachers_BK]
    total, parts, hits = compute(form, student_BK, frozen, labels_B, numbers, shares=shares, ignore_index=ignore_index)
    return KDTerms(total, parts[0], parts[1], hits[0])
