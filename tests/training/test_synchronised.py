"""Synchronised BatchNorm: processes with shares of a batch normalise it as one that has all of it.

Two threads stand for the processes; real ones are in tests/test_worlds.py.
"""

import pytest
import torch
import torch.distributed as dist
from helpers.threads import in_threads
from torch import nn

from fastkd.support.errors import UserError
from fastkd.training.synchronised import is_synchronised, synchronise, unsynchronise

CPU = torch.device("cpu")


def network(affine=True, momentum=0.1):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(5, affine=affine, momentum=momentum)
    made = nn.Sequential(
        nn.Conv2d(3, 5, 3), norm, nn.Tanh(), nn.Flatten(), nn.LazyLinear(4), nn.BatchNorm1d(4)
    ).double()
    made(torch.zeros(2, 3, 6, 6, dtype=torch.float64))
    for module in made:
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()
            if module.affine:
                nn.init.normal_(module.weight), nn.init.normal_(module.bias)
    return made


def learned(module, images, target):
    """Two steps' gradients summed, and what they leave of the statistics."""
    images = images.clone().requires_grad_()
    for _ in range(2):
        (module(images) - target).square().sum().backward()
    return [images.grad, *(p.grad for p in module.parameters())], [b.clone() for b in module.buffers()]


@pytest.mark.parametrize("kind", ({}, {"affine": False}, {"momentum": None}), ids=str)
@pytest.mark.parametrize("first", (6, 2), ids=("halves", "uneven"))
def test_two_processes_normalise_their_shares_as_one_the_whole_batch(kind, first):
    """In float64, to 1e-10: the same sums in another order."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(12, 3, 6, 6, generator=generator, dtype=torch.float64) * 3 + 100
    target = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    whole = network(**kind)
    (of_images, *of_weights), statistics = learned(whole, images, target)
    shares = [(images[:first], target[:first]), (images[first:], target[first:])]
    halves = [network(**kind) for _ in shares]
    for half in halves:
        synchronise(half, CPU)
    found = in_threads(2, lambda rank: learned(halves[rank], *shares[rank]))
    near = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(torch.cat([gradients[0] for gradients, _ in found]), of_images, **near)
    for mine, theirs, expected in zip(found[0][0][1:], found[1][0][1:], of_weights, strict=True):
        torch.testing.assert_close(mine + theirs, expected, **near)
    for mine, theirs, expected in zip(found[0][1], found[1][1], statistics, strict=True):
        assert torch.equal(mine, theirs), "all processes have the same bits"
        torch.testing.assert_close(mine, expected, **near)


@pytest.fixture
def sent(monkeypatch):
    """The numbers in each message."""
    found = []

    def counting(send, place):
        def call(*arguments):
            found.append(arguments[place].numel())
            return send(*arguments)

        return call

    for name, place in (("all_gather", 1), ("all_reduce", 0)):
        monkeypatch.setattr(dist, name, counting(getattr(dist, name), place))
    return found


def in_two(work):
    """What work(network) leaves behind in two processes, whose networks are synchronised."""
    modules = [network() for _ in range(2)]
    for module in modules:
        synchronise(module, CPU)
    in_threads(2, lambda rank: work(modules[rank]))
    return modules


IMAGES = torch.linspace(-2, 3, 4 * 3 * 36, dtype=torch.float64).view(4, 3, 6, 6)


def test_each_layer_sends_two_short_messages_a_step(sent):
    in_two(lambda module: module(IMAGES).sum().backward())
    assert sorted(sent) == sorted([2 * 5 + 1, 2 * 4 + 1, 2 * 5, 2 * 4] * 2)


def test_in_evaluation_and_alone_nothing_is_sent(sent):
    module, _ = in_two(lambda module: module.eval()(IMAGES))
    assert torch.equal(module.train()(IMAGES), network()(IMAGES)) and sent == []


@pytest.mark.parametrize("device", ("cpu", "cuda"))
def test_layers_stay_the_objects_that_they_are_and_become_torchs_own_again(device):
    module = network()
    norms, state = [module[1], module[5]], module.state_dict()
    assert not is_synchronised(module)
    synchronise(module, torch.device(device))
    assert is_synchronised(module) and module[1] is norms[0]
    assert isinstance(module[1], nn.BatchNorm2d) and isinstance(module[5], nn.BatchNorm1d)
    assert isinstance(module[1], nn.SyncBatchNorm) == (device == "cuda")
    assert module.state_dict().keys() == state.keys()
    synchronise(module, torch.device(device))
    if device == "cuda":  # outside of a group it is a BatchNorm wherever it lies
        plain = network()
        assert torch.equal(module(IMAGES), plain(IMAGES)) and torch.equal(module[1].running_var, plain[1].running_var)
    unsynchronise(module)
    assert [type(norm) for norm in norms] == [nn.BatchNorm2d, nn.BatchNorm1d] and not is_synchronised(module)


def test_a_layer_that_does_more_is_refused():
    class WithActivation(nn.BatchNorm2d):
        pass

    with pytest.raises(UserError, match="^--sync-batchnorm: 0 is a WithActivation, which is more than a BatchNorm$"):
        synchronise(nn.Sequential(WithActivation(3)), CPU)
