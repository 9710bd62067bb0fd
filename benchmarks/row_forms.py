"""The forms of the losses of rows as they are usually written and as ours, with weights of rows and hit counts.

`benchmarks.row_loss` times them on a CPU at the shapes of small and middling batches.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastkd.losses import JSDLoss, KDLoss, SparseTeacher, TeacherProbabilities, keep_top

TEMPERATURE, PAIR_WEIGHT, CE_WEIGHT, CAP, KEPT = 2.0, 0.9, 0.1, 5.0, 20
FORMS = ("kd", "reverse", "jsd", "capped", "soft labels", "probabilities", "lumped")
SHAPES = ((64, 10), (64, 100), (1024, 100), (1024, 1000))


class Given(NamedTuple):
    """A batch [N,K]."""

    student: Tensor
    teacher: Any
    labels: Tensor
    weights: Tensor

    def to(self, dtype: torch.dtype) -> "Given":
        """The same numbers in another type."""
        return Given(*(_as(value, dtype) for value in self))


def _as(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to(dtype) if value.is_floating_point() else value
    return type(value)(*(_as(one, dtype) for one in value))


def inputs(form: str, samples: int, classes: int, seed: int = 0) -> Given:
    generator = torch.Generator().manual_seed(seed)
    student, logits, others = (2 * torch.randn(samples, classes, generator=generator) for _ in range(3))
    teacher: Any = logits
    if form == "probabilities":
        teacher = TeacherProbabilities((logits / TEMPERATURE).softmax(1))
    if form == "lumped":
        teacher = keep_top(logits, min(KEPT, classes // 2), temperature=TEMPERATURE)
    labels = torch.randint(classes, (samples,), generator=generator)
    weights = torch.rand(samples, generator=generator)
    return Given(student.requires_grad_(), teacher, others.softmax(1) if form == "soft labels" else labels, weights)


def plain(form: str) -> Callable[[Given], Tensor]:
    def loss(given: Given) -> Tensor:
        z, target = given.student, given.labels
        _hits(z, target if target.ndim == 1 else target.argmax(1))
        if form == "capped":
            z = CAP * torch.tanh(z / CAP)
        ce = F.cross_entropy(z, target, reduction="none")
        divergence = _divergence(form, F.log_softmax(z / TEMPERATURE, 1), given.teacher)
        rows = CE_WEIGHT * ce + PAIR_WEIGHT * TEMPERATURE**2 * divergence
        return (rows * given.weights).sum() / given.weights.sum()

    return loss


def _hits(logits: Tensor, labels: Tensor) -> None:
    top5 = logits.detach().topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    top5[:, :1].any(1).sum(), top5.any(1).sum()


def _divergence(form: str, log_q: Tensor, teacher: Any) -> Tensor:
    if isinstance(teacher, TeacherProbabilities):
        return F.kl_div(log_q, teacher.probabilities, reduction="none").sum(1)
    if isinstance(teacher, SparseTeacher):
        return _lumped(log_q, teacher)
    if form not in ("reverse", "jsd"):
        return F.kl_div(log_q, F.softmax(teacher / TEMPERATURE, 1), reduction="none").sum(1)
    log_p = F.log_softmax(teacher / TEMPERATURE, 1)
    if form == "reverse":
        return _kl(log_q, log_p)
    log_m = torch.stack([log_p, log_q]).logsumexp(0) - torch.log(torch.tensor(2.0, dtype=log_q.dtype))
    return (_kl(log_p, log_m) + _kl(log_q, log_m)) / 2


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def _lumped(log_q: Tensor, teacher: SparseTeacher) -> Tensor:
    own = log_q.gather(1, teacher.indices)
    rest = torch.log1p(-own.exp().sum(1))
    assert isinstance(teacher.tail, Tensor)
    of_kept = (teacher.log_probabilities.exp() * (teacher.log_probabilities - own)).sum(1)
    return of_kept + teacher.tail.exp() * (teacher.tail - rest)


def ours(form: str) -> Callable[[Given], Tensor]:
    common: dict[str, Any] = {"temperature": TEMPERATURE, "ce_weight": CE_WEIGHT}
    loss: Any
    if form == "jsd":
        loss = JSDLoss(weight=PAIR_WEIGHT, tau_squared=True, **common)
    elif form == "capped":
        loss = KDLoss(kl_weight=PAIR_WEIGHT, softcap=CAP, **common)
    else:
        direction = "reverse" if form == "reverse" else "forward"
        loss = KDLoss(kl_weight=PAIR_WEIGHT, divergence=direction, **common)
    return lambda given: loss(given.student, given.teacher, given.labels, weights=given.weights).total
