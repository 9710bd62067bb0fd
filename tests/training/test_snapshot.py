"""What was put aside comes back, in the same tensors, whatever happened in between."""

import pytest
import torch

from fastkd.training.snapshot import Snapshot


class Holding(torch.nn.Module):
    """Parameters, one of them frozen, BatchNorm's buffers, and a buffer that no file has."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        self.frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("bank", torch.zeros(5), persistent=False)

    def forward(self, x):
        self.bank.add_(1)
        return self.layer(x)


def everything(module, optimizer, *more):
    states = [
        value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)
    ]
    return [*module.parameters(), *module.buffers(), *states, *more]


def step(module, optimizer):
    module(torch.randn(6, 3)).square().sum().backward()
    optimizer.step()


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=torch.tensor(0.1), momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.1),
    "plain sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_everything_is_as_it_was_in_the_same_tensors(name):
    module, counter = Holding(), torch.tensor(3)
    optimizer = OPTIMIZERS[name](module.parameters())
    step(module, optimizer)
    optimizer.zero_grad()
    live = everything(module, optimizer, counter)
    expected = [tensor.detach().clone() for tensor in live]
    snapshot = Snapshot([module], optimizer, [counter])
    for _ in range(3):
        step(module, optimizer)
        counter.add_(1)
        with torch.no_grad():
            module.frozen.mul_(2)
    assert sum(torch.equal(new, old) for new, old in zip(live, expected, strict=True)) == 0
    snapshot.restore()
    after = everything(module, optimizer, counter)
    assert all(new is old for new, old in zip(after, live, strict=True))
    assert all(torch.equal(new, old) for new, old in zip(live, expected, strict=True))
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("name", ("sgd", "adam"))
def test_training_after_it_is_as_if_nothing_had_happened(name):
    """Also for an optimiser whose state came into being in between: a zeroed state is a new one."""
    results = []
    for disturbed in (False, True):
        module = Holding()
        optimizer = OPTIMIZERS[name](module.parameters())
        torch.manual_seed(7)
        if disturbed:
            snapshot = Snapshot([module], optimizer, [])
            for _ in range(2):
                step(module, optimizer)
            snapshot.restore()
        for _ in range(2):
            step(module, optimizer)
            optimizer.zero_grad()
        results.append([value.detach() for value in (*module.parameters(), *module.buffers())])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_a_learning_rate_in_a_tensor_comes_back():
    module = Holding()
    optimizer = OPTIMIZERS["sgd"](module.parameters())
    rate = optimizer.param_groups[0]["lr"]
    snapshot = Snapshot([module], optimizer, [])
    rate.fill_(9.0)
    snapshot.restore()
    assert optimizer.param_groups[0]["lr"] is rate and rate == torch.tensor(0.1)


def test_random_numbers_go_on_where_they_were():
    module = Holding()
    torch.manual_seed(3)
    snapshot = Snapshot([module], OPTIMIZERS["sgd"](module.parameters()), [])
    expected = torch.rand(4)
    torch.rand(100)
    snapshot.restore()
    assert torch.equal(torch.rand(4), expected)


def test_it_can_be_put_back_more_than_once():
    module = Holding()
    snapshot = Snapshot([module], OPTIMIZERS["plain sgd"](module.parameters()), [])
    for value in (1.0, 2.0):
        module.bank.fill_(value)
        snapshot.restore()
        assert not module.bank.any()
