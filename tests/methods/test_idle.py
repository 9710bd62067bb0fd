"""Every setting of every method changes what is learned, or its declaration says beside what it does.

A setting is looked at beside the defaults, beside every other setting at 0, off, or at another word, and beside pairs
of those. What it changes is the loss, a gradient, what begins before the student's training, or what is asked of the
run; a term that is only reported does not count. What is declared to change nothing must change nothing.
"""

import copy
import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple, get_type_hints

import pytest
import torch
from helpers.idle import others, replaced, switches, unusual
from helpers.walk import PAIRS, SETTINGS, VARIANTS, batch, build, context

from fastkd.methods import METHODS
from fastkd.methods.base import Method
from fastkd.networks.base import Output
from fastkd.support.errors import UserError
from fastkd.support.fields import idle

EPOCHS = (0, 1, 30)
FELT, ROUNDING = 2e-6, 1e-4
"""The least change that counts, and the most that another kernel for the same numbers may make."""
STARTS: dict[str, dict[str, Any]] = {
    "sskd": {"epochs": 4, "milestones": (1, 2)},
    "ft": {"epochs": 2, "weight": 1.0},
}
"""Settings to begin with, where the defaults are large, or leave a part of a method out."""


@functools.cache
def world(method: str, teachers: int) -> tuple[Any, Output, tuple[Output, ...]]:
    """(context, the student's outputs, the teachers'), some of whose rows are sure of their class and some are not."""
    torch.manual_seed(0)
    teacher, student = ("resnet14", "resnet8") if method == "fsp" else PAIRS["same depth"]
    networks = [build(name).train() for name in (student, *[teacher] * teachers)]
    images = batch().images[: METHODS[method].views.count].flatten(0, 1)
    with torch.no_grad():
        outputs = [network(images, preacts=True) for network in networks]
    generator = torch.Generator().manual_seed(1)
    scales = torch.tensor([0.5, 2.0, 200.0, 1.0])[torch.arange(len(images)) % 4, None]
    outputs = [one._replace(logits=scales * torch.randn(one.logits.shape, generator=generator)) for one in outputs]
    return context(*networks), outputs[0], tuple(outputs[1:])


