"""Builds a method of `METHODS` for the tensors of a golden case, and compares what it does with what stands there."""

import re

import torch
from torch import Tensor, nn

from fastkd.data import Batch
from fastkd.losses.module import Loss
from fastkd.methods import METHODS, Context, Method, MethodLoss
from fastkd.networks.base import Head, Network, Output
from helpers.golden import Case

NOTHING = torch.empty(0)
DTYPES = (torch.float64, torch.float32)


def output(
    *features: Tensor,
    logits: Tensor | None = None,
    stem: Tensor = NOTHING,
    embedding: Tensor = NOTHING,
    preacts: tuple[Tensor, ...] | None = None,
) -> Output:
    """As a network would return it; the last feature is the final map."""
    known = [*features, *(preacts or ()), embedding]
    if logits is None:
        logits = torch.zeros(len(known[0]), 10, dtype=known[0].dtype)
    return Output(logits, stem, features or (preacts or ()), features[-1] if features else NOTHING, embedding, preacts)


class Stub(Network):
    """The parts of a network that methods look at when they are built."""

    def __init__(self, classifier: nn.Module | None = None, norms: tuple[nn.BatchNorm2d, ...] = (), blocks: int = 3):
        super().__init__()
        self.stem, self.head, self.norms = nn.Identity(), Head(classifier or nn.Identity()), norms
        self.blocks = nn.ModuleList(nn.Identity() for _ in range(blocks))

    @property
    def preact_norms(self):
        return self.norms


def built(
    name: str, student: Output, *teachers: Output, networks: tuple[Network, ...] = (), classes: int = 10, **settings
) -> Method:
    """In training mode, of the type of the student's logits."""
    context = Context(
        student=Stub(),
        teachers=networks or tuple(Stub() for _ in teachers),
        student_shapes=student,
        teacher_shapes=teachers,
        classes=classes,
        samples=1000,
        labels=torch.arange(1000) % classes,
        batch_size=len(student.logits),
        steps_per_epoch=1,
        seed=0,
    )
    kind = METHODS[name]
    method = kind(kind.Settings(**settings), context).to(student.logits.dtype)
    for module in method.modules():
        if isinstance(module, Loss):
            _make_exact(module, student.logits.dtype)
    return method


def _make_exact(loss: Loss, dtype: torch.dtype) -> None:
    """Its float32 buffer would round a weight of 0.9, which in float64 is seen."""
    loss.numbers = loss.numbers.to(dtype)
    for name, value in loss._values.items():
        setattr(loss, name, value)


def batch(labels: Tensor) -> Batch:
    zero = torch.tensor(0)
    return Batch(NOTHING, labels, torch.arange(len(labels)), zero, zero)


def run(method: Method, student: Output, *teachers: Output, labels: Tensor | None = None) -> MethodLoss:
    labels = torch.zeros(len(student.logits), dtype=torch.int64) if labels is None else labels
    return method(student, teachers, batch(labels))


def load(case: Case, prefix: str, module: nn.Module, *renames: tuple[str, str]) -> dict[str, Tensor]:
    """Fills the module with the weights `w/<prefix>.…`, all of them, and returns them by their golden names.

    renames: pairs (pattern, replacement) from the golden path to the module's, applied in turn. A 1x1 convolution may
    be a linear layer here.
    """
    start, found = f"{case.name}/w/{prefix}.", {}
    for key in (key for key in case.arrays if key.startswith(start)):
        path = key.removeprefix(start)
        for pattern, replacement in renames:
            path = re.sub(pattern, replacement, path)
        parameter = module.get_parameter(path).requires_grad_()
        value = case[key.removeprefix(f"{case.name}/")]
        assert value.numel() == parameter.numel()
        parameter.data.copy_(value.reshape(parameter.shape))
        found[f"w/{prefix}.{key.removeprefix(start)}"] = parameter
    assert len(found) == len(list(module.parameters())), "a parameter without golden weights"
    return found


def known_gradients(case: Case, name: str) -> bool:
    """Whether there is a golden gradient of a loss: files with many classes have those of a few losses only."""
    return any(key.startswith(f"{case.name}/grad/{name}/") for key in case.arrays)


def check(
    case: Case,
    name: str,
    loss: Tensor,
    leaves: dict[str, Tensor],
    *,
    retain: bool = False,
    loss_tolerance: float | None = None,
) -> None:
    """The loss and its gradients to all leaves; a leaf without golden gradient is one that the loss does not reach.

    loss_tolerance: relative, where golden/README.md says that the reference itself errs by more than usual.

    float32 as golden/README.md suggests: losses to 1e-4, gradients to 1e-3 of their largest entry. A convolution's bias
    in front of a BatchNorm has none but rounding noise: what is 1e-6 of the largest gradient of all is nothing.
    """
    exact = loss.dtype == torch.float64
    expected = case[f"loss/{name}"]
    allowed = loss_tolerance or (1e-9 if exact else 1e-4)
    assert abs(loss.item() - expected) <= allowed * abs(expected) + 1e-12
    if not leaves:
        assert not known_gradients(case, name)
        return
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, retain_graph=retain)
    known = {key: case[f"grad/{name}/{key}"] for key in leaves if f"{case.name}/grad/{name}/{key}" in case.arrays}
    assert known, "no golden gradient"
    largest = max(value.abs().max().item() for value in known.values())
    for (key, leaf), gradient in zip(leaves.items(), found, strict=True):
        gradient = torch.zeros_like(leaf) if gradient is None else gradient
        goal = known.get(key, torch.zeros_like(leaf)).reshape(leaf.shape).double()
        tolerance = max((1e-9 if exact else 1e-3) * goal.abs().max().item(), (1e-12 if exact else 1e-6) * largest)
        torch.testing.assert_close(
            gradient.double(), goal, rtol=0, atol=tolerance, msg=lambda text, key=key: f"{key}: {text}"
        )
