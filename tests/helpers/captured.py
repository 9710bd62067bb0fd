"""A captured step beside an eager one, from equal states: rounding alone may tell them apart.

Two trainings that begin alike are not compared after many steps: what rounding makes of them doubles every few steps,
and a library may take another algorithm for a recorded product.
"""

import torch

OPTIMISER = 1e-4
"""Of the norm of a momentum or a gradient's moment: how far rounding may move it in a step."""
CHANGE = 5e-3
"""Of the norm of what a step changes in a weight: float32 holds that change to three or four digits, and Adam's first
steps have the sign of gradients that are hardly more than rounding."""


def everything(step):
    """{name: tensor} of all that a step changes, in place."""
    named = {f"stage {name}": value for name, value in (*step.stage.named_parameters(), *step.stage.named_buffers())}
    if step.average is not None:
        averaged = (*step.average.network.named_parameters(), *step.average.network.named_buffers())
        named |= {f"average {name}": value for name, value in averaged}
    parameters = [parameter for group in step.optimizer.param_groups for parameter in group["params"]]
    for place, parameter in enumerate(parameters):
        for name, value in step.optimizer.state.get(parameter, {}).items():
            named[f"optimiser {place} {name}"] = value
    counters = {"done": step.done, "epoch": step.epoch, "first bad step": step.first_bad.steps, "hits": step.meter.hits}
    return named | counters | {f"sum {name}": value for name, value in step.meter.sums.items()}


def kept(step):
    return {name: value.detach().clone() for name, value in everything(step).items()}


@torch.no_grad()
def adopt(step, state):
    for name, value in everything(step).items():
        value.copy_(state[name])


def take(step, start, steps=1):
    """The step of that number in the first epoch; several, where a replay begins there that has as many."""
    taken, epoch = 0, step.epoch_of(step.loader, 0, start)
    while taken < steps:
        taken += next(epoch)
    epoch.close()
    assert taken == steps


def assert_equal_from_equal_states(eager, other, states=(1, 4, 11)):
    """Takes one step of each from the states that `eager` has after so many steps."""
    for start in states:
        advance(eager, start)
        common = kept(eager)
        adopt(other, common)
        for step in (eager, other):
            take(step, start)
        assert_alike(kept(other), kept(eager), common)


def assert_several_are_as_good(eager, other):
    """Takes ten steps in one replay, from equal states: the loss terms are those of ten, but for what rounding does."""
    start = 10 * (int(eager.done) // 10 + 1)
    advance(eager, start)
    adopt(other, kept(eager))
    for step in (eager, other):
        step.meter.clear()
        take(step, start, 10)
        step.meter.steps, step.meter.images = 10, 10 * step.batch_size
    assert other.done == eager.done == start + 10
    found = other.meter.read().means()
    for name, value in eager.meter.read().means().items():
        assert abs(found[name] - value) <= 5e-2 * (abs(value) + 1), f"{name}: {found[name]}, expected {value}"


def advance(step, end):
    """Takes steps of the first epoch up to that one."""
    while step.done < end:
        take(step, int(step.done))


def assert_alike(found, expected, common):
    """States after one step, from the one that both came from."""
    assert found.keys() == expected.keys()
    for name, goal in expected.items():
        actual, before = found[name].double(), common[name].double()
        apart = (actual - goal.double()).norm()
        if name.startswith(("optimiser", "sum")):
            allowed = OPTIMISER * goal.double().norm() + 1e-12
        elif goal.is_floating_point():
            allowed = CHANGE * (goal.double() - before).norm() + 1e-6 * goal.double().norm()
        else:
            allowed = torch.zeros(())
        assert apart <= allowed, f"{name}: {apart:.3g} apart, {allowed:.3g} allowed"
