"""What is left alone is as if it had no gradient, whatever the optimiser keeps of it."""

import copy

import pytest
import torch

from fastkd.training.paths import Used
from fastkd.training.untouched import leaving_alone

OPTIMIZERS = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.1, weight_decay=0.01, fused=True),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_step_with_what_is_left_alone_equals_one_without_its_gradient(kind):
    torch.manual_seed(0)
    first = [torch.nn.Parameter(torch.randn(3)) for _ in range(3)]
    second = copy.deepcopy(first)
    plain, masked = OPTIMIZERS[kind](first), OPTIMIZERS[kind](second)
    for step in range(6):
        used = [True, step in (1, 4), step % 2 == 0]
        for own, other, is_used in zip(first, second, used, strict=True):
            own.grad = torch.randn(3) if is_used else None
            other.grad = own.grad.clone() if is_used else torch.zeros(3)
        plain.step()
        with leaving_alone(masked, [Used((p,), torch.tensor(u)) for p, u in zip(second, used, strict=True)]):
            masked.step()
        for own, other in zip(first, second, strict=True):
            assert torch.equal(own, other), step
            for name, value in plain.state[own].items():
                assert value is None or torch.equal(value, masked.state[other][name]), (step, name)
