"""The losses of rows, written down from the papers' formulas for autograd, and cases to hold the operation against."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastkd.losses import SparseTeacher, TeacherProbabilities, ce_loss, jsd_loss, kd_loss

KINDS = ("none", "logits", "probabilities", "renormalised", "lumped", "sampled")
DIVERGENCES = ("forward", "reverse", "jsd")


class Options(NamedTuple):
    temperature: float = 2.0
    ce_weight: float = 0.3
    pair_weight: float = 0.8
    beta: float = 0.3
    logit_scale: float = 1.0
    softcap: float | None = None
    teacher_logit_scale: float = 1.0
    teacher_softcap: float | None = None

    def numbers(self, divergence: str) -> dict[str, float]:
        """As `kd_loss` takes them, or `jsd_loss`."""
        names = self._asdict()
        weight = names.pop("pair_weight")
        beta = names.pop("beta")
        mixed = {"weight": weight, "beta": beta} if divergence == "jsd" else {"kl_weight": weight}
        return mixed | {name: value for name, value in names.items() if value is not None}


class Case(NamedTuple):
    """A batch [N,K], a teacher, labels and weights."""

    student: Tensor
    teacher: Any
    labels: Tensor | None
    weights: Tensor | None = None


def kl(p: Tensor, q: Tensor) -> Tensor:
    """Σ p log(p / q) of probabilities, 0 log 0 being 0."""
    there = p > 0
    ratio = torch.where(there, p, 1) / torch.where(there, q, 1)
    return torch.where(there, p * ratio.log(), 0).sum(-1)


def expected_rows(case: Case, divergence: str, options: Options, tau_squared: bool) -> Tensor:
    """[N]: the loss of every row before its weight, in float64, differentiable; CE alone without a teacher."""
    o = options
    z = prepared(case.student.double(), o.logit_scale, o.softcap)
    total = z.new_zeros(len(z))
    if case.labels is not None:
        log_q = z.log_softmax(1)
        if case.labels.is_floating_point():
            target = case.labels.double()
        else:
            target = torch.nn.functional.one_hot(case.labels.clamp(min=0), z.shape[1]).double()
        total = total - o.ce_weight * (target * log_q).sum(1)
    if case.teacher is None:
        return total / o.ce_weight
    p, q = pair_of(case.teacher, z, o)
    m = o.beta * p + (1 - o.beta) * q
    value = {
        "forward": lambda: kl(p, q),
        "reverse": lambda: kl(q, p),
        "jsd": lambda: o.beta * kl(p, m) + (1 - o.beta) * kl(q, m),
    }[divergence]()
    return total + o.pair_weight * (o.temperature**2 if tau_squared else 1) * value


def pair_of(teacher: Any, z: Tensor, o: Options) -> tuple[Tensor, Tensor]:
    """The two distributions that are compared."""
    q = (z / o.temperature).softmax(1)
    if isinstance(teacher, Tensor):
        return (prepared(teacher.double(), o.teacher_logit_scale, o.teacher_softcap) / o.temperature).softmax(1), q
    if isinstance(teacher, TeacherProbabilities):
        return teacher.probabilities.double(), q
    kept = torch.zeros_like(q)
    for row, (classes, values) in enumerate(zip(teacher.indices, teacher.log_probabilities, strict=True)):
        there = classes >= 0
        kept[row, classes[there].long()] = values[there].double().exp()
    inside = torch.zeros_like(q, dtype=torch.bool)
    for row, classes in enumerate(teacher.indices):
        inside[row, classes[classes >= 0].long()] = True
    within = torch.where(inside, q, 0)
    if teacher.kind == "renormalised":
        return kept / kept.sum(1, keepdim=True), within / within.sum(1, keepdim=True)
    outside = torch.where(inside, 0, q).sum(1, keepdim=True)
    if teacher.kind == "sampled":
        rest = torch.zeros_like(outside)
    elif isinstance(teacher.tail, Tensor):
        rest = teacher.tail.double().exp()[:, None]
    else:
        rest = 1 - kept.sum(1, keepdim=True)
    return torch.cat([kept, rest], 1), torch.cat([within, outside], 1)


def prepared(raw: Tensor, scale: float, cap: float | None) -> Tensor:
    return raw * scale if cap is None else cap * (raw * scale / cap).tanh()


def make(
    kind: str, samples: int, classes: int, labels: str = "classes", dtype=torch.float32, seed: int = 0, k: int = 3
):
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return (3 * torch.randn(samples, classes, generator=generator)).to(dtype)

    student, teacher = normal(), normal()
    found: Any = teacher
    log_probs = (teacher.double() / 2).log_softmax(1)
    if kind == "none":
        found = None
    elif kind == "probabilities":
        found = TeacherProbabilities(log_probs.exp().to(dtype))
    elif kind != "logits":
        top, indices = log_probs.topk(min(k, classes), 1)
        if kind == "sampled":
            top = top.log_softmax(1)
        rest = log_probs.scatter(1, indices, -torch.inf).logsumexp(1).float()
        found = SparseTeacher(indices, top.float(), rest if kind == "lumped" else kind)
    given = None
    if labels == "classes":
        given = torch.randint(classes, (samples,), generator=generator)
    elif labels == "probabilities":
        given = normal().softmax(1)
    return Case(student, found, given)


@contextmanager
def forced(implementation: str) -> Iterator[None]:
    before = os.environ.get("FASTKD_OPS")
    os.environ["FASTKD_OPS"] = f"row_loss={implementation}"
    try:
        yield
    finally:
        if before is None:
            del os.environ["FASTKD_OPS"]
        else:
            os.environ["FASTKD_OPS"] = before


def loss_of(case: Case, divergence: str, options: Options, **more):
    """The rows' losses by the public function: `total` is what `reduction` says."""
    if case.teacher is None:
        return ce_loss(case.student, case.labels, weights=case.weights, **more)
    numbers = options.numbers(divergence)
    if case.labels is None:
        numbers["ce_weight"] = 0.0
    function = jsd_loss if divergence == "jsd" else kd_loss
    more |= {"tau_squared": True} if divergence == "jsd" else {"divergence": divergence}
    return function(case.student, case.teacher, case.labels, weights=case.weights, **numbers, **more)


