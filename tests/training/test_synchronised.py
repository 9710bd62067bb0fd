"""Synchronised BatchNorm: processes with shares of a batch normalise it as one that has all of it.

Two threads stand for the processes; real ones are in test_worlds.py.
"""

import copy
import threading

import pytest
import torch
from torch import nn

from fastkd.support.errors import UserError
from fastkd.training import synchronised
from fastkd.training.synchronised import is_synchronised, synchronise, unsynchronise

CPU = torch.device("cpu")


class Meeting:
    """The collectives of two threads."""

    def __init__(self):
        self.barrier, self.brought, self.sent = threading.Barrier(2, timeout=20), {}, []
        self.own = threading.local()

    def get_world_size(self):
        return 2

    def _bring(self, tensor):
        self.sent.append(tensor.numel())
        self.brought[self.own.rank] = tensor.clone()
        self.barrier.wait()
        found = [self.brought[rank] for rank in (0, 1)]
        self.barrier.wait()
        return found

    def all_gather(self, into, tensor):
        for goal, value in zip(into, self._bring(tensor), strict=True):
            goal.copy_(value)

    def all_reduce(self, tensor):
        tensor.copy_(sum(self._bring(tensor)))


def both(work):
    """What work(rank) returns in each of two threads."""
    found = [None, None]

    def run(rank):
        synchronised.dist.own.rank = rank
        found[rank] = work(rank)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.fixture(autouse=True)
def two(monkeypatch):
    monkeypatch.setattr(synchronised, "world_size", lambda: 2)
    monkeypatch.setattr(synchronised, "dist", Meeting())


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
    found = both(lambda rank: learned(halves[rank], *shares[rank]))
    near = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(torch.cat([gradients[0] for gradients, _ in found]), of_images, **near)
    for mine, theirs, expected in zip(found[0][0][1:], found[1][0][1:], of_weights, strict=True):
        torch.testing.assert_close(mine + theirs, expected, **near)
    for mine, theirs, expected in zip(found[0][1], found[1][1], statistics, strict=True):
        assert torch.equal(mine, theirs), "all processes have the same bits"
        torch.testing.assert_close(mine, expected, **near)


def test_each_layer_sends_two_short_messages_a_step():
    halves, images = [network() for _ in range(2)], torch.randn(4, 3, 6, 6, dtype=torch.float64)
    for half in halves:
        synchronise(half, CPU)
    both(lambda rank: halves[rank](images).sum().backward())
    sent = synchronised.dist.sent
    assert sorted(sent) == sorted([2 * 5 + 1, 2 * 4 + 1, 2 * 5, 2 * 4] * 2)


def test_in_evaluation_and_alone_nothing_is_sent(monkeypatch):
    module = network()
    synchronise(module, CPU)
    images = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    module.eval()(images)
    monkeypatch.setattr(synchronised, "world_size", lambda: 1)
    plain = copy.deepcopy(module.train())
    unsynchronise(plain)
    assert torch.equal(module(images), plain(images)) and synchronised.dist.sent == []


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
        images, plain = torch.randn(4, 3, 6, 6, dtype=torch.float64), network()
        assert torch.equal(module(images), plain(images)) and torch.equal(module[1].running_var, plain[1].running_var)
    unsynchronise(module)
    assert [type(norm) for norm in norms] == [nn.BatchNorm2d, nn.BatchNorm1d] and not is_synchronised(module)


def test_a_layer_that_does_more_is_refused():
    class WithActivation(nn.BatchNorm2d):
        pass

    with pytest.raises(UserError, match="^--sync-batchnorm: 0 is a WithActivation, which is more than a BatchNorm$"):
        synchronise(nn.Sequential(WithActivation(3)), CPU)