def leaves_of(output: Output) -> tuple[Output, list[torch.Tensor]]:
    """The output as a network in training gives it, and all its tensors."""
    found: list[torch.Tensor] = []

    def leaf(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(leaf(one) for one in value)
        if value is None:
            return None
        found.append(value.clone().requires_grad_())
        return found[-1]

    return Output(*(leaf(value) for value in output)), found


class Learned(NamedTuple):
    """A loss, and its gradients."""

    total: torch.Tensor
    gradients: list[torch.Tensor]

    def differs(self, other: "Learned", by: float) -> bool:
        """Whether it differs by more than such a share of the largest number."""
        pairs = [(self.total, other.total), *zip(self.gradients, other.gradients, strict=True)]
        sizes = [max(_size(one), _size(two)) for one, two in pairs]
        noise = 1e-6 * max(sizes[1:], default=0.0)  # the gradient of a bias in front of a BatchNorm
        return any(_size(one - two) > by * size + noise for (one, two), size in zip(pairs, sizes, strict=True))


def _size(tensor: torch.Tensor) -> float:
    return tensor.abs().max().item() if tensor.numel() else 0.0


def learned(loss: Any, method: Method, leaves: list[torch.Tensor]) -> Learned:
    wanted = [*leaves, *(one for one in method.parameters() if one.requires_grad)]
    gated = getattr(loss, "gated", None)  # a prestage's loss has none
    total = loss.total if gated is None else loss.total + gated
    if not total.requires_grad:
        return Learned(total.detach(), [])
    found = torch.autograd.grad(total, wanted, allow_unused=True)
    pairs = zip(found, wanted, strict=True)
    return Learned(total.detach(), [torch.zeros_like(leaf) if one is None else one for one, leaf in pairs])


def trace_of(name: str, settings: Any, teachers: int) -> Iterator[Any]:
    """What a method asks of the run, and what it makes of a batch before the training and of two in each epoch."""
    given, student, taught = world(name, teachers)
    given = copy.deepcopy(given)
    torch.manual_seed(0)
    method = METHODS[name](settings, given)
    asked = method.prestage_training(settings)
    places = {id(part): place for place, part in given.student.named_modules()}
    yield (
        asked,
        method.waypoints(settings),
        method.held_out(settings),
        method.own_augmentation,
        method.teacher_norm,
        method.needs_preacts,
        method.gate,
    )
    yield [places[id(part)] for part in method.reaches(given.student)]
    yield [(key, value.shape) for key, value in method.state_dict().items()]
    if asked is not None:
        work = method.prestage(given.student)
        for part in work.trained:
            part.requires_grad_()
        output, leaves = leaves_of(student)
        before = work.loss(output if work.student else None, taught, batch())
        yield learned(before, method, leaves if work.student else [])
        torch.manual_seed(0)
        method = METHODS[name](settings, given)
    for epoch in EPOCHS:
        method.begin_epoch(epoch)
        for number in (0, 1):
            output, leaves = leaves_of(student)
            yield learned(method(output, taught, batch(number)), method, leaves)


def differ(one: Any, other: Any, by: float) -> bool:
    return one.differs(other, by) if isinstance(one, Learned) else one != other


def settings_of(method: str, together: int) -> Iterator[Any]:
    """The settings with so many switches changed."""
    kind = METHODS[method].Settings
    usual = kind(**SETTINGS.get(method, {}) | VARIANTS.get(method, {}) | STARTS.get(method, {}))
    hints = get_type_hints(kind, include_extras=True)
    known = [(name, one) for name, hint in hints.items() for one in switches(hint, getattr(usual, name))]
    for chosen in itertools.combinations(known, together):
        if len(dict(chosen)) == together and (changed := replaced(usual, **dict(chosen))) is not None:
            yield changed


def wrongly_declared(method: str, settings: Any, teachers: int) -> list[str]:
    """What the declarations of a method's settings say of these that is not so."""
    found, hints = [], get_type_hints(type(settings), include_extras=True)
    try:
        before = list(trace_of(method, settings, teachers))
    except UserError:
        return []
    for name, hint in hints.items():
        said = idle(settings, [name], teachers)
        values = others(hint, getattr(settings, name))
        allowed = [one for one in values if replaced(settings, **{name: one}) is not None]
        if values and not allowed:  # whoever gives it is told
            continue
        by = FELT if said is None else ROUNDING
        telling = next((one for one in allowed if tells(method, settings, {name: one}, teachers, before, by)), None)
        if telling is None and said is None:
            found.append(f"{name} changes nothing, and does not say so, beside {unusual(settings)}")
        if telling is not None and said is not None:
            found.append(f"{name} = {telling} changes something, and says it does not, beside {unusual(settings)}")
    return found


def tells(method: str, settings: Any, change: dict[str, Any], teachers: int, before: list[Any], by: float) -> bool:
    """Whether a change is refused by the networks, or changes what is learned."""
    try:
        after = trace_of(method, dataclasses.replace(settings, **change), teachers)
        return any(differ(*both, by) for both in zip(before, after, strict=True))
    except UserError:
        return True


def numbers_of_teachers(method: str) -> tuple[int, ...]:
    least, most = METHODS[method].teachers_needed
    return (1, 2, 3) if method.startswith("aekd") else (max(least, 1 if most is None else most),)


@pytest.mark.parametrize(
    "together", (0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow))
)
@pytest.mark.parametrize("method", METHODS)
def test_every_setting_changes_something_or_says_beside_what(method, together):
    wrong = []
    for settings in settings_of(method, together):
        for teachers in numbers_of_teachers(method):
            wrong += wrongly_declared(method, settings, teachers)
    assert not wrong, "\n".join(wrong)