def as_double(case: Case) -> Case:
    """The same numbers in float64."""

    def double(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.double() if value.is_floating_point() else value
        return value if value is None or isinstance(value, str) else type(value)(*map(double, value))

    return Case(*map(double, case))


def gradient_of(case: Case, divergence: str, options: Options, scale: Tensor) -> tuple[Tensor, Tensor]:
    """(losses [N], gradient [N,K]) of Σ scale · loss."""
    leaf = case.student.detach().clone().requires_grad_()
    losses = loss_of(case._replace(student=leaf), divergence, options, reduction="none").total
    (losses * scale).sum().backward()
    return losses.detach(), leaf.grad


def exact(case: Case, divergence: str, options: Options, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The same from the formulas."""
    leaf = case.student.detach().double().requires_grad_()
    rows = expected_rows(as_double(case)._replace(student=leaf), divergence, options, True)
    weights = torch.ones_like(rows) if case.weights is None else case.weights.double()
    if case.labels is not None and not case.labels.is_floating_point():
        weights = torch.where(case.labels == -100, 0, weights)
    losses = torch.where(weights == 0, 0, weights * rows)
    (losses * scale).sum().backward()
    return losses.detach(), leaf.grad


DEFAULT = Options()


def assert_no_worse(case: Case, divergence: str, options: Options = DEFAULT, *, path: str) -> None:
    """The kernel errs at most twice as much as plain PyTorch in the same type, measured against it in float64.

    That is what `test_reference.py` holds against the formulas.
    """
    scale = torch.linspace(0.5, 1.5, len(case.student))
    with forced("reference"):
        want = gradient_of(as_double(case), divergence, options, scale.double())
        plain = gradient_of(case, divergence, options, scale)
    with forced(path):
        ours = gradient_of(case, divergence, options, scale)
    rounding = 8 * torch.finfo(torch.float32).eps
    for what, mine, theirs, right in zip(("losses", "gradient"), ours, plain, want, strict=True):
        error, allowed = (mine.double() - right).norm(), 2 * (theirs.double() - right).norm()
        size = right.norm() + (len(right) ** 0.5 if what == "losses" else 1e-2)
        assert error <= allowed + rounding * size, f"{what} err by {error:.3g}, allowed {allowed + rounding * size:.3g}"
